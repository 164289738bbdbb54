"""Every file in data/sets/ keeps its contract."""

import pytest
from conftest import set_spec

from fairkd_jax import registry
from fairkd_jax.testing.sets import *  # noqa: F403


@pytest.fixture(params=registry.available("sets"))
def plugin(request):
    spec = set_spec(request.param)
    if spec is None:
        pytest.skip(f"{request.param} reads files: set FAIRKD_DATA")
    return spec
