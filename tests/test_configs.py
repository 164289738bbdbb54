"""Every file in `configs/` says how to run it, builds whole, and takes two steps."""

import importlib.util
import inspect
import re

import jax
import pytest
from conftest import DATA, ROOT

from fairkd_jax import sharding
from fairkd_jax.config import Experiment, Study, parse, update
from fairkd_jax.study import execute, plan, stage

FILES = sorted((ROOT / "configs").rglob("*.py"))


def load(path):
    """The study of a config file; one that reads a folder is given the folder of real data."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wants_folder = bool(inspect.signature(module.get_config).parameters)
    if wants_folder and DATA is None:
        pytest.skip("no folder of real data: set FAIRKD_DATA")
    config = module.get_config(str(DATA)) if wants_folder else module.get_config()
    if "experiment" in config:
        return parse(Study, config)
    return Study(experiment=parse(Experiment, config), seeds=1)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_says_how_to_run_it(path):
    place = path.relative_to(ROOT).as_posix()
    assert re.search(rf"python launch/\w+\.py --config={place}", path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_builds_and_takes_two_steps(path, tmp_path):
    study = plan.smoke(load(path))
    two = {"teacher.train.steps": 2, "teacher.train.select": "last"}
    study = Study(**{**vars(study), "experiment": update(study.experiment, two)})
    planned = execute.check(study)
    assert {run.role for run in planned} == {"teacher", "baseline", "distilled"}
    place = stage.Place(tmp_path, sharding.make_mesh(devices=jax.devices()[:1]))
    for one in plan.stages([planned[0]]):
        if one.kind != "evaluate":
            stage.run(one, place)
    assert (place.folder(planned[0].net) / "net").is_dir()
