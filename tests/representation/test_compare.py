"""Reading layers and comparing two nets by them, on aligned and conflicting examples apart."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fairkd_jax.models.net import Architecture, Net
from fairkd_jax.registry import UnknownName
from fairkd_jax.representation.cka import linear_cka
from fairkd_jax.representation.collect import collect, pooled, read
from fairkd_jax.representation.compare import compare_nets
from fairkd_jax.sharding import make_mesh, put_batch, put_replicated
from fairkd_jax.types import Outputs

TOKENS, VOCABULARY, CLASSES, ATTRIBUTES = 6, 30, 2, 2
ALIGNED = np.array([True, False, False, True])
TRACES = []


class Reader(nnx.Module):
    """Word vectors through dense layers; layer names that do not sort in the order of computing."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.words = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.block00 = nnx.Linear(width, width, rngs=rngs)
        self.block01 = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, inputs, tape):
        TRACES.append(tape.train)
        x = tape("embed", self.words(inputs["tokens"]))
        x = tape("block00/out", jnp.tanh(self.block00(x)))
        x = tape("block01/out", jnp.tanh(self.block01(x)))
        x = tape("features", x[:, 0])
        return Outputs(logits=self.head(x), features=x)


@dataclasses.dataclass(frozen=True)
class ReaderArchitecture(Architecture):
    view: ClassVar[str] = "wordpiece"
    presets: ClassVar[dict] = {}
    width: int = 8

    def fit(self, facts):
        return self

    def module(self, num_classes, rngs):
        return Reader(self.width, rngs)


def net_of(width: int) -> Net:
    return Net(ReaderArchitecture(width), CLASSES, "wordpiece")


def batches_of(n: int, size: int, seed: int = 0) -> list[dict]:
    """Sentences of unequal length; the last batch is padded with rows of no tokens."""
    random = np.random.default_rng(seed)
    rows = -(-n // size) * size
    mask = (np.arange(TOKENS) < random.integers(1, TOKENS + 1, (rows, 1))).astype(np.int32)
    real = (np.arange(rows) < n).astype(np.float32)
    group = random.integers(0, CLASSES * ATTRIBUTES, rows).astype(np.int32)
    columns = {
        "label": group // ATTRIBUTES,
        "attribute": group % ATTRIBUTES,
        "group": group,
        "id": np.arange(rows, dtype=np.int32) + 100,
        "real": real,
    }
    tokens = random.integers(0, VOCABULARY, (rows, TOKENS)).astype(np.int32)
    view = {"tokens": tokens * mask, "mask": mask * real[:, None].astype(np.int32)}
    return [
        {name: c[at : at + size] for name, c in columns.items()}
        | {"views": {"wordpiece": {name: c[at : at + size] for name, c in view.items()}}}
        for at in range(0, rows, size)
    ]


@pytest.fixture(scope="module")
def nets():
    """(net, variables) of two widths."""
    return [(net_of(w), net_of(w).init(jax.random.key(w))) for w in (8, 12)]


def compare(nets, batches, **options):
    (first, first_variables), (second, second_variables) = nets
    return compare_nets(
        first,
        first_variables,
        second,
        second_variables,
        batches,
        **{
            "aligned": ALIGNED,
            "first_taps": "embed|block.*/out",
            "second_taps": "block.*/out",
            "examples": 30,
        }
        | options,
    )


def test_pooling_by_kind_of_tap():
    random = np.random.default_rng(0)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    tokens = random.normal(size=(2, 4, 3)).astype(np.float32)
    want = np.stack([tokens[0, :2].mean(0), tokens[1].mean(0)])
    np.testing.assert_allclose(pooled("block00/out", tokens, mask, "mean"), want, rtol=1e-6)
    np.testing.assert_array_equal(pooled("block00/out", tokens, mask, "first"), tokens[:, 0])
    decoder = tokens[:, :1]  # other tokens than those of the mask
    np.testing.assert_allclose(pooled("dec/block00/out", decoder, mask, "mean"), decoder[:, 0])
    heads = tokens.reshape(2, 4, 3, 1).repeat(2, axis=3)
    got = pooled("block00/head_out", heads, mask, "mean")
    np.testing.assert_allclose(got, want.repeat(2, axis=1), rtol=1e-6)
    image = random.normal(size=(2, 5, 5, 3)).astype(np.float32)
    got = pooled("stem", image, None, "mean")
    np.testing.assert_allclose(got, image.mean((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(pooled("features", tokens[:, 0], mask, "mean"), tokens[:, 0])
    with pytest.raises(ValueError, match=r"'stem'.*no first token"):
        pooled("stem", image, None, "first")
    with pytest.raises(ValueError, match=r"'block00/attn_probs'.*probabilities"):
        pooled("block00/attn_probs", image, None, "mean")


def test_padded_tokens_do_not_show_even_if_they_are_nan():
    tokens = np.ones((1, 4, 3), np.float32)
    tokens[:, 2:] = np.nan
    got = pooled("embed", tokens, np.array([[1, 1, 0, 0]]), "mean")
    np.testing.assert_array_equal(got, np.ones((1, 3)))


def test_collect_gives_real_rows_in_order_and_layers_as_computed(nets):
    net, variables = nets[0]
    reader = (net, variables, "embed|.*/out|features")
    taps, rows = collect(reader, batches_of(37, 16))
    assert [*taps] == ["embed", "block00/out", "block01/out", "features"]
    np.testing.assert_array_equal(rows["id"], np.arange(100, 137))
    assert all(x.shape == (37, 8) and x.dtype == np.float32 for x in taps.values())
    again, _ = collect(reader, batches_of(37, 37))
    words = variables["params"]["words"]["embedding"]
    batch = batches_of(37, 37)[0]["views"]["wordpiece"]
    want = (words[batch["tokens"]] * batch["mask"][:, :, None]).sum(1)
    want = want / batch["mask"].sum(1, keepdims=True)
    np.testing.assert_allclose(again["embed"], want, rtol=1e-5)


def test_reading_is_traced_once_for_a_net():
    net = net_of(9)
    TRACES.clear()
    for seed in range(3):
        collect((net, net.init(jax.random.key(seed)), ".*/out"), batches_of(20, 8, seed))
    assert TRACES == [False]


def test_unknown_taps_and_poolings_are_named(nets):
    net, variables = nets[0]
    with pytest.raises(UnknownName, match=r"block9.*block00/out"):
        next(read([(net, variables, "block9.*")], batches_of(8, 8)))
    with pytest.raises(UnknownName, match=r"'max'.*first, mean"):
        next(read([(net, variables, ".*/out")], batches_of(8, 8), pool="max"))


def test_a_net_is_like_itself(nets):
    taps = {"first_taps": "block.*/out", "second_taps": "block.*/out"}
    found = compare([nets[0]] * 2, batches_of(120, 16), **taps)
    for kind in ("aligned", "conflicting"):
        for name in (kind, f"{kind}_biased"):
            np.testing.assert_allclose(np.diag(found[name]), 1, rtol=1e-5, err_msg=name)
        assert np.abs(found[f"null_{kind}"]).max() < 0.25  # 30 rows of 8 columns: noise


def test_cka_of_the_examples_of_each_kind(nets):
    batches = batches_of(120, 16)
    found = compare(nets, batches)
    assert found["first_layers"] == ["embed", "block00/out", "block01/out"]
    assert found["second_layers"] == ["block00/out", "block01/out"]
    (first, rows), (second, _) = (collect((*net, ".*/out|embed"), batches) for net in nets)
    for kind, wanted in (("aligned", True), ("conflicting", False)):
        at = np.flatnonzero(ALIGNED[rows["group"]] == wanted)[:30]
        np.testing.assert_array_equal(found[f"ids_{kind}"], rows["id"][at])
        assert found[f"n_{kind}"] == 30 and found[kind].shape == (3, 2)
        for debiased, key in ((True, kind), (False, f"{kind}_biased")):
            want = linear_cka(first["embed"][at], second["block01/out"][at], debiased=debiased)
            np.testing.assert_allclose(found[key][0, 1], want, rtol=1e-4)
        assert np.abs(found[f"null_{kind}"]).max() < np.abs(found[kind]).min()


def test_no_batch_is_read_after_the_last_example_needed(nets):
    taken = []
    batches = (taken.append(0) or batch for batch in batches_of(400, 16))
    found = compare(nets, batches, examples=10)
    assert found["n_aligned"] == found["n_conflicting"] == 10
    assert len(taken) < 6


def test_eight_devices_and_other_batches_give_the_same(nets):
    mesh = make_mesh(fsdp=2)
    placed = [(net, put_replicated(variables, mesh)) for net, variables in nets]
    one = compare(nets, batches_of(64, 64))
    batches = [{**b, "real": np.ones(16, np.float32)} for b in split(batches_of(64, 64)[0], 16)]
    eight = compare(placed, batches, put=lambda batch: put_batch(batch, mesh))
    for name, x in one.items():
        if isinstance(x, np.ndarray):
            np.testing.assert_allclose(eight[name], x, rtol=1e-4, atol=1e-5, err_msg=name)


def split(batch: dict, size: int) -> list[dict]:
    parts = len(batch["id"]) // size
    return [
        jax.tree.map(lambda x, at=at: x[at * size : (at + 1) * size], batch) for at in range(parts)
    ]


def test_a_kind_without_examples_is_nan(nets):
    found = compare(nets, batches_of(40, 16), aligned=np.ones(4, bool))
    assert found["n_conflicting"] == 0 and np.isnan(found["conflicting"]).all()
    assert found["n_aligned"] == 30 and np.isfinite(found["aligned"]).all()


def test_too_few_examples_asked_for(nets):
    with pytest.raises(ValueError, match=r"examples = 3"):
        compare(nets, batches_of(8, 8), examples=3)
