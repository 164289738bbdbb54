"""What a method adds to a step: which step is timed, beside which others."""

import json
import re
import sys

import jax
import pytest

from fairkd_jax import registry, sharding
from fairkd_jax.benchmark import methods
from fairkd_jax.benchmark.workload import setup, workload
from fairkd_jax.debias.base import Debiaser

IMAGES = {"student": "tiny", "teacher": "tiny", "batch": 16, "image": 8}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("asked", "stages", "trainings", "teachers", "tables"),
    [
        ({"debias": "jtt"}, "train table train", 1.2, 1, {"mistakes": {"mistake"}}),
        ({"debias": "eiil", "mode": "erm"}, "train table infer train", 1.1, 0, {}),
        ({"debias": "crt"}, "train train", 2, 0, {}),  # a teacher teaches in the first alone
        ({"debias": "afr"}, "infer train table refit", 1, 1, {}),
        ({"distill": "agre_kd"}, "train", 1, 2, {}),
        ({"distill": "dett"}, "train table train", 1.1, 1, {"early_mistakes": {"mistake"}}),
        ({"distill": "mse", "mode": "kd_table"}, "train", 1, 1, {"teacher_logits": {"logits"}}),
    ],
)
def test_the_step_of_a_method_is_that_of_its_last_training(
    asked, stages, trainings, teachers, tables
):
    case = setup(workload("resnet", **IMAGES, **asked))
    told = methods.about(case)
    assert told["stages"] == stages.split() and told["trainings"] == pytest.approx(trainings)
    assert len(case.program.teachers) == told["teachers"] == teachers
    batch = case.batches()[0]
    assert {k: {*columns} for k, columns in batch.get("tables", {}).items()} == tables
    like = jax.tree.map(lambda x: (x.shape, x.dtype), case.batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == like


def test_a_row_for_each_method_beside_what_it_is_held_against(monkeypatch):
    names = {"debias": ("jtt", "read", "resample"), "distill": ()}
    monkeypatch.setattr(methods.registry, "available", names.get)
    work, mesh = workload("resnet", **IMAGES), sharding.make_mesh(devices=jax.devices()[:1])
    rows = timed, refused, plain = [*methods.rows([work], mesh, steps=3, warmup=0)]
    assert json.loads(json.dumps(rows)) == rows
    low, high = timed["ratio_to_erm_quartiles"]
    assert 0 < low <= timed["ratio_to_erm"] <= high and timed["rounds"] == 2
    assert timed["erm_ms"] > 0 and "ratio_to_logits" not in timed
    assert refused["note"].startswith("refused: read: layers = 1")
    assert plain["ratio_to_erm"] == 1 and "erm_ms" not in plain
    _, *lines = methods.render([plain | {"cpu_ratio_to_erm": 0.01}, refused, timed]).splitlines()
    assert [line.split()[1] for line in lines] == ["jtt", "resample", "read"]
    assert "train table train" in lines[0] and lines[2].endswith("BERT, T5 or ViT")
    assert {*methods.references(work)} == {"erm", "logits"}


@pytest.mark.quick
def test_a_method_of_more_nets_or_passes_says_what_a_step_costs():
    for name in registry.available("debias"):
        method = registry.plugin("debias", name)
        if method.extra_nets or method.passes is not Debiaser.passes:
            told = " ".join(sys.modules[method.__module__].__doc__.split())
            assert re.search(r"A step costs [\d.]+x that of ERM \(.+?\)[^:]*: \w", told), name
