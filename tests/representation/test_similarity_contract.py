"""Every file in representation/similarity/ keeps its contract, and so does one from outside."""

import sys

import pytest
from conftest import ROOT

from fairkd_jax import registry
from fairkd_jax.testing.similarity import *  # noqa: F403

sys.path.append(str(ROOT / "tests" / "outside" / "project"))
OUTSIDE = ("my_project.measures.explained",)


@pytest.fixture(scope="module", params=(*registry.available("similarity"), *OUTSIDE))
def plugin(request):
    return {"name": request.param}
