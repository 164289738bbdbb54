"""What ways of scoring cost: a row for each, at both levels, held against exact patching."""

import jax
import pytest

from fairkd_jax import sharding
from fairkd_jax.benchmark import circuits


@pytest.mark.slow
def test_each_way_is_timed_and_held_against_exact_patching():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    model = {"name": "vit", "depth": 1, "width": 8, "heads": 2, "patch": 8}
    rows = [*circuits.rows(mesh, model, steps=1, examples=3, batch=2, image=16)]
    assert [(row["level"], row["way"]) for row in rows] == [
        (level, way) for level in ("nodes", "edges") for way in circuits.WAYS
    ]
    for row in rows:
        assert row["pairs"] == 3 and row["seconds"] >= 0 and row["sites"] > 2
        assert -1 <= row["rank_correlation"] <= 1 and 0 <= row["largest_found"] <= 1
    assert rows[0]["rank_correlation"] == rows[4]["rank_correlation"] == 1.0
