"""Every file in evaluation/decide/ keeps its contract."""

import pytest

from fairkd_jax import registry
from fairkd_jax.testing.decide import *  # noqa: F403


@pytest.fixture(params=registry.available("decide"))
def plugin(request):
    return {"name": request.param}
