"""Every file in `configs/` says how to run it, builds whole, and takes two steps."""

import importlib.util
import inspect
import re

import jax
import numpy as np
import published_files
import pytest
from conftest import DATA, ROOT, prepared

from fairkd_jax import sharding
from fairkd_jax.config import Experiment, Study, parse, update
from fairkd_jax.data import pipeline
from fairkd_jax.data.sets.template_nli import TemplateNli
from fairkd_jax.data.views.wordpiece import Wordpiece
from fairkd_jax.models import pretrained
from fairkd_jax.models.net import make_net
from fairkd_jax.study import check, plan, stage
from fairkd_jax.train import loop

FILES = sorted((ROOT / "configs").rglob("*.py"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder as MiniLM is published in, with few words and random numbers."""
    folder, data = tmp_path_factory.mktemp("weights"), TemplateNli(train=50)
    encoder = Wordpiece(vocab_size=300).fit(data.load("train"))
    net = make_net({"name": "bert", "preset": "minilm_l6"}, 2, {"wordpiece": encoder.facts})
    rng, names = np.random.default_rng(0), data.info.label_names
    variables = jax.tree.map(lambda x: 0.02 * rng.normal(size=x.shape), net.variable_shapes())
    pretrained.save(net, variables, folder, names, encoder)
    return folder


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A folder of data sets as published, with few pairs."""
    return published_files.write(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def folders(weights, published):
    """What a config file is told, by the parameter of `get_config`; what is absent is None."""
    return {
        "folder": DATA and f"{DATA}",
        "folder_and_weights": DATA and f"{DATA},{weights}",
        "published": f"{published}",
        "faces": prepared("utkface"),
        "kind": "inside",
        "names": "erm,group_dro,jtt,afr,eiil",  # of the methods, one of each kind of stages
    }


def load(path, folders):
    """The study of a config file, given the folders that it reads."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = [folders[name] for name in inspect.signature(module.get_config).parameters]
    if None in given:
        pytest.skip("no folder of real data: set FAIRKD_DATA")
    config = module.get_config(*given)
    if "experiment" in config:
        return parse(Study, config)
    return Study(experiment=parse(Experiment, config), seeds=1)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_says_how_to_run_it(path):
    place = path.relative_to(ROOT).as_posix()
    assert re.search(rf"python launch/\w+\.py --config={place}", path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_builds(path, folders):
    planned = check.check(load(path, folders))
    assert {run.role for run in planned} - {"rung"} == {"teacher", "baseline", "distilled"}


@pytest.mark.parametrize(
    "path",
    [  # those that read the user's files take their time over them
        pytest.param(p, id=p.stem, marks=pytest.mark.slow if "FOLDER" in p.read_text() else ())
        for p in FILES
    ],
)
def test_a_config_takes_two_steps(path, folders, tmp_path):
    study = plan.smoke(load(path, folders))
    teachers = [
        f"teachers.{name}" if name else "teacher" for name in plan.teachers_of(study.experiment)
    ]
    two = {f"{one}.train.{k}": v for one in teachers for k, v in (("steps", 2), ("select", "last"))}
    study = Study(**{**vars(study), "experiment": update(study.experiment, two)})
    planned = check.check(study)
    place = stage.Place(tmp_path, sharding.make_mesh(devices=jax.devices()[:1]))
    for one in plan.stages([planned[0]]):
        if one.kind != "evaluate":
            stage.run(one, place)
    assert (place.folder(planned[0].net) / "net").is_dir()


@pytest.mark.parametrize("name", ["quickstart", "quickstart_nli", "cross_family_images"])
def test_a_net_of_a_config_is_exported_or_refused_with_those_that_are(name, folders, tmp_path):
    path, found = ROOT / "configs" / "studies" / f"{name}.py", {}
    for run in plan.runs(load(path, folders)):
        net = loop.net_of(run.experiment.data, run.model)
        data = pipeline.open_data(run.experiment.data)
        variables = jax.tree.map(lambda x: np.ones(x.shape), net.variable_shapes())
        folder, encoder = tmp_path / plan.model_name(run.model), data.encoders[net.view]
        if folder in found:
            continue
        try:
            pretrained.save(net, variables, folder, data.dataset.info.label_names, encoder)
            pretrained.check(net, folder, label_names=data.dataset.info.label_names)
            found[folder] = "written"
        except ValueError as error:
            assert "18, 34, 50, 101, 152 with batch normalisation can be exported" in str(error)
            assert not folder.exists()
            found[folder] = "refused"
    families = {folder.parent.name: what for folder, what in found.items()}
    assert (
        families
        == {
            "quickstart": {"resnet": "refused"},
            "quickstart_nli": {"bert": "written"},
            "cross_family_images": {"resnet": "refused", "vit": "written"},
        }[name]
    )
