"""Shapes and types are checked on every call in tests, eight devices are pretended, data are found.

FAIRKD_ORACLES and FAIRKD_DATA name folders of reference numbers and of real data; tests that need
one skip, with the reason, where it is absent.
"""

import itertools
import os
import pathlib
import tempfile

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("fairkd_jax", "beartype.beartype")
jax.config.update("jax_num_cpu_devices", 8)
# What tests keep of data is kept from one module to the next, and no longer.
CACHE = tempfile.TemporaryDirectory(prefix="fairkd_jax_tests")
os.environ["XDG_CACHE_HOME"] = CACHE.name
# Tests compile much and compute little: this makes compiling several times cheaper.
jax.config.update("jax_disable_most_optimizations", True)

ROOT = pathlib.Path(__file__).parent.parent


def folder(variable: str, default: str) -> pathlib.Path | None:
    """The folder that an environment variable names, or the default; None where absent."""
    path = pathlib.Path(os.environ.get(variable) or ROOT / default)
    return path if path.is_dir() else None


ORACLES = folder("FAIRKD_ORACLES", "../shared/reference/oracles")
DATA = folder("FAIRKD_DATA", "../shared/data")


NEEDS_FILES = {
    "nli_files": {
        "folder": str(DATA),
        "train": "nli_mnli/train_contradicting_heuristics.tsv.gz",
    }
}


def set_spec(name: str) -> dict | None:
    """The config of a data set of ours; None where it reads files and there are none."""
    if name in NEEDS_FILES and DATA is None:
        return None
    return {"name": name, **NEEDS_FILES.get(name, {})}


TESTS = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs_of_a_module():
    """Thousands of programs in one process exhaust the memory maps that Linux allows it."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _forget_programs_of_many_tests():
    """One module may have too many: each training step takes about a thousand maps of 65530."""
    yield
    if next(TESTS) % 40 == 0:
        jax.clear_caches()


@pytest.fixture
def data_folder() -> pathlib.Path:
    """Real data sets; skips where there are none."""
    if DATA is None:
        pytest.skip("no folder of real data: set FAIRKD_DATA")
    return DATA


@pytest.fixture
def oracles() -> pathlib.Path:
    """Reference numbers; skips where there are none."""
    if ORACLES is None:
        pytest.skip("no folder of reference numbers: set FAIRKD_ORACLES")
    return ORACLES
