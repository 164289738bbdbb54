"""What every view must keep, whoever wrote it. `plugin` is its config, `sets` those to view."""

import contextlib

import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.registry import UnknownName


def own_sets():
    """Configs of the sets of ours that need no files."""
    names = registry.available("sets")
    return [{"name": name} for name in names if not registry.plugin("sets", name).places]


@pytest.fixture
def sets():
    """Configs of sets, of which the view must read one."""
    return own_sets()


def readable(plugin, sets):
    """(training split, fitted view) of each set that has the columns the view reads."""
    for spec in sets:
        split = registry.build("sets", spec).load("train")
        with contextlib.suppress(UnknownName):  # an image view of text, a text view of images
            yield split, registry.build("views", plugin).fit(split)


def test_rows_are_encoded_one_by_one_by_an_encoder_that_says_who_it_is(plugin, sets):
    read = [*readable(plugin, sets)]
    for (split, encoder), (_, again) in zip(read, readable(plugin, sets)):
        assert encoder.facts == again.facts and encoder.facts["identity"]
        some = {k: v[5:25] for k, v in split.columns.items()}
        whole = encoder.encode(some)
        for key, array in encoder.encode({k: v[3:7] for k, v in some.items()}).items():
            assert array.dtype in (np.int32, np.float32)
            np.testing.assert_array_equal(array, whole[key][3:7])
    assert read, f"none of these sets has the columns that the view reads: {sets}"
