"""The house holds: import direction, file length, folder depth, plugins found by their file."""

import ast
import pathlib
import re

import pytest
from conftest import ROOT

from fairkd_jax import registry

ORDER = [
    {"types", "registry"},
    {"buckets"},
    {"files"},
    {"hub", "sources"},
    {"recipe"},
    {"parsing"},
    {"analyses"},
    {"config", "sharding", "losses", "geometry", "processes", "compiled"},
    {"data"},
    {"models"},
    {"debias", "distill"},
    {"train"},
    {"evaluation", "representation", "circuits"},
    {"study"},
    {"report"},
    {"benchmark"},
    {"testing"},
    {"launch"},
]
RANK = {room: i for i, rooms in enumerate(ORDER) for room in rooms}
PACKAGE = ROOT / "fairkd_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
ALL = sorted(
    p for d in ("fairkd_jax", "launch", "configs", "tests") for p in (ROOT / d).rglob("*.py")
)


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> set[str]:
    """Rooms that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fairkd_jax"):
            rest = node.module.split(".")[1:]
            found |= {rest[0]} if rest else {a.name for a in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("fairkd_jax.")}
    return found


@pytest.mark.quick
def test_a_file_imports_from_its_own_room_or_an_earlier_one():
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in FILES
        if room_of(path) != "__init__"
        for other in imports(path)
        if other != room_of(path) and RANK[other] >= RANK[room_of(path)]
    ]
    assert not wrong


@pytest.mark.quick
def test_files_are_short_and_folders_shallow():
    assert not [p for p in ALL if len(p.read_text().splitlines()) > 400]
    assert not [p for p in FILES if len(p.relative_to(PACKAGE).parts) > 3]


@pytest.mark.quick
@pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_opens_with_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.quick
def test_the_nnx_boundary_is_crossed_in_one_file():
    pattern = re.compile(r"nnx\.(split|merge|state|eval_shape|jit|grad|sow|capture)\b")
    crossed = [p for p in FILES if pattern.search(p.read_text())]
    assert crossed == [PACKAGE / "models" / "net.py"]


@pytest.mark.quick
def test_nothing_unpickles():
    pattern = re.compile(r"allow_pickle\s*=\s*True|pickle\.load|torch\.load")
    assert not [p for p in FILES if pattern.search(p.read_text())]


@pytest.mark.quick
@pytest.mark.parametrize("room", registry.ROOMS)
def test_plugins_are_found_by_their_file_and_build_with_defaults(room):
    names = registry.available(room)
    assert names
    for name in names:
        assert registry.plugin(room, name).__module__.endswith(f".{name}")
        assert registry.defaults(room, name)["name"] == name
        assert registry.plugin(room, name).__doc__


@pytest.mark.quick
def test_a_miss_names_the_nearest_and_all_choices():
    with pytest.raises(registry.UnknownName, match=r"'group_drw'.*'group_dro'.*erm"):
        registry.build("debias", {"name": "group_drw"})
    with pytest.raises(registry.UnknownName, match=r"'step_sise'.*'step_size'"):
        registry.build("debias", {"name": "group_dro", "step_sise": 1.0})
    with pytest.raises(ValueError, match="expected a float"):
        registry.build("debias", {"name": "group_dro", "step_size": "big"})
