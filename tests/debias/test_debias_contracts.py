"""Every file in debias/ keeps the contract."""

import pytest

from fairkd_jax import registry
from fairkd_jax.testing.debias import *  # noqa: F403


@pytest.fixture(params=registry.available("debias"))
def plugin(request):
    return {"name": request.param}
