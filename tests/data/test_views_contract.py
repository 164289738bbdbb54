"""Every file in data/views/ keeps its contract."""

import pytest
from conftest import set_spec

from fairkd_jax import registry
from fairkd_jax.testing.views import *  # noqa: F403

DRAWING = ({"name": "image", "crop": 2, "flip": True},)


@pytest.fixture(
    params=(*({"name": name} for name in registry.available("views")), *DRAWING), ids=str
)
def plugin(request):
    return request.param


@pytest.fixture
def sets():
    return [*filter(None, map(set_spec, registry.available("sets")))]
