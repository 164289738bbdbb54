"""Every file in debias/bias/ keeps the contract."""

import sys

import pytest
from conftest import ROOT

from fairkd_jax import registry
from fairkd_jax.testing.bias import *  # noqa: F403

sys.path.append(str(ROOT / "tests" / "outside" / "project"))
OUTSIDE = ("my_project.methods.narrow",)


@pytest.fixture(params=(*registry.available("bias"), *OUTSIDE))
def plugin(request):
    return {"name": request.param}
