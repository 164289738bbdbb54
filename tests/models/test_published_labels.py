"""Labels of a published head: named in one way or another, renamed, contradictory, or unnamed."""

import json

import numpy as np
import pytest

from fairkd_jax.models import pretrained, weights
from tests.models.test_pretrained import TASK, published, small


def head_of(tmp_path, config, label_map=None):
    """The bias of the head that is taken, and that in the file."""
    tensors, net = published("bert", tmp_path), small("bert")
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = (net.variable_shapes(), "take", TASK, label_map or {})
    loaded = pretrained.load(net, tmp_path, *arguments)
    return loaded["params"]["head"]["bias"], tensors["classifier.bias"]


SHUFFLED = ("neutral", "contradiction", "Entailment")


@pytest.mark.parametrize(
    "config",
    [
        {"label_names": SHUFFLED},
        {"label_names": {"2": "entailment", "0": "neutral", "1": "contradiction"}},
        {"pretrained_cfg": {"label_names": SHUFFLED}},
        {"label_names": SHUFFLED, "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}},
    ],
)
def test_rows_are_named_as_timm_names_them(config, tmp_path, caplog):
    ours, theirs = head_of(tmp_path, config)
    np.testing.assert_array_equal(ours, theirs[[2, 0, 1]])
    assert "head reordered from ['neutral', 'contradiction'" in caplog.text


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"label2id": {"neutral": 0, "entailment": 1, "contradiction": 2}}, "label2id says"),
        ({"label_names": SHUFFLED}, r"label_names says \['neutral', 'contradiction'"),
    ],
)
def test_names_that_contradict_each_other_are_refused(entry, told, tmp_path):
    names = {"id2label": dict(zip("012", TASK))}
    with pytest.raises(ValueError, match=rf"id2label says \['entailment', .*{told}"):
        head_of(tmp_path, names | entry)
    head_of(tmp_path, names | {"label2id": {n.upper(): i for i, n in enumerate(TASK)}})


def test_label_map_says_what_the_names_in_the_weights_mean(tmp_path, caplog):
    config = {"id2label": {"0": "no", "1": "Neutral", "2": "yes"}}
    meaning = {"yes": "entailment", "NO": "contradiction"}
    ours, theirs = head_of(tmp_path, config, meaning)
    np.testing.assert_array_equal(ours, theirs[[2, 1, 0]])
    with pytest.raises(ValueError, match=r"label_map = \{'no': one of the task.*head=\"fresh\""):
        head_of(tmp_path, config)
    with pytest.raises(ValueError, match=r"the head tells \['no'.*label_map = \{'yes': "):
        head_of(tmp_path, config, {"no": "contradiction"})


@pytest.mark.parametrize("config", [{}, {"id2label": {str(i): f"LABEL_{i}" for i in range(3)}}])
def test_label_map_names_what_has_no_name(config, tmp_path, caplog):
    head_of(tmp_path, config)
    assert "where they are not, say label_map = {'LABEL_0': 'contradiction', ...}" in caplog.text
    meaning = {"LABEL_0": TASK[2], "LABEL_1": TASK[1], "LABEL_2": TASK[0]}
    ours, theirs = head_of(tmp_path, config, meaning)
    np.testing.assert_array_equal(ours, theirs[::-1])


def test_unknown_names_in_label_map_are_told_with_choices(tmp_path):
    config = {"id2label": {"0": "no", "1": "neutral", "2": "yes"}}
    with pytest.raises(ValueError) as error:
        head_of(tmp_path, config, {"yess": "entailment", "no": "contradicts"})
    for told in (
        "label_map: unknown label of the weights: 'yess'. Did you mean 'yes'? Choices: neutral, no",
        "label_map: unknown label of the task: 'contradicts'. Did you mean 'contradiction'?",
    ):
        assert told in str(error.value)


def test_label_map_goes_with_a_head_that_is_taken(tmp_path):
    spec = {"name": "bert", "pretrained": "x", "label_map": {"yes": "entailment"}}
    rest, start = weights.split(spec)
    assert rest == {"name": "bert"} and start.label_map == {"yes": "entailment"}
    with pytest.raises(ValueError, match=r"label_map = .*but head = 'fresh' does not take it"):
        weights.split(spec | {"head": "fresh"})
    assert weights.split(spec | {"label_map": {0: "yes"}})[1].label_map == {"0": "yes"}
    with pytest.raises(ValueError, match=r"'bert': label_map = .* no 'pretrained'"):
        weights.split(spec | {"pretrained": None})
    published("t5_tied", tmp_path)
    with pytest.raises(ValueError, match="label_map: no head with labels is taken"):
        pretrained.check(small("t5_tied"), tmp_path, "take", TASK, {"yes": "entailment"})
