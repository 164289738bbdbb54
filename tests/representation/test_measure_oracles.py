"""Every measure of similarity against numbers from the code of their authors and other libraries.

Each case of the folder with two inputs is run whole: rows and columns are padded, and rows masked,
so that cases share compiled programs and none of it may show. (Columns that correlate examples over
features are padded by the mean of each example.) Linear CKA is in test_similarity_oracles.py.
"""

import functools
import itertools
import json

import jax
import numpy as np
import pytest
from conftest import ORACLES

from fairkd_jax import registry
from fairkd_jax.representation.cka import Moments

CASES = sorted((ORACLES / "similarity").glob("*.json")) if ORACLES else []
ROWS = 128
ELSEWHERE = ("cka_linear", "hsic1", "cka_minibatch", "cca_coefs")  # "angle" is arccos of ours
NONE = ("rsa_tau-a",)  # of no measure here: its cost is the fourth power of the examples
BY = {"spearman": "spearman", "corr": "pearson", "cosine": "cosine", "rho-a": "rho_a"}


def asked(key: str, params: dict) -> tuple[dict, bool] | None:
    """(the config of the measure that a key is a value of, is it the cosine of ours)."""
    name, _, rest = key.partition("_")
    debiased = "debiased" in key
    if key.startswith("cka_rbf_") and "fixed" not in key:
        return {"name": "rbf_cka", "bandwidth": params["t"], "debiased": debiased}, False
    if name == "rsa" and key.startswith("rsa_euclidean"):
        return {"name": "rsa", "distance": "euclidean"}, False
    if name == "rsa":
        return {"name": "rsa", "by": BY[rest.split(".")[0]]}, False
    if name in ("mutual", "cycle", "jaccard"):
        score = {"mutual": "overlap"}.get(name, name)
        cosine = {"k": params["k"], "cosine": "cosine" in key}
        return {"name": "mutual_knn", "score": score} | cosine, False
    if name == "cknna":
        how = {"cosine": "cosine" in key, "unbiased": "unbiased" in key, "added": 1e-6}
        return {"name": "cknna", "k": params["k"]} | how, False
    if key.startswith(("procrustes_size", "procrustes_euclidean")):
        return {"name": "procrustes", "normalised": False}, False
    known = {
        "cca_mean.google": {"name": "mean_cca"},
        "cca_mean_without_constant_columns": {"name": "mean_cca"},
        "cca_mean_squared_centred": {"name": "mean_cca", "squared": True},
        "svcca_var99": {"name": "svcca"},
        "pwcca_definition": {"name": "pwcca"},
        "procrustes_nuclear": {"name": "angular"},
        "procrustes_angular.resi": {"name": "angular"},
        "procrustes_angular.netrep": {"name": "angular"},
        "procrustes_distance.resi": {"name": "procrustes"},
    }
    return (known[key], key == "procrustes_nuclear") if key in known else None


def padded(x: np.ndarray, by_mean: bool) -> np.ndarray:
    """Rows of 0, and columns that change nothing, up to a few sizes that cases share."""
    width = next(w for w in (64, 256, 512) if w >= x.shape[1])
    more = np.zeros((len(x), width - x.shape[1]), x.dtype)
    x = np.concatenate([x, more + (x.mean(axis=1, keepdims=True) if by_mean else 0)], axis=1)
    return np.pad(x, ((0, ROWS - len(x)), (0, 0)))


def every(k: int) -> tuple[tuple[dict, ...], tuple[dict, ...]]:
    """All that a case may ask for: what does not hang on k, what does."""
    names = ("mean_cca", "svcca", "pwcca", "angular", "procrustes")
    plain = [
        *({"name": name} for name in names),
        {"name": "mean_cca", "squared": True},
        {"name": "procrustes", "normalised": False},
        {"name": "rsa", "distance": "euclidean"},
        *({"name": "rsa", "by": by} for by in BY.values()),
        *(
            {"name": "rbf_cka", "bandwidth": t, "debiased": debiased}
            for t in (0.5, 1.0)
            for debiased in (False, True)
        ),
    ]
    scores = (*itertools.product(("overlap", "cycle"), (False, True)), ("jaccard", True))
    near = [
        *({"name": "mutual_knn", "score": s, "k": k, "cosine": cosine} for s, cosine in scores),
        *(
            {"name": "cknna", "k": k, "cosine": cosine, "unbiased": unbiased, "added": 1e-6}
            for cosine, unbiased in itertools.product((False, True), repeat=2)
        ),
    ]
    return tuple(plain), tuple(near)


@functools.partial(jax.jit, static_argnums=0)
def values(measures: tuple, x, y, centred_x, centred_y, mask) -> list:
    """One program for many measures; the second pair is for those that correlate over features."""
    found, sums = [], Moments.start(x, y).update(x, y, mask)
    for one in measures:
        over = getattr(one, "distance", "") == "correlation"
        a, b = (centred_x, centred_y) if over else (x, y)
        found.append([one.between(a, b, mask)])
        if one.streams:
            found[-1].append(one.of_sums(sums))
    return found


def as_key(spec: dict) -> tuple:
    return tuple(sorted(spec.items()))


@pytest.mark.slow  # ten programs of a dozen measures each, in float64
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.stem)
def test_targets(case, oracles):
    meta = json.loads(case.read_text())
    with np.load(case.with_suffix(".npz"), allow_pickle=False) as loaded:
        arrays = dict(loaded)
    if not {"in.X", "in.Y"} <= arrays.keys():
        pytest.skip("not a case of two layers")
    x, y = arrays["in.X"], arrays["in.Y"]
    wanted, left = {}, []
    for key, entry in meta["expected"].items():
        undefined = entry["role"] == "undefined" and case.stem == "all_constant"
        if entry["role"] != "target" and not undefined:
            continue
        if key.startswith((*ELSEWHERE, *NONE)):
            continue
        found = asked(key, entry.get("params") or {})
        if found:
            wanted[key] = (*found, np.nan if undefined else entry["value"], entry)
        elif not undefined:
            left.append(key)
    ours = {}
    with jax.enable_x64(x.dtype == np.float64):
        mask = (np.arange(ROWS) < len(x)).astype(x.dtype)
        pairs = [padded(z, by_mean) for by_mean in (False, True) for z in (x, y)]
        for specs in every(meta["hyper"]["k"]):
            measures = tuple(registry.build("similarity", spec) for spec in specs)
            found = jax.device_get(values(measures, *pairs, mask))
            ours |= {as_key(spec): some for spec, some in zip(specs, found)}
    for key, (spec, cosine, value, entry) in wanted.items():
        for got in ours[as_key(spec)]:
            np.testing.assert_allclose(
                np.cos(got) if cosine else got,
                value,
                rtol=entry["rtol"],
                atol=entry["atol"],
                err_msg=key,
            )
    print(f"{case.stem}: {len(wanted)} checked; not covered: {', '.join(left) or 'none'}")
    assert wanted and not [key for key in left if not key.endswith((".platonic", ".scipy"))]
