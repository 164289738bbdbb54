"""Plugins from outside by dotted name and by entry point; a fault is refused where it is."""

import itertools
import sys

import pytest

from fairkd_jax import files, registry, sources
from fairkd_jax.registry import Faulty, UnknownName

pytestmark = pytest.mark.quick

NAMES = (f"theirs{i}" for i in itertools.count())
METHOD = '''
from flax import struct
from fairkd_jax.debias.base import Debiaser

@struct.dataclass
class Mine(Debiaser):
    """A method."""
    strength: float = 0.5
'''
SET = '''
import dataclasses
from fairkd_jax.data.dataset import DataSet

@dataclasses.dataclass(frozen=True)
class Mine(DataSet):
    """A set that lacks much."""
    splits = ("train",)
    info = None
'''


class Project:
    """A folder that Python looks in, with a package of a name of its own."""

    def __init__(self, folder):
        self.folder, self.name = folder, next(NAMES)

    def write(self, path: str, text: str) -> str:
        """A file below the package; returns the module's name."""
        file = self.folder / self.name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        parts = (self.name, *path.removesuffix(".py").split("/"))
        return ".".join(parts).removesuffix(".__init__")

    def install(self, package: str, **entries: str) -> None:
        """What pip leaves of a package with entry points of the room debias."""
        info = self.folder / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[fairkd_jax.debias]", *lines]) + "\n")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    made = Project(tmp_path)
    yield made
    for name in [n for n in sys.modules if n.partition(".")[0] == made.name]:
        del sys.modules[name]


def build(name, room="debias", **options):
    return registry.build(room, {"name": name, **options})


def test_a_dotted_name_is_a_module(project):
    name = project.write("methods/mine.py", METHOD)
    assert build(name, strength=2).strength == 2.0
    assert registry.defaults("debias", name) == {"name": name, "strength": 0.5}


@pytest.mark.parametrize("value", ["{0}.mine", "{0}.mine:Mine", "{0}:Mine", "{0}.mine [extra]"])
def test_an_entry_point_is_a_module_or_a_class_in_one(project, value):
    project.write("mine.py", METHOD)
    project.write("__init__.py", f"from {project.name}.mine import Mine")
    project.install("focal", their_focal=value.format(project.name))
    assert type(build("their_focal")).__name__ == "Mine"
    with pytest.raises(UnknownName, match=r"Did you mean 'their_focal'\? .*erm.*their_focal"):
        build("their_focul")


def test_a_name_that_two_have_is_refused_with_both(project):
    project.install("one", erm="somewhere", focal="somewhere")
    project.install("other", focal="elsewhere:Focal")
    with pytest.raises(Faulty, match=r"'erm'.*fairkd_jax\.debias\.erm.*somewhere.* package one"):
        build("erm")
    with pytest.raises(Faulty, match=r"'focal'.* package (one|other).* package (one|other)"):
        build("focal")
    assert build("jtt")


@pytest.mark.parametrize(
    "name, message",
    [
        ("{0}.metods.mine", "'{0}.metods': Python looked in .*Did you mean 'methods'"),
        ("{0}.methods.mime", "'{0}.methods.mime'.*Did you mean 'mine'"),
        ("{0}x.methods.mine", "'{0}x': Python looked in .*site-packages.*Did you mean '{0}'"),
        ("{0}.methods.mine.Mine", "found a file for '{0}.methods.mine'"),
        ("{0}/methods/mine.py", "or the dotted name of a module of yours"),
        ("mine", "or the dotted name of a module of yours"),
    ],
)
def test_what_is_not_found_is_told_with_where_python_looked(project, name, message):
    project.write("methods/mine.py", METHOD)
    with pytest.raises(UnknownName, match=message.format(project.name)) as error:
        build(name.format(project.name))
    assert "group_dro" in str(error.value)


FAULTS = {
    "no plugin": ("debias", "import os", r"mine\.py, line 1.*one class.* defines none"),
    "another room's": ("distill", METHOD, r"mine\.py, line 1.*base\.Distiller.*none"),
    "two": (
        "debias",
        METHOD + "\nclass Other(Mine):\n    pass\n",
        r"Mine \(.*mine\.py, line 5\) and Other \(.*mine\.py, line 10\)",
    ),
    "a missing import": ("debias", "\nimport nowhere.at_all", r"mine\.py, line 2: ModuleNotFound"),
    "an error": ("debias", "\n\n1 / 0", r"mine\.py, line 3: ZeroDivisionError"),
    "no Python": ("debias", "\nclass class", r"mine\.py, line 2: SyntaxError"),
    "an exit": ("debias", "import sys\nsys.exit(0)", r"mine\.py, line 2: SystemExit"),
    "missing methods": ("sets", SET, r"mine\.py, line 5: Mine lacks load"),
    "a missing attribute": (
        "sets",
        SET.replace("splits", "other") + "    load = None\n",
        r"mine\.py, line 5: Mine lacks splits",
    ),
    "no dataclass": (
        "debias",
        METHOD.replace("@struct.dataclass", ""),
        r"line 6: Mine needs the decorator @flax\.struct\.dataclass",
    ),
    "no hook": (
        "augment",
        "\nfrom fairkd_jax.data.augmentation import Augmentation\nclass Mine(Augmentation): pass",
        r"mine\.py, line 3: TypeError: Mine says changes_inputs = False.*`examples`",
    ),
    "an error when made": (
        "debias",
        METHOD + "    def __post_init__(self):\n        self.nothing\n",
        r"mine\.py, line 10: AttributeError",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_room_file_and_line(project, fault):
    room, code, message = FAULTS[fault]
    name = project.write("mine.py", code)
    with pytest.raises(Faulty, match=f"{room} plugin '{name}'.*{message}"):
        build(name, room)


def test_an_option_of_a_wrong_type_or_name_is_told_with_file_and_line(project):
    name = project.write("mine.py", METHOD)
    with pytest.raises(ValueError, match=r"strength \(.*mine\.py, line 5\) = 'big': .*a float"):
        build(name, strength="big")
    with pytest.raises(UnknownName, match=r"mine\.py, line 5.*'strenght'.*mean 'strength'"):
        build(name, strenght=1.0)


# Which files a plugin is written in


def written_in(name: str) -> list[str]:
    return [*sources.files_of(registry.plugin("debias", name))]


def test_a_plugin_is_its_file_and_what_that_imports_of_its_author(project):
    top, beside = project.name, f"{project.name}_beside"
    (project.folder / f"{beside}.py").write_text("import json")
    project.write("__init__.py", "")
    project.write("a.py", "from . import b\nimport numpy as np")
    project.write("b.py", "def f():\n    from .deep.c import x\n    import not_there")
    project.write("deep/__init__.py", "")
    project.write("deep/c.py", f"from ..a import *\nx = 1\nimport {beside}")
    project.write("unused.py", "")
    name = project.write("methods/mine.py", f"from ..a import b\nimport fairkd_jax.files\n{METHOD}")
    own = [f"{top}{n}" for n in ("", ".a", ".b", ".deep", ".deep.c", ".methods.mine")]
    assert written_in(name) == sorted([*own, beside])
    assert written_in("erm") == []


def test_of_what_is_installed_only_the_package_counts(project):
    beside = f"{project.name}_beside"
    (project.folder / f"{beside}.py").write_text("")
    project.write("other.py", "")
    name = project.write("mine.py", f"from . import other\nimport {beside}\n{METHOD}")
    project.install("focal")
    assert written_in(name) == [name, f"{project.name}.other"]


def test_code_that_changed_since_it_was_imported_is_refused(project):
    name = project.write("mine.py", METHOD)
    before = written_in(name)
    project.write("mine.py", METHOD + "# changed")
    with pytest.raises(files.Changed, match=r"mine\.py .*since it was imported.*Start Python anew"):
        written_in(name)
    project.write("mine.py", METHOD)
    assert written_in(name) == before
