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
    """(first split, fitted view) of each set that has the columns the view reads."""
    for spec in sets:
        dataset = registry.build("sets", spec)
        split = dataset.load(dataset.splits[0])
        with contextlib.suppress(UnknownName):  # an image view of text, a text view of images
            yield split, registry.build("views", plugin).fit(split)


def test_rows_are_encoded_one_by_one_by_an_encoder_that_says_who_it_is(plugin, sets):
    read = [*readable(plugin, sets)]
    for (split, encoder), (_, again) in zip(read, readable(plugin, sets)):
        assert encoder.facts == again.facts and encoder.facts["identity"]
        some = {k: v[1:21] for k, v in split.columns.items()}
        whole = encoder.encode(some)
        for key, array in encoder.encode({k: v[3:7] for k, v in some.items()}).items():
            assert array.dtype in (np.int32, np.float32)
            np.testing.assert_array_equal(array, whole[key][3:7])
    _require(read, sets)


def _require(read, sets):
    assert read, f"none of these sets has the columns that the view reads: {sets}"


def test_what_is_drawn_is_of_seed_step_and_example_alone(plugin, sets):
    changes, read = registry.build("views", plugin).changes_inputs, [*readable(plugin, sets)]
    for split, encoder in read:
        some = {k: v[1:21] for k, v in split.columns.items()}
        plain, ids = encoder.encode(some), some["id"]

        def drawn(rows=slice(None), seed=1, step=2, plain=plain, ids=ids, encoder=encoder):
            arrays = {k: v[rows].copy() for k, v in plain.items()}
            return encoder.augment(arrays, ids[rows], seed, step)

        whole = drawn()
        assert {k: (v.shape, v.dtype) for k, v in whole.items()} == {
            k: (v.shape, v.dtype) for k, v in plain.items()
        }
        for rows in (slice(3, 7), slice(None, None, -1)):
            for key, array in drawn(rows).items():
                np.testing.assert_array_equal(array, whole[key][rows])
        others = (plain, drawn(seed=2), drawn(step=3))
        for other in others:
            assert changes == any(np.any(whole[k] != other[k]) for k in whole)
    _require(read, sets)
