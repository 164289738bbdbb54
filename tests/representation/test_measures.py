"""Comparing two nets by measures of the room similarity: one pass, intervals, nulls, reasons."""

import json

import jax
import numpy as np
import pytest
from test_compare import batches_of, compare, net_of, split

from fairkd_jax import files
from fairkd_jax.registry import UnknownName
from fairkd_jax.report import similarity
from fairkd_jax.representation import all_pairs, measure
from fairkd_jax.representation.held import shuffled, size_of_rows, size_of_sums
from fairkd_jax.representation.similarity.cka import CKA
from fairkd_jax.sharding import make_mesh, put_batch, put_replicated

FEW = ({"name": "svcca"}, {"name": "cknna", "k": 3}, {"name": "mutual_knn", "k": 3})
STREAMED = ({"name": "procrustes"},)


@pytest.fixture(scope="module")
def nets():
    return [(net_of(w), net_of(w).init(jax.random.key(w))) for w in (8, 12)]


@pytest.fixture(scope="module")
def found(nets):
    return compare(nets, batches_of(64, 64), measures=measure.build(FEW))


def test_each_measure_has_null_and_interval_for_each_pair(found):
    assert [*found["measures"]] == ["svcca", "cknna, k 3", "mutual_knn, k 3"]
    for name, one in found["measures"].items():
        assert one["same"] == 1 and not one["undefined"], name
        for kind in ("aligned", "conflicting"):
            parts = one[kind]
            assert {*parts} == {"value", "low", "high", "null"}
            assert all(v.shape == (3, 2) for v in parts.values())
            assert (parts["low"] < parts["value"]).all() and (parts["value"] < parts["high"]).all()
            assert parts["null"].mean() < parts["value"].mean()
    assert (found["aligned_low"] < found["aligned"]).all() and found["undefined"] == []
    assert not found["streamed"]


def test_eight_devices_and_other_batches_give_the_same_measures(nets, found):
    mesh = make_mesh(fsdp=2)
    placed = [(net, put_replicated(variables, mesh)) for net, variables in nets]
    batches = [{**b, "real": np.ones(16, np.float32)} for b in split(batches_of(64, 64)[0], 16)]
    eight = compare(
        placed,
        batches,
        put=lambda batch: put_batch(batch, mesh),
        measures=measure.build(FEW),
    )
    for name, one in found["measures"].items():
        for kind in ("aligned", "conflicting"):
            for part, x in one[kind].items():
                other = eight["measures"][name][kind][part]
                np.testing.assert_allclose(other, x, rtol=1e-3, atol=1e-4, err_msg=f"{name} {part}")


def test_sums_over_examples_give_what_all_examples_give(nets):
    """A ragged last batch too; the null is of other rows, and blocks are batches."""
    measures = measure.build(STREAMED)
    rows, sums = (
        compare(nets, batches_of(60, 16), measures=measures, streamed=streamed)
        for streamed in (False, True)
    )
    assert sums["streamed"] and not rows["streamed"]
    assert sums["n_aligned"] == rows["n_aligned"]
    for kind in ("aligned", "conflicting"):
        for key in (kind, f"{kind}_biased"):
            np.testing.assert_allclose(sums[key], rows[key], rtol=1e-3, atol=1e-4)
        one, other = (r["measures"]["procrustes"][kind] for r in (sums, rows))
        np.testing.assert_allclose(one["value"], other["value"], rtol=1e-3, atol=1e-4)
        assert (one["low"] < one["value"]).all() and (one["value"] < one["high"]).all()
        assert (np.abs(one["null"] - one["value"]) > 1e-3).all()


def test_what_cannot_stream_is_refused_and_what_is_smaller_is_held(nets):
    with pytest.raises(ValueError, match=r"cknna, k 3 needs all pairs"):
        compare(nets, batches_of(8, 8), measures=measure.build(FEW[1:]), streamed=True)
    with pytest.raises(ValueError, match=r"examples = 8: mutual_knn needs at least 11"):
        compare(nets, [], examples=8, measures=measure.build(({"name": "mutual_knn"},)))
    widths = [[768] * 13, [512] * 7]
    assert size_of_rows(widths, 2048) < size_of_sums(widths) < size_of_rows(widths, 10**6)


def test_rows_are_shuffled_within_their_kind():
    kind = np.array([0, 1, -1, 0, 1, 0, 1, -1])
    order = shuffled(kind, np.random.default_rng(0))
    assert sorted(order) == [*range(8)] and (kind[order] == kind).all()
    assert all((order == np.arange(8)) == (kind == -1))


def test_debiased_cka_of_unrelated_features_is_0_within_its_interval():
    random = np.random.default_rng(0)
    x, y = ({"a": random.normal(size=(64, 200)).astype(np.float32)} for _ in range(2))
    order = np.arange(64)[::-1].copy()
    found = all_pairs.of_rows(CKA(), x, y, 64, order)
    assert found.low[0, 0] < 0 < found.high[0, 0] and abs(found.value[0, 0]) < 0.1
    biased = all_pairs.of_rows(CKA(debiased=False), x, y, 64, order)
    assert biased.low[0, 0] > 0.4 and biased.null[0, 0] > 0.4  # its null tells that it is no sign


def test_the_jackknife_tells_how_the_measure_varies_over_examples():
    """Its standard error, over 40 draws of examples, is about the spread of what was found."""
    random = np.random.default_rng(0)
    values, widths = [], []
    for _ in range(40):
        x = random.normal(size=(64, 3)).astype(np.float32)
        y = (x + random.normal(size=(64, 3))).astype(np.float32)
        found = all_pairs.of_rows(CKA(), {"a": x}, {"b": y}, 64, np.arange(64)[::-1].copy())
        values.append(found.value[0, 0])
        widths.append((found.high[0, 0] - found.low[0, 0]) / (2 * 2.093))
    assert 0.7 < np.mean(widths) / np.std(values) < 1.6


def test_what_is_undefined_is_nan_with_its_reason():
    x = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    first, second = {"a": x, "still": np.ones_like(x)}, {"b": x[:, :3], "wide": np.tile(x, 4)}
    one, names = registry_measure("mean_cca"), (["a", "still"], ["b", "wide"])
    found = all_pairs.of_rows(one, first, second, 6, np.arange(6))
    varies = np.array([True, False]), np.array([True, True])
    told, reasons = all_pairs.known(one, found, 6, varies, names)
    assert np.isnan(told.value[1]).all() and np.isnan(told.value[0]).all()
    assert reasons[0] == "still of the first net does not vary over the 6 examples"
    assert "2 pairs of layers: a layer has as many directions as there are examples" in reasons[1]


def registry_measure(name):
    return next(iter(measure.build(({"name": name},)).values()))


def test_measures_are_named_by_what_is_not_usual():
    with pytest.raises(ValueError, match="'rsa' twice"):
        measure.build(({"name": "rsa"}, {"name": "rsa", "by": "spearman"}))
    with pytest.raises(UnknownName, match=r"'manhattan'.*euclidean"):
        measure.build(({"name": "rsa", "distance": "manhattan"},))
    built = measure.build(({"name": "cka"}, {"name": "cka", "debiased": False}))
    assert [*built] == ["cka", "cka, debiased False"]


def test_a_page_and_arrays_hold_what_was_found(found, tmp_path):
    result = json.loads(json.dumps(files.plain(found)))
    page = similarity.page(result, "stage a", "stage b", "split test")
    for name in ("Debiased linear CKA", "Svcca", "Cknna, k 3", "Mutual_knn, k 3"):
        assert f"<h2>{name}: stage a and stage b</h2>" in page
    assert "embed" in page and page.count("<svg") == 4
    (tmp_path / "a.npz").write_bytes(similarity.arrays(result))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as held:
        assert held["first_layers"].tolist() == found["first_layers"]
        kept = held["measures/svcca/aligned/value"]
        np.testing.assert_allclose(kept, found["measures"]["svcca"]["aligned"]["value"])
