"""Runs the tests of a room's contract on plugins: `python -m fairkd_jax.testing ROOM=PLUGIN ...`.

    python -m fairkd_jax.testing debias=my_project.methods.mine
    python -m fairkd_jax.testing sets='{"name": "my_project.data.mine", "folder": "data"}' -x
    python -m fairkd_jax.testing models=my_project.nets.mlp views=... sets=...

A plugin is a name, as in a config, or a config with options. A view is tested on the sets that are
named and on ours; a model may read views of ours and, under the last part of their names, those
that are named. Further arguments are pytest's. As always with `-m`, Python looks in the current
folder.
"""

import itertools
import json
import os
import pathlib
import re
import sys
from typing import Any

import jax
import pytest

from fairkd_jax import registry

USAGE = f"usage: python -m fairkd_jax.testing ROOM=PLUGIN ...; ROOM: {', '.join(registry.ROOMS)}"
Asked = dict[str, list[dict[str, Any]]]  # configs by room


def main(arguments: list[str]) -> int:
    """The status of pytest; 2, with a line that says why, where what is asked for cannot be."""
    plugins = [a for a in arguments if re.match(r"\w+=", a)]
    try:
        asked = parse(plugins)
    except ValueError as error:
        print(f"{error}\n{USAGE}", file=sys.stderr)
        return 2
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)  # tests compile much
    folder = pathlib.Path(__file__).parent
    chosen = [str(folder / f"{room}.py") for room, specs in asked.items() if specs]
    alone = ["-c", os.devnull, "--rootdir", str(folder), "--noconftest", "-p", "no:cacheprovider"]
    alone += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of pytest plugins, not of ours
    rest = [a for a in arguments if a not in plugins]
    return pytest.main([*alone, *rest, *chosen], plugins=[Fixtures(asked)])


def parse(arguments: list[str]) -> Asked:
    """Raises ValueError for what is no plugin of a room, and where there is none at all."""
    asked: Asked = {room: [] for room in registry.ROOMS}
    for argument in arguments:
        room, _, value = argument.partition("=")
        if room not in asked:
            raise registry.UnknownName(room, "room", asked)
        spec = json.loads(value) if value.startswith("{") else {"name": value}
        registry.build(room, spec)
        asked[room].append(spec)
    if not any(asked.values()):
        raise ValueError("no plugin is named")
    return asked


class Fixtures:
    """What was asked for, for the tests of each room."""

    def __init__(self, asked: Asked):
        self.asked = asked

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Gives tests the plugins of their room, and what views and models read."""
        room = metafunc.module.__name__.rpartition(".")[2]
        if "plugin" in metafunc.fixturenames:
            specs = self.asked[room]
            metafunc.parametrize("plugin", specs, ids=[s["name"] for s in specs], scope="module")
        if "sets" in metafunc.fixturenames:
            metafunc.parametrize("sets", [self.sets()], ids=["sets"])
        if "seen" in metafunc.fixturenames:
            metafunc.parametrize("seen", [self.seen()], ids=["seen"], scope="module")

    def sets(self) -> list[dict[str, Any]]:
        """Configs of the sets that are named, and of ours."""
        from fairkd_jax.testing import views  # not before pytest, which rewrites its assertions

        return [*self.asked["sets"], *views.own_sets()]

    def seen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Facts and arrays of the views that are named, of the first set that they can read."""
        from fairkd_jax.testing import models, views

        facts, arrays = {}, {}
        for spec in self.asked["views"]:
            name = spec["name"].rpartition(".")[2]
            for split, encoder in itertools.islice(views.readable(spec, self.sets()), 1):
                some = {k: v[: models.B] for k, v in split.columns.items()}
                facts[name], arrays[name] = encoder.facts, encoder.encode(some)
        return facts, arrays


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
