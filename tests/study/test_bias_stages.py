"""A net and the biases that it is told: stages run in order, their tables joined by example."""

import jax
import numpy as np
import pytest

from fairkd_jax import registry, sharding
from fairkd_jax.data import pipeline
from fairkd_jax.data.tables import read_table
from fairkd_jax.study import plan, reads, stage
from fairkd_jax.testing.bias import base, before_and

NETS = (
    {"name": "hypothesis_only", "share": 0.5},
    {"name": "self_debias", "examples": 10, "epochs": 2.0},
)


def run(folder, spec, **changes):
    """(the stage of training, where; log-probabilities by table; the columns of the split)."""
    asked = base(**{"debias": spec, "train.select": "last"} | changes)
    one = reads.sealed(registry.build("debias", spec).stages(asked).remade(plan._covering))
    place = stage.Place(folder, sharding.make_mesh(devices=jax.devices()[:1]))
    for each in one.inputs.values():
        for before in before_and(each):
            stage.run(before, place)
    split, said = pipeline.open_data(one.config.data).source("train").split, {}
    for name, each in one.inputs.items():
        table = read_table(place.folder(each) / "table")
        np.testing.assert_array_equal(table.id, np.sort(split.columns["id"]))
        said[name] = table.join(split.columns["id"])["log_probs"]
        np.testing.assert_allclose(np.exp(said[name]).sum(axis=1), 1, rtol=1e-5, err_msg=name)
    return one, place, said, split.columns


@pytest.mark.quick
def test_overlap_says_entailment_of_what_overlaps(tmp_path):
    *_, said, columns = run(tmp_path, {"name": "poe", "bias": {"name": "overlap"}})
    overlapping, entailed = columns["attribute"] == 0, np.exp(said["bias"][:, 0])
    assert entailed[overlapping].mean() > entailed[~overlapping].mean() + 0.2


@pytest.mark.slow
def test_a_net_learns_beside_three_biases(tmp_path):
    spec = {"name": "poe", "bias": [{"name": "overlap"}, *NETS], "anneal_to": 0.8}
    one, place, said, _ = run(tmp_path, spec, **{"train.steps": 4})
    assert [*said] == ["bias", "bias1", "bias2"]
    stage.run(one, place)
    assert (place.folder(one) / "done").exists()
