"""Every file in data/sets/ and data/views/ keeps its contract."""

import numpy as np
import pytest
from conftest import DATA

from fairkd_jax import registry
from fairkd_jax.registry import UnknownName

NEEDS_FILES = {"nli_files": {"train": "nli_mnli/train_contradicting_heuristics.tsv.gz"}}
SETS = registry.available("sets")
VIEWS = registry.available("views")


def make(name):
    options = {}
    if name in NEEDS_FILES:
        if DATA is None:
            pytest.skip(f"{name} reads files: set FAIRKD_DATA")
        options = {"folder": str(DATA), **NEEDS_FILES[name]}
    return registry.build("sets", registry.defaults("sets", name) | options)


@pytest.mark.parametrize("name", SETS)
def test_splits_load_and_are_sound(name):
    dataset = make(name)
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
        group = columns["label"] * len(info.attribute_names) + columns["attribute"]
        np.testing.assert_array_equal(columns["group"], group)
        if split in info.expected_counts:
            assert tuple(loaded.counts()) == info.expected_counts[split]
        again = make(name).load(split)
        for key, values in columns.items():
            np.testing.assert_array_equal(values, again.columns[key], err_msg=key)
    with pytest.raises(UnknownName, match="nowhere"):
        dataset.load("nowhere")


@pytest.mark.parametrize("view", VIEWS)
def test_views_encode_row_by_row_and_say_who_they_are(view):
    spec, read = registry.defaults("views", view), 0
    for name in SETS:
        if name in NEEDS_FILES and DATA is None:
            continue
        split = make(name).load("train")
        try:
            encoder = registry.build("views", spec).fit(split)
        except UnknownName:  # an image view of text, a text view of images
            continue
        read += 1
        again = registry.build("views", spec).fit(make(name).load("train"))
        assert encoder.facts == again.facts and encoder.facts["identity"]
        some = {k: v[5:25] for k, v in split.columns.items()}
        whole = encoder.encode(some)
        for key, array in encoder.encode({k: v[3:7] for k, v in some.items()}).items():
            assert array.dtype in (np.int32, np.float32)
            np.testing.assert_array_equal(array, whole[key][3:7])
    assert read, f"no set has the columns that view {view} reads"
