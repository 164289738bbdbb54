"""Probes: as scikit-learn fits, what is planted in features, controls, what changes nothing."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from fairkd_jax.models.net import Architecture, Net
from fairkd_jax.registry import UnknownName
from fairkd_jax.representation import probes
from fairkd_jax.sharding import make_mesh, put_batch, put_replicated
from fairkd_jax.types import Outputs

ALIGNED = np.array([[True, False], [False, True]])
WIDTH = 6


class Passing(nnx.Module):
    """Passes its pixels on; then, beside them, only those that hold the label."""

    def __init__(self, rngs: nnx.Rngs):
        self.head = nnx.Linear(WIDTH, 2, rngs=rngs)

    def __call__(self, inputs, tape):
        x = tape("block00/out", inputs["pixels"].reshape(len(inputs["pixels"]), WIDTH))
        tape("block01/out", x.at[:, 1:].set(0))
        tape("block01/attn_probs", jnp.ones((len(x), 1, 1, 1)))
        return Outputs(logits=self.head(x), features=x)


@dataclasses.dataclass(frozen=True)
class PassingArchitecture(Architecture):
    view: ClassVar[str] = "image"
    presets: ClassVar[dict] = {}

    def fit(self, facts):
        return self

    def module(self, num_classes, rngs):
        return Passing(rngs)


def batches(n: int, size: int, groups: int = 4) -> list[dict]:
    """Pixel 0 holds the label, pixel 1 the attribute, others nothing; noise on all."""
    random = np.random.default_rng(0)
    group = random.integers(0, groups, n).astype(np.int32)
    x = random.normal(size=(n, WIDTH)).astype(np.float32)
    x[:, 0] += 3 * (group // 2)
    x[:, 1] += 6 * (group % 2)
    rows = -(-n // size) * size
    pixels = np.full((rows, 1, WIDTH, 1), np.nan, np.float32)
    pixels[:n, 0, :, 0] = x
    columns = {"group": np.resize(group, rows), "id": np.arange(rows, dtype=np.int32)}
    columns["real"] = (np.arange(rows) < n).astype(np.float32)
    return [
        {k: v[i : i + size] for k, v in columns.items()}
        | {"views": {"image": {"pixels": pixels[i : i + size]}}}
        for i in range(0, rows, size)
    ]


NET = Net(PassingArchitecture(), 2, "image")


def probe(given, taps=".*/out", variables=None, **options):
    variables = variables or NET.init(jax.random.key(0))
    told = {"aligned": ALIGNED, "examples": 100} | options
    return probes.probe((NET, variables, taps), given, **told)


@pytest.fixture(scope="module")
def found():
    return probe(batches(300, 300))


def test_what_is_planted_is_read_and_what_is_gone_is_not(found):
    assert found["layers"] == ["block00/out", "block01/out"]
    assert found["n_aligned"] == found["n_conflicting"] == 100
    label, attribute = found["label"], found["attribute"]
    assert label["chance"] == attribute["chance"] == 0.5
    # two normal distributions 3 and 6 apart: half the distance beyond the middle
    np.testing.assert_allclose(label["accuracy"]["value"], 0.933, atol=0.04)
    assert attribute["accuracy"]["value"][0] > 0.97
    assert attribute["accuracy"]["low"][1] < 0.5 + 0.07
    for told in (label, attribute):
        gained = told["accuracy"]["value"] - told["control"]["value"]
        np.testing.assert_allclose(told["selectivity"]["value"], gained)
        assert (told["selectivity"]["low"] < gained).all() and told["undefined"] == ""
        assert told["by_other"] < 0.56  # as many of each kind: neither tells of the other


def test_as_scikit_learn_fits():
    random = np.random.default_rng(1)
    x = random.normal(size=(1, 90, 4)).astype(np.float32)
    y = np.argmax(x[0, :, :3] + random.normal(size=(90, 3)), axis=1)
    y[:20] = 0
    fold = np.arange(90) % 3
    ours = probes.predictions(x, y[None], fold, classes=3, folds=3)[0, 0]
    theirs = np.zeros(90, int)
    for k in range(3):
        model = LogisticRegression(class_weight="balanced", tol=1e-8)
        theirs[fold == k] = model.fit(x[0, fold != k], y[fold != k]).predict(x[0, fold == k])
    assert np.count_nonzero(ours != theirs) <= 1 < len({*theirs.tolist()})
    scores = [balanced_accuracy_score(y, guess) for guess in (ours, theirs)]
    np.testing.assert_allclose(*scores, atol=0.02)


def test_other_batches_padding_and_devices_change_nothing(found):
    mesh = make_mesh()
    variables = put_replicated(NET.init(jax.random.key(0)), mesh)
    put = {"put": lambda batch: put_batch(batch, mesh), "variables": variables}
    with jax.transfer_guard("disallow"):
        other = probe(batches(300, 64), **put)
    for task in ("label", "attribute"):
        for name in probes.TOLD:
            for part, got in other[task][name].items():
                np.testing.assert_allclose(got, found[task][name][part], atol=1e-6, err_msg=name)


def test_a_control_task_has_a_class_for_each_type_and_reads_the_input_alone():
    inputs = {"tokens": np.random.default_rng(0).integers(0, 50, (64, 7)), "mask": np.ones((64, 7))}
    inputs["mask"][:, 5:] = 0
    votes = np.asarray(probes.votes_of(inputs, 3))
    longer = {k: np.pad(v, ((0, 0), (0, 2))) for k, v in inputs.items()}
    np.testing.assert_allclose(probes.votes_of(longer, 3), votes, rtol=1e-5, atol=1e-5)
    swapped = inputs | {"tokens": inputs["tokens"][:, [1, 0, 2, 3, 4, 5, 6]]}
    np.testing.assert_allclose(probes.votes_of(swapped, 3), votes, rtol=1e-5, atol=1e-5)
    assert np.abs(probes.votes_of(inputs, 4) - votes).max() > 1
    types = probes._types(votes)
    assert types.min() >= 0 and types.max() < 64 and len({*types.tolist()}) > 20
    for bit in range(probes.BITS):
        assert np.count_nonzero(types >> bit & 1) == 32


def test_folds_are_spread_over_groups():
    group = np.repeat([0, 1, 2], [50, 7, 20])
    fold = probes._folds(group, 5, np.random.default_rng(0))
    for g in range(3):
        sizes = np.bincount(fold[group == g], minlength=5)
        assert sizes.max() - sizes.min() <= 1


def test_what_one_knows_of_the_attribute_by_the_label():
    own, other = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1, 1, 1])
    assert probes._by_other(own, other) == (0.75 + 1) / 2
    assert probes._by_other(own, own) == 1 and probes._by_other(own, 0 * own) == 0.5


def test_undefined_is_nan_with_its_reason():
    found = probe(batches(60, 60, groups=2))  # label 0 alone
    assert np.isnan(found["label"]["accuracy"]["value"]).all()
    assert "1 of the classes have an example for each of 5 folds" in found["label"]["undefined"]
    assert found["attribute"]["undefined"] == ""
    same = batches(60, 60)
    same[0]["views"]["image"]["pixels"][:] = 1.0
    found = probe(same)
    assert "cells of one class" in found["label"]["undefined"]
    assert np.isnan(found["label"]["selectivity"]["value"]).all()
    assert np.isfinite(found["label"]["accuracy"]["value"]).all()


def test_what_cannot_be_probed_is_refused():
    with pytest.raises(ValueError, match=r"folds = 1.*from 2 to examples = 100"):
        probe(batches(8, 8), folds=1)
    with pytest.raises(UnknownName, match=r"block9.*block00/out"):
        probe(batches(8, 8), "block9.*")
    with pytest.raises(ValueError, match=r"'block01/attn_probs'.*no features"):
        probe(batches(8, 8), ".*")
