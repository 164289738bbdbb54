"""`import fairkd_jax as fk` gives what notebooks use; files of the project tell one version."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

import fairkd_jax as fk

pytestmark = pytest.mark.quick


def test_every_public_name_is_there_and_a_miss_lists_them():
    for name in fk.__all__:
        assert getattr(fk, name) is not None and name in dir(fk)
    with pytest.raises(AttributeError, match=r"no .Stuty.; there are __v.*, Compare, .*Study"):
        fk.Stuty  # noqa: B018


def test_importing_it_starts_no_jax():
    code = (
        "import sys, fairkd_jax as fk; fk.__version__; assert not {'jax', 'flax'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_files_of_the_project_tell_one_version():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert cited == newest == fk.__version__
