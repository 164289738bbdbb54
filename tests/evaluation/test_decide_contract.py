"""Every file in evaluation/decide/ keeps its contract, and so does one from outside."""

import sys

import pytest
from conftest import ROOT

from fairkd_jax import registry
from fairkd_jax.testing.decide import *  # noqa: F403

sys.path.append(str(ROOT / "tests" / "outside" / "project"))
OUTSIDE = ("my_project.decisions.balanced",)


@pytest.fixture(params=(*registry.available("decide"), *OUTSIDE))
def plugin(request):
    return {"name": request.param}
