"""Divergence of attention: against SciPy's numbers, by hand, and what must change nothing."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ORACLES

from fairkd_jax.distill import at
from fairkd_jax.models.bert import Bert
from fairkd_jax.models.net import Net
from fairkd_jax.models.resnet import ResNet
from fairkd_jax.models.t5 import T5
from fairkd_jax.models.vit import ViT
from fairkd_jax.registry import UnknownName
from fairkd_jax.representation import attention
from fairkd_jax.representation.kinds import BLOCKS, Chosen, jackknife
from fairkd_jax.sharding import make_mesh, put_batch, put_replicated
from fairkd_jax.types import Inputs

ALIGNED = np.array([True, False, False, True])
CASE = ORACLES / "similarity" / "attention_divergence.json" if ORACLES else None
PROBS = ".*_probs"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_oracle(dtype):
    if CASE is None or not CASE.exists():
        pytest.skip("no folder of reference numbers: set FAIRKD_ORACLES")
    expected = json.loads(CASE.read_text())["expected"]
    with np.load(CASE.with_suffix(".npz"), allow_pickle=False) as loaded:
        arrays = {k: v.astype(dtype) if v.dtype == np.float64 else v for k, v in loaded.items()}
    with jax.enable_x64(dtype == "float64"):
        mask = arrays["in.mask"]
        sums = attention.of_maps(arrays["in.teacher"], arrays["in.student"], mask, mask)
        sums = {k: np.asarray(v, np.float64) for k, v in sums.items()}
        logits = (arrays["in.logits_a"], arrays["in.logits_b"])
        answers = jax.tree.map(np.mean, attention.of_outputs(*logits))
    found = {k: v.sum(axis=0) / sums["rows"].sum() for k, v in sums.items()}
    told = attention._summary([blocks(sums)], {}, {"aligned": 4, "conflicting": 0})
    (match,) = told["match"]
    ours = {
        "kl_teacher_student": found["kl"],
        "kl_student_teacher": found["kl_reverse"],
        "js": found["js"],
        "cosine": found["cosine"],
        "match_teacher": match[0],
        "match_student": match[1],
        "matched_js": told["aligned"]["matched"]["value"][0],
        "head_mean_js": found["mean_js"],
        "teacher_entropy": found["first_entropy"],
        "output_js": answers["js"],
        "output_kl": answers["kl"],
        "output_disagreement.resi": answers["disagreement"],
    }
    assert ours.keys() == {k for k, e in expected.items() if e["role"] == "target"}
    for key, got in ours.items():
        want = expected[key].get("value", arrays.get(f"out.{key}"))
        exact = {"rtol": expected[key]["rtol"], "atol": expected[key]["atol"]}
        rounded = {"rtol": 1e-5, "atol": 1e-6}  # of inputs and sums
        tolerance = exact if dtype == "float64" else rounded
        np.testing.assert_allclose(got, want, err_msg=key, **tolerance)


def blocks(sums: dict) -> dict:
    """Sums by example as those by block, all of the first kind, with a null of none."""
    rest = {"null_js": np.zeros_like(sums["js"]), "null_rows": 0 * sums["rows"]}
    rest["null_n"] = rest["null_rows"]
    return {
        k: np.concatenate([v, np.zeros((2 * BLOCKS - len(v), *v.shape[1:]))])
        for k, v in (sums | rest).items()
    }


def test_two_rows_by_hand():
    """One head looks at the first of two tokens, the other at both; a third token is padding."""
    first = np.zeros((1, 1, 3, 3), np.float32)
    second = np.full((1, 1, 3, 3), np.nan, np.float32)
    first[0, 0, :2, 0], second[0, 0, :2, :2] = 1, 0.5
    mask = np.array([[1, 1, 0]])
    found = attention.of_maps(first, second, mask, mask)
    js = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert found["rows"][0] == 2
    np.testing.assert_allclose(found["js"] / 2, js, rtol=1e-6)
    np.testing.assert_allclose(found["kl"] / 2, math.log(2), rtol=1e-6)
    np.testing.assert_allclose(found["cosine"] / 2, math.sqrt(0.5), rtol=1e-6)
    np.testing.assert_allclose(found["second_entropy"] / 2, math.log(2), rtol=1e-6)
    # of what is nowhere in the other, as far as float32 tells
    assert 40 < found["kl_reverse"][0, 0, 0] / 2 < 44


def test_layers_of_equal_depth_are_paired():
    many, few = ([f"block{i:02}/attn_probs" for i in range(n)] for n in (12, 4))
    pairs = [(a[5:7], b[5:7]) for a, b in attention.by_depth(many, few)]
    assert pairs == [("02", "00"), ("05", "01"), ("08", "02"), ("11", "03")]
    assert [(b, a) for a, b in attention.by_depth(few, many)] == attention.by_depth(many, few)
    assert attention.by_depth(many, many) == [*zip(many, many)]
    stacks = ["enc/block00/attn_probs", "enc/block01/attn_probs", "dec/block00/cross_probs"]
    assert attention.by_depth(stacks, stacks[1:]) == [(stacks[1], stacks[1]), (stacks[2],) * 2]
    outs = ["stage1/block1/out", "stage2/block1/out"]
    assert attention.by_depth(outs, ["block00/out"]) == [(outs[1], "block00/out")]
    assert attention.by_depth(["a"], ["b", "c"]) == []


def test_the_first_of_each_kind_go_round_the_blocks_wherever_batches_end():
    group = np.random.default_rng(0).integers(0, 4, 60)
    real = np.arange(60) % 7 > 0
    found = []
    for size in (60, 8):
        chosen = Chosen(ALIGNED, 15)
        parts = [chosen.take(group[i : i + size], real[i : i + size]) for i in range(0, 60, size)]
        found.append([np.concatenate(part) for part in zip(*parts)])
        assert chosen.full and chosen.counts == {"aligned": 15, "conflicting": 15}
    np.testing.assert_array_equal(*found)
    kind, block = found[0]
    for i in range(2):
        np.testing.assert_array_equal(block[kind == i], np.arange(15) % BLOCKS)
    assert not (kind[~real] >= 0).any()


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=(BLOCKS, 3))
    found = jackknife(lambda s: s["x"] / s["n"], {"x": values, "n": np.ones((BLOCKS, 1))}, BLOCKS)
    np.testing.assert_allclose(found.value, values.mean(0))
    np.testing.assert_allclose(found.error, values.std(0, ddof=1) / math.sqrt(BLOCKS))
    one = jackknife(lambda s: s["x"], {"x": values[:1]}, 1)
    assert np.isnan(one.error).all() and np.isfinite(one.value).all()


def bert(depth: int = 2, heads: int = 2, identity: str = "words") -> Net:
    arch = Bert(depth=depth, width=8, heads=heads, mlp_width=8, vocab_size=30, positions=8)
    return Net(arch, 2, "wordpiece", identity)


def texts(n: int, size: int, length: int = 6) -> list[dict]:
    """Sentences of 3 to 5 tokens, padded to `length`; rows beyond n are copies, not real."""
    random = np.random.default_rng(0)
    rows = -(-n // size) * size
    group, lengths = (np.resize(random.integers(*ends, n), rows) for ends in ((0, 4), (3, 6)))
    words = np.resize(random.integers(0, 30, (n, 5)), (rows, 5))
    real = np.arange(rows) < n
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    tokens = np.pad(words, ((0, 0), (0, length - 5))).astype(np.int32) * mask
    columns = {"group": group.astype(np.int32), "id": np.arange(rows, dtype=np.int32)}
    columns["real"] = real.astype(np.float32)
    view = {"tokens": tokens, "mask": mask, "segments": np.zeros_like(mask)}
    batches = []
    for at_row in range(0, rows, size):
        part = slice(at_row, at_row + size)
        inputs = Inputs({k: v[part] for k, v in view.items()}, "words")
        batches.append({k: v[part] for k, v in columns.items()} | {"views": {"wordpiece": inputs}})
    return batches


def images(n: int) -> list[dict]:
    random = np.random.default_rng(0)
    group = random.integers(0, 4, n).astype(np.int32)
    pixels = random.normal(size=(n, 8, 8, 3)).astype(np.float32)
    columns = {"group": group, "id": np.arange(n, dtype=np.int32), "real": np.ones(n, np.float32)}
    return [columns | {"views": {"image": {"pixels": pixels}}}]


def compare(nets, batches, taps=(PROBS, PROBS), **options):
    variables = options.pop("variables", ()) or tuple(
        net.init(jax.random.key(i)) for i, net in enumerate(nets)
    )
    readers = tuple(zip(nets, taps))
    told = {"aligned": ALIGNED, "examples": 12} | options
    return attention.compare_attention(readers, variables, batches, **told)


def leaves(found: dict, *leave: str) -> dict:
    """Its numbers by path, without those whose path holds one of some words."""
    paths = {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(found)}
    numbers = {k: v for k, v in paths.items() if not isinstance(v, str)}
    return {k: v for k, v in numbers.items() if not any(word in k for word in leave)}


def test_padding_batches_and_devices_change_nothing():
    nets, mesh = (bert(), bert(1, 1)), make_mesh()
    one = compare(nets, texts(40, 40))
    assert one["n_aligned"] == one["n_conflicting"] == 12 and one["n_null_aligned"] > 6
    assert one["first_layers"] == ["block01/attn_probs"] and one["measure"] == "js"
    assert one["match"][0].shape == (2, 1)
    variables = tuple(
        put_replicated(net.init(jax.random.key(i)), mesh) for i, net in enumerate(nets)
    )
    placed = {"variables": variables, "put": lambda batch: put_batch(batch, mesh)}
    with jax.transfer_guard("disallow"):
        others = compare(nets, texts(40, 16, length=8), **placed)
    want = leaves(one, "null")  # the null is of examples of one batch
    for path, got in leaves(others, "null").items():
        np.testing.assert_allclose(got, want[path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_a_net_is_as_itself_and_scrambled_heads_are_matched_back():
    net = bert(heads=4)
    variables = net.init(jax.random.key(0))
    found = compare((net, net), texts(40, 40), variables=(variables,) * 2)
    for kind in ("aligned", "conflicting"):
        assert not np.any(found[kind]["matched"]["value"])
        assert not np.any(found[kind]["output"]["js"]) and not found[kind]["output"]["disagreement"]
        assert np.min(found[kind]["null_matched"]) > 0
        np.testing.assert_allclose(np.diag(found[kind]["cosine"][0]), 1, rtol=1e-6)
    order = np.array([2, 0, 3, 1])

    def scrambled(path, x):
        """Heads of queries and keys in another order; values, and so the sum, as they were."""
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        units = (order[:, None] * 2 + np.arange(2)).reshape(-1)
        if "block00/" in name and any(part in name for part in ("/query/", "/key/", "/value/")):
            return x[..., units]
        return x[units] if "block00/attn_out/kernel" in name else x

    other = jax.tree.map_with_path(scrambled, variables)
    found = compare((net, net), texts(40, 40), variables=(variables, other))
    np.testing.assert_array_equal(found["match"][0][1], np.argsort(order))
    np.testing.assert_allclose(found["aligned"]["matched"]["value"], 0, atol=1e-6)


def test_a_kind_without_examples_is_nan_with_its_reason():
    found = compare((bert(1, 1),) * 2, texts(20, 20), aligned=np.ones(4, bool))
    assert found["undefined"] == {"conflicting": attention.NONE}
    assert np.isnan(found["conflicting"]["matched"]["value"]).all()
    assert np.isnan(found["difference"]["low"]).all()
    assert np.isfinite(found["aligned"]["matched"]["low"]).all()


def pairs(nets, batches, taps=(PROBS, PROBS)):
    return attention.layer_pairs(tuple(zip(nets, taps)), batches[0])


def vit(patch: int = 4, heads: int = 2) -> Net:
    arch = ViT(depth=2, width=8, heads=heads, mlp_width=8, patch=patch, image=(8, 8), channels=3)
    return Net(arch, 2, "image")


def test_stacks_whose_lengths_differ_are_left_out():
    def t5(**options):
        return Net(T5(depth=1, width=8, heads=2, head_width=4, vocab_size=30, **options), 2, "u")

    batch = texts(4, 4)
    batch[0]["views"]["u"] = batch[0]["views"].pop("wordpiece")
    found, left_out = pairs((t5(), t5(readout="sequence")), batch)
    assert [a for a, _ in found] == ["enc/block00/attn_probs"]
    assert len(left_out) == 2 and "dec/block00/cross_probs" in left_out[1]
    found, left_out = pairs((t5(), t5()), batch)
    assert len(found) == 3 and not left_out


def test_what_cannot_be_compared_is_refused_with_its_reason():
    batch = texts(4, 4)
    batch[0]["views"]["other"] = batch[0]["views"]["wordpiece"]
    with pytest.raises(ValueError, match=r"'wordpiece'.*'other'.*other tokens"):
        pairs((bert(), Net(bert().architecture, 2, "other")), batch)
    with pytest.raises(ValueError, match=r"attn_probs \[2, 5, 5\] and .*\[2, 17, 17\]: other pos"):
        pairs((vit(), vit(patch=2)), images(2))
    with pytest.raises(UnknownName, match=r"'block9.*block00/attn_probs"):
        pairs((vit(), vit()), images(2), ("block9.*", PROBS))
    with pytest.raises(ValueError, match=r"block00/out.*one is an attention map"):
        pairs((vit(), vit()), images(2), ("block00/attn_probs", "block00/out"))
    with pytest.raises(ValueError, match=r"no pair of layers.*features.*other positions"):
        pairs((vit(), vit()), images(2), ("features", "features"))
    with pytest.raises(ValueError, match=r"examples = 1"):
        compare((vit(), vit()), images(2), examples=1)


def test_resnets_are_paired_over_all_their_stages():
    presets = (dict(ResNet.presets[name]) | {"channels": 3} for name in ("mini", "tiny"))
    resnets = tuple(Net(ResNet(**preset), 2, "image") for preset in presets)
    found, left_out = pairs(resnets, images(2), ("stage.*/out",) * 2)
    blocks = [
        ("stage1/block2/out", "stage1/block1/out"),
        ("stage2/block2/out", "stage2/block1/out"),
    ]
    assert [*found] == blocks and not left_out


def test_vits_of_different_head_counts():
    found = compare((vit(heads=4), vit(heads=2)), images(20), examples=6)
    assert found["aligned"]["js"][0].shape == (4, 2) and found["match"][1].shape == (2, 2)
    assert found["n_null_aligned"] == found["n_aligned"] == 6


def test_nets_without_attention_are_compared_as_attention_transfer_does():
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(3, n, n, 5)).astype(np.float32) for n in (4, 2))
    found = attention.of_activity(first, second)
    pooled = first.reshape(3, 2, 2, 2, 2, 5).mean((2, 4))
    ours, theirs = (at.where_active(jnp.asarray(x)) for x in (pooled, second))
    want = np.sum((ours - theirs) ** 2, axis=1)
    np.testing.assert_allclose(found["at"][:, 0, 0], want, rtol=1e-5)
    assert not np.any(attention.of_activity(first, 3 * first)["at"] > 1e-12)
    tokens = np.where(np.arange(4)[None, :, None] < 3, random.normal(size=(2, 4, 5)), np.nan)
    mask = np.tile(np.arange(4) < 3, (2, 1))
    short = attention.of_activity(tokens[:, :3], tokens[:, :3] ** 2)["at"]
    np.testing.assert_allclose(attention.of_activity(tokens, tokens**2, mask)["at"], short)
    found = compare((vit(), vit()), images(20), (".*/out", ".*/out"), examples=6)
    assert found["measure"] == "at" and found["aligned"]["at"][1].shape == (1, 1)
    assert found["aligned"]["matched"]["value"].shape == (2,)
