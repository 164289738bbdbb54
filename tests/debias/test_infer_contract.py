"""Every file in debias/infer/ keeps its contract."""

import pytest

from fairkd_jax import registry
from fairkd_jax.testing.infer import *  # noqa: F403


@pytest.fixture(params=registry.available("infer"))
def plugin(request):
    return {"name": request.param}
