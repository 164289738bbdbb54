"""Linear CKA and HSIC against numbers from the code of their authors and other libraries.

Every case of the folder with two inputs is found and run; what has no counterpart here is listed in
one line. Rows and columns of 0 are added, and the rows masked: most cases then share their compiled
programs, and none of it may show.
"""

import functools
import json
import re

import jax
import numpy as np
import pytest
from conftest import ORACLES

from fairkd_jax.representation.cka import Moments, hsic, linear_cka

CASES = sorted((ORACLES / "similarity").glob("*.json")) if ORACLES else []
UNDEFINED = re.compile(r"cka_linear(_debiased)?(_gram)?(\.anatome|\.resi)?")


def padded(x: np.ndarray, y: np.ndarray, rows: int = 64) -> tuple:
    """Both with rows and columns of 0 up to multiples, and the mask of the rows that were there."""
    n = len(x)
    x, y = (np.pad(a, ((0, -n % rows), (0, -a.shape[1] % 256))) for a in (x, y))
    return x, y, np.arange(len(x)) < n


def batches(x: np.ndarray, y: np.ndarray, size: int) -> list[tuple]:
    return [padded(x[at : at + size], y[at : at + size]) for at in range(0, len(x), size)]


def moments(x: np.ndarray, y: np.ndarray) -> Moments:
    parts = batches(x, y, 21)
    return functools.reduce(lambda m, part: m.update(*part), parts, Moments.start(*parts[0]))


def minibatch(x: np.ndarray, y: np.ndarray, size: int, weigh: bool) -> float:
    parts = [hsic([x], [y], mask) for x, y, mask in batches(x, y, size)]
    parts = [part.by_pairs() for part in parts] if weigh else parts
    return functools.reduce(lambda a, b: a + b, parts).cka()[0, 0]


def ours(key: str, entry: dict, x: np.ndarray, y: np.ndarray) -> list:
    """Our values of an expected key, one by each way of computing it; none where there is none."""
    if key.startswith("hsic1_kl_kk_ll"):
        x, y, mask = padded(x, y)
        found = hsic([x], [y], mask)
        return [np.stack([found.cross[0, 0], found.first[0], found.second[0]])]
    if key.startswith("cka_minibatch"):
        return [minibatch(x, y, entry["params"]["batch"], key.endswith(".google"))]
    if not key.startswith("cka_linear"):
        return []
    debiased = "debiased" in key
    found = [linear_cka(*padded(x, y), debiased=debiased), moments(x, y).cka(debiased=debiased)]
    return [np.arccos(np.clip(f, -1, 1)) if "angle" in key else f for f in found]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.stem)
def test_targets(case, oracles):
    meta = json.loads(case.read_text())
    with np.load(case.with_suffix(".npz"), allow_pickle=False) as loaded:
        arrays = dict(loaded)
    if not {"in.X", "in.Y"} <= arrays.keys():
        pytest.skip("not a case of two layers")
    x, y = arrays["in.X"], arrays["in.Y"]
    checked, left = [], []
    with jax.enable_x64(x.dtype == np.float64):
        for key, entry in meta["expected"].items():
            if entry["role"] == "undefined" and UNDEFINED.fullmatch(key):
                assert np.isnan(ours(key, entry, x, y)).all(), key
                checked.append(key)
            if entry["role"] != "target":
                continue
            want = entry["value"] if "value" in entry else arrays[f"out.{key}"]
            found = ours(key, entry, x, y)
            for got in found:
                tolerance = {"rtol": entry["rtol"], "atol": entry["atol"]}
                np.testing.assert_allclose(got, want, err_msg=key, **tolerance)
            (checked if found else left).append(key)
    print(f"{case.stem}: {len(checked)} checked; not covered: {', '.join(left) or 'none'}")
    assert checked


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.stem)
def test_float32_is_close(case, oracles):
    """The same inputs in float32: scale, offset and width cost less than three digits."""
    meta = json.loads(case.read_text())
    with np.load(case.with_suffix(".npz"), allow_pickle=False) as loaded:
        arrays = dict(loaded)
    linear = ("cka_linear", "cka_linear_debiased")
    wanted = [k for k in linear if meta["expected"].get(k, {}).get("role") == "target"]
    if not wanted:
        pytest.skip("no linear CKA is defined here")
    x, y = (arrays[k].astype(np.float32) for k in ("in.X", "in.Y"))
    for key in wanted:
        for got in ours(key, {}, x, y):
            np.testing.assert_allclose(got, meta["expected"][key]["value"], rtol=1e-3, atol=1e-4)
