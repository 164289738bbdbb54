"""Every notebook in colabs/ runs from top to bottom, shows its numbers and is stored clean."""

import pathlib
import re

import nbclient
import nbformat
import pytest
from conftest import ROOT
from ipykernel.kernelspec import write_kernel_spec

NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
ROLES = ("teacher", "baseline", "distilled")

FIRST = "quickstart"  # what newcomers run; the others take a minute or more each

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
each_run = pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem != FIRST)) for p in NOTEBOOKS],
    ids=lambda p: p.stem,
)


def read(path: pathlib.Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """`python3` is this interpreter, whatever kernels, profiles and devices the machine has."""
    write_kernel_spec(tmp_path / "jupyter" / "kernels" / "python3")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    return "python3"


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_a_notebook_is_stored_without_outputs(path):
    cells = code_cells(read(path))
    assert cells
    assert not [c.id for c in cells if c.outputs or c.execution_count is not None]


@each_notebook
def test_a_bare_machine_installs_from_one_address(path):
    first, *others = code_cells(read(path))
    assert len(re.findall(r"https?://", first.source)) == 1
    assert re.search(r'^REPOSITORY = "https://\S+"', first.source, re.M)
    guarded = 'if importlib.util.find_spec("fairkd_jax") is None:\n    %pip install '
    assert guarded in first.source and "{REPOSITORY}" in first.source
    assert not [cell.id for cell in others if "pip" in cell.source or "http" in cell.source]


@each_run
def test_a_notebook_runs_and_shows_its_table_and_figures(path, kernel, tmp_path):
    notebook = read(path)
    resources = {"metadata": {"path": str(tmp_path)}}  # where its cells run
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name=kernel, resources=resources
    ).execute()
    shown = [o for c in code_cells(notebook) for o in c.outputs]
    assert not [o for o in shown if o.output_type == "error"]
    assert [o for o in shown if "image/png" in o.get("data", {})]
    tables = [o.data["text/plain"] for o in shown if "text/html" in o.get("data", {})]
    rows = {role: [r for t in tables for r in re.findall(rf"\b{role}\b.*", t)] for role in ROLES}
    for role, found in rows.items():
        assert found, f"no table has a row {role!r}: {tables}"
        assert not [row for row in found if "NaN" in row]
