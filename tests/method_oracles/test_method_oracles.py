"""Methods against numbers that their authors' code gave: every case found in the folder runs.

`ROOM/NAME.py` here adapts the cases of a method by its name in the oracle files: `adapt` feeds one
to our implementation and names what comes out. A new case of a known method needs no code.
"""

import importlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ORACLES
from method_oracles.cases import Case

ROOMS = ("debias", "distill")


def _adapter(room: str, method: str) -> Any:
    return importlib.import_module(f"method_oracles.{room}.{method}")


def _known(room: str) -> set[str]:
    return {path.stem for path in (pathlib.Path(__file__).parent / room).glob("*.py")}


def _meta(room: str) -> dict[str, Any]:
    path = ORACLES / f"{room}.json" if ORACLES else None
    return json.loads(path.read_text()) if path and path.is_file() else {}


FOUND = [(room, name) for room in ROOMS for name in _meta(room)]
COVERED = [(room, name) for room, name in FOUND if _meta(room)[name]["method"] in _known(room)]
UNCOVERED = sorted({_meta(r)[n]["method"] for r, n in FOUND if (r, n) not in set(COVERED)})


def _load(room: str, name: str, io: str) -> dict[str, np.ndarray]:
    with np.load(ORACLES / f"{room}.npz", allow_pickle=False) as arrays:
        keys = [k for k in arrays.files if k.startswith(f"{name}/{io}/")]
        return {k.split("/")[3]: arrays[k] for k in keys}


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(("room", "name"), COVERED or [("", "")])
def test_method_matches_its_oracle(room, name, precision):
    if not COVERED:
        pytest.skip("no folder of reference numbers: set FAIRKD_ORACLES")
    meta, expected = _meta(room)[name], _load(room, name, "out")
    inputs = _load(room, name, "in")
    adapter = _adapter(room, meta["method"])
    partly = {*getattr(adapter, "READS", ())}
    inputs |= {k: expected[k] for k in partly & expected.keys()}
    with jax.enable_x64(precision == "float64"):
        dtype = jnp.dtype(precision)
        arrays = {
            k: jnp.asarray(v, dtype if v.dtype.kind == "f" else jnp.int32)
            for k, v in inputs.items()
        }
        found = jax.jit(lambda x: adapter.adapt(Case(x, meta["hyper"], dtype)))(arrays)
        found = {k: np.asarray(v, np.float64) for k, v in found.items()}

    missing = set(meta["match"]) - found.keys() - partly
    assert not missing, f"{name}: nothing computed for {sorted(missing)}"
    tolerance = meta["tolerance"][precision]
    for key in sorted(set(meta["match"]) & found.keys()):
        accepted = [expected[key]]
        if key in meta.get("accept_also", {}):
            accepted.append(expected[meta["accept_also"][key]])
        if not any(np.allclose(found[key], x, **tolerance) for x in accepted):
            np.testing.assert_allclose(found[key], expected[key], err_msg=key, **tolerance)


def test_methods_that_are_not_covered_yet():
    if not FOUND:
        pytest.skip("no folder of reference numbers: set FAIRKD_ORACLES")
    assert COVERED
    if UNCOVERED:
        pytest.skip(f"oracles without an implementation: {', '.join(UNCOVERED)}")
