"""Shapes and types are checked on every call in tests, eight devices are pretended, data are found.

FAIRKD_ORACLES and FAIRKD_DATA name folders of reference numbers and of real data; tests that need
one skip, with the reason, where it is absent.
"""

import functools
import importlib
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
# Launchers that tests start compile the same programs again and again; this process, which has
# imported JAX, keeps none.
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": f"{CACHE.name}/programs",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
# Tests compile much and compute little: this makes compiling several times cheaper.
jax.config.update("jax_disable_most_optimizations", True)

from fairkd_jax import registry  # noqa: E402, once the hook is there
from fairkd_jax.data import archives, preparing  # noqa: E402

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
    },
    "text_files": {
        "folder": str(DATA),
        "test": "wiki_toxicity/test.tsv.gz",
        "label_names": ("nontoxic", "toxic"),
        "attribute": "mentions_identity",
        "attribute_names": ("0", "1"),
        "suggests": {"0": "nontoxic", "1": "toxic"},
        "subpopulations": {"test": "was_fuzzed"},
    },
}


PLACE = tempfile.TemporaryDirectory(prefix="fairkd_sets_")  # of this process, until it ends


def set_spec(name: str) -> dict | None:
    """The config of a data set of ours; None where it reads files and there are none."""
    if name in NEEDS_FILES and DATA is None:
        return None
    if registry.plugin("sets", name).original:
        return {"name": name, "data_dir": prepared(name)}
    if name in WRITTEN:
        return {"name": name, **written(name)}
    return {"name": name, **NEEDS_FILES.get(name, {})}


WRITTEN = ("image_files",)  # sets of files of the user's: `tests/layouts/NAME.py` writes some


@functools.cache
def written(name: str) -> dict:
    """The options that `write(folder)` of that module gives."""
    folder = pathlib.Path(PLACE.name) / name
    folder.mkdir()
    return importlib.import_module(f"layouts.{name}").write(folder)


@functools.cache
def prepared(name: str) -> str:
    """Prepares a set of ours from the small files of `tests/layouts/NAME.py`; its `data_dir`.

    `write(folder)` of that module writes them, in the form in which its authors distribute the set.
    """
    source, data_dir = (pathlib.Path(PLACE.name) / name / part for part in ("source", "data"))
    source.mkdir(parents=True)
    importlib.import_module(f"layouts.{name}").write(source)
    original = registry.plugin("sets", name).original
    preparing.prepare(original, archives.Source(source), str(data_dir), part=True)
    return str(data_dir)


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
