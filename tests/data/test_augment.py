"""Augmentations: labels are sound, shares are met, and a batch is of (seed, step) alone."""

import collections
import re

import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.config import Data, content_of
from fairkd_jax.data import mixture
from fairkd_jax.data.augment.subject_object_swap import parse
from fairkd_jax.data.augmentation import conflicts
from fairkd_jax.data.pipeline import epoch_size, eval_batches, open_data, train_batches
from fairkd_jax.data.sets.colored_digits import ColoredDigits
from fairkd_jax.data.sets.template_nli import TEMPLATES, TemplateNli
from fairkd_jax.data.source import Source
from fairkd_jax.testing.everything import Everything
from fairkd_jax.types import Inputs

pytestmark = pytest.mark.quick

PAIRS = {"name": "template_nli", "train": 400, "eval": 48}
WORDS = {"wordpiece": {"name": "wordpiece", "length": 24, "vocab_size": 400}}
DIGITS = {"name": "colored_digits", "image_size": 8}


def pairs_with(**augment) -> Data:
    return Data(set=PAIRS, views=WORDS, augment=augment)


def digits_with(**augment) -> Data:
    return Data(set=DIGITS, augment=augment)


def made(dataset, **spec):
    """(training split, mixture with one augmentation, its extra examples as a list of dicts)."""
    train = dataset.load("train")
    one = registry.build("augment", spec)
    mixed = mixture.Mixture(Source(train, {}), dataset, {"one": one})
    rows = mixed.pools["one"]
    extra = [{k: v[i] for k, v in mixed.split.columns.items()} for i in rows]
    return train, mixed, extra


def same(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict | Inputs):
            same(value, b[key])
        else:
            np.testing.assert_array_equal(value, b[key], err_msg=key)


def template_of(premise, hypothesis, label):
    """A template of the grammar that makes the pair, by its fixed words."""
    for (kind, meant), templates in TEMPLATES.items():
        for template in templates if meant == label else ():
            whole = re.escape(template).replace(r"\ =>\ ", " => ").replace(r"\ ", " ")
            regex = re.sub(r"\\\{\w\d\\\}", r"[a-z ]+?", whole)
            text = (
                f"{premise[0].lower()}{premise[1:-1]} => {hypothesis[0].lower()}{hypothesis[1:-1]}"
            )
            if re.fullmatch(regex, text):
                return kind
    return None


def test_template_pairs_are_of_the_grammar_new_and_even():
    dataset = TemplateNli(train=400, eval=240)
    train, _, extra = made(dataset, name="templates", count=240)
    names = train.info.label_names
    assert collections.Counter(x["label"] for x in extra) == {0: 120, 1: 120}
    for x in extra:
        assert template_of(x["premise"], x["hypothesis"], names[x["label"]]), x
        assert x["attribute"] == 0 and x["labelled"] == x["grouped"] == 1
    pairs = {(x["premise"], x["hypothesis"]) for x in extra}
    assert len(pairs) == 240
    for split in dataset.splits:
        columns = dataset.load(split).columns
        assert not pairs & {*zip(columns["premise"], columns["hypothesis"])}


def test_a_label_that_the_set_does_not_have_is_unknown(tmp_path):
    (tmp_path / "t.tsv").write_text(
        "premise\thypothesis\tlabel\nThe cat chased the dog.\tA dog ran.\tneutral\n"
        "The man married the woman.\tIt rained.\tcontradiction\n"
        "It rained.\tIt rained.\tentailment\n"
    )
    dataset = registry.build(
        "sets", {"name": "nli_files", "folder": str(tmp_path), "train": "t.tsv"}
    )
    for name, options in (("templates", {"count": 20}), ("subject_object_swap", {})):
        extra = made(dataset, name=name, **options)[2]
        assert {(x["label"], x["labelled"]) for x in extra} == {(0, 1.0), (0, 0.0)}
        assert {x["grouped"] for x in extra} == {1.0}  # overlap is computed
    neutral = made(dataset, name="subject_object_swap", different="neutral")[2]
    assert [(x["premise"], x["hypothesis"], x["label"], x["labelled"]) for x in neutral] == [
        ("The cat chased the dog.", "The dog was chased by the cat.", 0, 1.0),
        ("The dog was chased by the cat.", "The cat chased the dog.", 0, 1.0),
        ("The cat chased the dog.", "The dog chased the cat.", 1, 1.0),
        ("The dog was chased by the cat.", "The dog chased the cat.", 1, 1.0),
    ]


def test_swaps_are_of_sentences_of_which_the_rules_hold():
    assert parse("The old man chased the dog.") is None
    assert parse("The man married the woman.") is None  # the same of both
    assert parse("The man chased the man.") is None
    assert parse("The man saw the dog.") is None  # no participle that a rule could know
    assert parse("A man chased an owl") == ("a man", "chased", "an owl")
    dataset = TemplateNli(train=400, eval=48)
    train, _, extra = made(dataset, name="subject_object_swap")
    for x in extra:
        label = train.info.label_names[x["label"]]
        assert template_of(x["premise"], x["hypothesis"], label) or "was" in x["premise"], x


def test_pairs_whose_meaning_no_rule_knows_are_unlabelled():
    dataset = Everything()
    train, _, extra = made(dataset, name="premise_shuffle")
    for x, premise in zip(extra, train.columns["premise"]):
        assert sorted(x["premise"].split()) == sorted(premise.split())
        assert x["labelled"] == 0
    assert sum(x["premise"] != p for x, p in zip(extra, train.columns["premise"])) > 30
    train, _, extra = made(dataset, name="other_premise")
    for x, premise in zip(extra, train.columns["premise"]):
        assert x["premise"] in train.columns["premise"] and x["premise"] != premise
        assert x["labelled"] == 0
    extra = made(dataset, name="other_premise", label="non-entailment")[2]
    assert len(extra) == 20 and {x["label"] for x in extra} == {1}
    with pytest.raises(ValueError, match=r"'neutral'.*entailment, non-entailment"):
        made(dataset, name="other_premise", label="neutral")


def test_counterfactual_pairs_of_a_real_file(data_folder):
    spec = {"folder": str(data_folder), "file": "nli_cad/train.tsv.gz"}
    dataset = registry.build(
        "sets",
        {"name": "nli_files", "folder": str(data_folder)}
        | {"train": "nli_mnli/train_contradicting_heuristics.tsv.gz"},
    )
    revised = {"where": {"origin": ("revised_premise", "revised_hypothesis")}}
    _, _, extra = made(dataset, name="counterfactual_pairs", **spec, **revised)
    assert collections.Counter(x["label"] for x in extra) == {0: 2208, 1: 2224, 2: 2232}
    assert all(x["labelled"] and x["grouped"] for x in extra)
    content = content_of(Data(augment={"c": {"name": "counterfactual_pairs", **spec}}))
    assert content["augment"] == {"c": {"name": "counterfactual_pairs"}}  # places do not count


def test_a_digit_in_another_colour_is_the_same_digit():
    for options in ({"image_size": 16}, {"image_size": 8, "classes": 5}):
        dataset = ColoredDigits(**options)
        train, _, extra = made(dataset, name="attribute_swap")
        assert len(extra) == len(train)
        ours = train.columns
        for i, x in enumerate(extra):
            assert x["label"] == ours["label"][i] and x["attribute"] != ours["attribute"][i]
            assert x["digit"] == ours["digit"][i]
        swapped = np.array([x["attribute"] for x in extra])
        there = dataset.with_attribute(train, swapped)
        back = dataset.with_attribute(there, ours["attribute"])
        np.testing.assert_array_equal(back.columns["image"], ours["image"])
        np.testing.assert_array_equal(np.stack([x["image"] for x in extra]), there.columns["image"])
        assert np.any(there.columns["image"] != ours["image"], axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(there.columns["id"], ours["id"])
    assert {
        tuple(x["image"].any(axis=(0, 1))) for x in made(ColoredDigits(), name="attribute_swap")[2]
    } == {(True, False, False), (False, True, False)}


def test_a_background_is_that_of_the_other_and_so_is_the_attribute():
    dataset = Everything()
    train = dataset.load("train")
    one = registry.build("augment", {"name": "background_swap", "conflicting": 1.0})
    ids = train.columns["id"]
    numbers = np.random.default_rng(0).random((len(ids), 2))
    changed = one.change(dict(train.columns), train, lambda count: numbers[:, :count])
    rows = one.partners_of(train, lambda count: numbers[:, :count])
    assert conflicts(train)[rows].all()
    front = train.columns["mask"] > 0
    behind = train.columns["image"][rows]
    np.testing.assert_array_equal(changed["image"][front], train.columns["image"][front])
    np.testing.assert_array_equal(changed["image"][~front], behind[~front])
    np.testing.assert_array_equal(changed["attribute"], train.columns["attribute"][rows])


def test_mixed_images_have_the_labels_of_both_by_share():
    train = ColoredDigits(image_size=8).load("train")
    numbers = np.random.default_rng(0).random((len(train), 5))
    draw = lambda count: numbers[:, :count]  # noqa: E731
    own = train.columns["image"].astype(float)
    for name, options in (("mixup", {"alpha": 2.0}), ("cutmix", {})):
        one = registry.build("augment", {"name": name, **options})
        changed, rows = one.change(train.columns, train, draw), one.partners_of(train, draw)
        other, weight = own[rows], changed["label_weight"][:, None, None, None]
        np.testing.assert_array_equal(changed["partner_label"], train.columns["label"][rows])
        if name == "mixup":
            want = weight * own + (1 - weight) * other
            np.testing.assert_allclose(changed["image"], want, atol=0.51)
        else:
            taken = np.all(changed["image"] == other, axis=3) & np.any(own != other, axis=3)
            assert np.all(taken.mean(axis=(1, 2)) <= 1 - changed["label_weight"] + 1e-6)
            assert np.all((changed["image"] == own) | (changed["image"] == other))
        assert 0.6 < changed["label_weight"].mean() < 0.95


MIX = {
    "a": {"name": "templates", "count": 60, "rate": 0.25, "conflicting": 0.75},
    "b": {"name": "premise_shuffle", "rate": 0.1},
    "w": {"name": "word_dropout", "drop": 0.3, "rate": 0.5},
}


def test_a_batch_is_of_seed_and_step_and_its_shares_are_met():
    opened = open_data(pairs_with(**MIX))
    source, options = opened.drawn(), {"seed": 3, "steps": 40, "batch_size": 32}
    batches = train_batches(source, **options)
    first, last = len(source.train), source.train.columns["id"].max()
    for step in (0, 7, 33):
        batch = batches[step]
        same(batch, train_batches(source, **options)[step])
        parts = [
            train_batches(source, process_index=i, process_count=2, **options)[step]
            for i in range(2)
        ]
        for key in ("id", "label", "group", "labelled"):
            np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), batch[key])
        tokens = [p["views"]["wordpiece"]["tokens"] for p in parts]
        np.testing.assert_array_equal(np.concatenate(tokens), batch["views"]["wordpiece"]["tokens"])
        assert np.count_nonzero(batch["id"] > last) == 8 + 3
        rows = source.rows_of(batch["id"])
        np.testing.assert_array_equal(source.split.columns["id"][rows], batch["id"])
        templates = rows[np.isin(rows, source.pools["a"])]
        assert conflicts(source.split)[templates].sum() == 6 and len(templates) == 8
        np.testing.assert_array_equal(batch["labelled"] == 0, np.isin(rows, source.pools["b"]))
    other = train_batches(source, **(options | {"seed": 4}))[7]
    assert np.any(other["id"] != batches[7]["id"])
    assert epoch_size(source, "natural", 32) == round(first * 32 / 21)
    drawn = np.concatenate([batches[i]["id"] for i in range(40)])
    drawn = drawn[drawn <= last]
    assert len(np.unique(drawn[:first])) == first  # each once before one comes again
    tables = eval_batches(source, 64)
    ids = np.concatenate(
        [b["id"][b["real"] > 0] for b in map(tables.__getitem__, range(len(tables)))]
    )
    np.testing.assert_array_equal(np.sort(ids), source.split.columns["id"])


def test_what_is_not_changed_is_as_it_was_and_others_are_encoded_anew():
    plain, changed = (
        train_batches(open_data(data).drawn(), seed=1, steps=4, batch_size=16)
        for data in (pairs_with(), pairs_with(w={"name": "word_dropout", "rate": 0.5}))
    )
    differ = []
    for step in range(4):
        a, b = plain[step], changed[step]
        np.testing.assert_array_equal(a["id"], b["id"])
        tokens = [x["views"]["wordpiece"]["tokens"] for x in (a, b)]
        differ += np.any(tokens[0] != tokens[1], axis=1).tolist()
        masks = [x["views"]["wordpiece"]["mask"].sum(axis=1) for x in (a, b)]
        assert np.all(masks[1] <= masks[0])
    assert 0.1 < np.mean(differ) < 0.6
    still = train_batches(
        open_data(pairs_with(w={"name": "word_dropout"})).drawn(),
        seed=1,
        steps=4,
        batch_size=16,
        augment=False,
    )
    same(still[2], plain[2])


def test_counts_are_of_what_is_drawn():
    source = open_data(digits_with(s={"name": "attribute_swap", "rate": 0.5})).drawn()
    real = source.train.counts()
    np.testing.assert_allclose(source.counts(32), real + real[[1, 0, 3, 2]])
    unlabelled = open_data(pairs_with(p={"name": "premise_shuffle", "rate": 0.5})).drawn()
    np.testing.assert_array_equal(unlabelled.counts(32), unlabelled.train.counts())


def test_an_attribute_that_no_one_knows_hides_a_label_from_what_sees_attributes(tmp_path):
    columns = "premise\thypothesis\tlabel\tkind\n"
    row = "The cat chased the dog.\tThe dog ran.\t{}\t{}\n"
    rows = [row.format(y, a) for y in ("entailment", "non-entailment") for a in ("k", "l")] * 5
    (tmp_path / "t.tsv").write_text(columns + "".join(rows))
    data = Data(
        set={
            "name": "nli_files",
            "folder": str(tmp_path),
            "train": "t.tsv",
            "attribute": "kind",
            "label_names": ("entailment", "non-entailment"),
            "attribute_names": ("k", "l"),
            "suggests": {"k": "entailment", "l": "non-entailment"},
        },
        views={"wordpiece": {"name": "wordpiece", "length": 24, "vocab_size": 100}},
        augment={"s": {"name": "subject_object_swap"}},
    )
    for hidden, want in ((True, None), (False, [1] * 6 + [0] * 2)):
        batch = train_batches(
            open_data(data).drawn(), seed=0, steps=1, batch_size=8, hide_attributes=hidden
        )[0]
        assert want == (batch["labelled"].tolist() if "labelled" in batch else None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pairs_with(j={"name": "colour_jitter"}), r"augment.j \(colour_jitter\).*'image'.*premise"),
        (digits_with(m={"name": "background_swap"}), r"augment.m .*'mask'.*digit, image"),
        (digits_with(t={"name": "templates"}), r"augment.t .*'premise'"),
        (pairs_with(a={"name": "attribute_swap"}), r"augment.a: TemplateNli does not plant"),
        (pairs_with(a={"name": "template"}), r"unknown augment plugin 'template'. Did you mean"),
        (pairs_with(a={"rate": 0.5}), "needs a 'name'"),
        (
            pairs_with(**{k: {"name": "templates", "rate": 0.5} for k in "ab"}),
            r"rates of extra examples .* less than 1",
        ),
        (pairs_with(a={"name": "counterfactual_pairs"}), "folder = '', file = ''"),
    ],
)
def test_what_means_nothing_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        open_data(data).drawn()


def test_one_that_has_no_name_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"data.augment.name = 'templates': expected a dict"):
        mixture.build({"name": "templates", "rate": 0.5})


def test_a_share_of_what_no_one_knows_is_refused():
    data = pairs_with(p={"name": "premise_shuffle", "conflicting": 0.5})
    with pytest.raises(ValueError, match=r"augment.p: conflicting = 0.5, but .* no one"):
        train_batches(open_data(data).drawn(), seed=0, steps=1, batch_size=8)
    with pytest.raises(ValueError, match="leave none"):
        train_batches(
            open_data(pairs_with(p={"name": "templates", "count": 9, "rate": 0.9})).drawn(),
            seed=0,
            steps=1,
            batch_size=2,
        )
