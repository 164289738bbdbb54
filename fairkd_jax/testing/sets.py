"""What every data set must keep, whoever wrote it. `plugin` is the set's config."""

import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.registry import UnknownName


def test_splits_load_and_are_sound(plugin):
    dataset = registry.build("sets", plugin)
    info = dataset.info
    assert info.licence and info.source
    assert len(info.aligned) == len(info.label_names)
    assert {len(row) for row in info.aligned} == {len(info.attribute_names)}
    assert set(info.expected_counts) <= set(dataset.splits)
    for split in dataset.splits:
        loaded = dataset.load(split)
        columns, info = loaded.columns, loaded.info
        assert len(loaded) > 0
        assert len(np.unique(columns["id"])) == len(loaded)
        assert {len(v) for v in columns.values()} == {len(loaded)}
        assert not [k for k, v in columns.items() if v.dtype.kind in "US"]  # texts are objects
        assert set(columns["label"]) <= set(range(len(info.label_names)))
        assert set(columns["attribute"]) <= set(range(len(info.attribute_names)))
        shape = (len(loaded), len(info.subpopulations))
        assert columns.get("member", np.zeros((len(loaded), 0), bool)).shape == shape
        group = columns["label"] * len(info.attribute_names) + columns["attribute"]
        np.testing.assert_array_equal(columns["group"], group)
        if split in info.expected_counts:
            assert tuple(loaded.counts()) == info.expected_counts[split]
        again = registry.build("sets", plugin).load(split)
        for key, values in columns.items():
            np.testing.assert_array_equal(values[:], again.columns[key][:], err_msg=key)
    with pytest.raises(UnknownName, match="nowhere"):
        dataset.load("nowhere")
