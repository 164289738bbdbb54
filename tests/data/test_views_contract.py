"""Every file in data/views/ keeps its contract."""

import pytest
from conftest import set_spec

from fairkd_jax import registry
from fairkd_jax.testing.views import *  # noqa: F403


@pytest.fixture(params=registry.available("views"))
def plugin(request):
    return {"name": request.param}


@pytest.fixture
def sets():
    return [*filter(None, map(set_spec, registry.available("sets")))]
