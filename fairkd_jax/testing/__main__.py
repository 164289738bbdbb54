"""Runs the tests of a room's contract on plugins: `python -m fairkd_jax.testing ROOM=PLUGIN ...`.

    python -m fairkd_jax.testing debias=my_project.methods.mine
    python -m fairkd_jax.testing sets='{"name": "my_project.data.mine", "folder": "data"}' -x
    python -m fairkd_jax.testing models=my_project.nets.mlp views=... sets=...

A plugin is a name, as in a config, or a config with options. A view is tested on the sets that are
named and on ours; a model may read the views of ours and those that are named, of the set that is
named. Further arguments are pytest's. As always with `-m`, Python looks in the current folder.
"""

import json
import os
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.data.dataset import Split
from fairkd_jax.testing import models, views

USAGE = f"usage: python -m fairkd_jax.testing ROOM=PLUGIN ...; ROOM: {', '.join(registry.ROOMS)}"


def main(arguments: list[str]) -> int:
    """The status of pytest; 2, with a line that says why, where what is asked for cannot be."""
    asked: dict[str, list[dict[str, Any]]] = {room: [] for room in registry.ROOMS}
    rest = [a for a in arguments if a.startswith("-")]
    try:
        for argument in (a for a in arguments if a not in rest):
            room, _, value = argument.partition("=")
            if room not in asked:
                raise registry.UnknownName(room, "room", asked)
            asked[room].append(json.loads(value) if value.startswith("{") else {"name": value})
            registry.plugin(room, asked[room][-1].get("name", ""))
        fixtures = {"sets": [asked["sets"] + own_sets()], "seen": [seen(asked)]}
    except ValueError as error:
        print(f"{error}\n{USAGE}", file=sys.stderr)
        return 2
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)  # tests compile much
    folder = pathlib.Path(__file__).parent
    chosen = [str(folder / f"{room}.py") for room, plugins in asked.items() if plugins]
    alone = ["-c", os.devnull, "--rootdir", os.getcwd(), "--noconftest", "-p", "no:cacheprovider"]
    return pytest.main([*alone, *rest, *chosen], plugins=[Fixtures(asked, fixtures)])
