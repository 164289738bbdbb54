"""Every file in debias/ keeps the contract."""

import sys

import pytest
from conftest import ROOT

from fairkd_jax import registry
from fairkd_jax.testing.debias import *  # noqa: F403

sys.path.append(str(ROOT / "tests" / "outside" / "project"))
OUTSIDE = ("my_project.methods.logit_adjustment",)


@pytest.fixture(params=(*registry.available("debias"), *OUTSIDE))
def plugin(request):
    return {"name": request.param}
