"""What must keep whatever infers columns by example, whoever wrote it. `plugin` is its config."""

import dataclasses

import jax
import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.debias import inference
from fairkd_jax.testing import tiny_step

ROWS = 40


@pytest.fixture
def method(plugin):
    return registry.build("infer", plugin)


def tables_for(method, rows=ROWS):
    made = tiny_step.made_up_columns(rows)
    return {name: {c: made[c] for c in columns} for name, columns in method.tables.items()}


def test_it_gives_numbers_by_example_and_the_same_at_every_call(method):
    examples, tables = tiny_step.examples(ROWS), tables_for(method)
    inference.check(method, examples, method.tables)
    with jax.transfer_guard("disallow"):  # as launchers run
        found = inference.columns_of(method, examples, tables, seed=3)
    again = inference.columns_of(method, examples, tables, seed=3)
    assert found and found.keys() == again.keys()
    for name, column in found.items():
        assert len(column) == ROWS and name.isidentifier()
        np.testing.assert_array_equal(column, again[name])


def test_it_sees_attributes_only_where_it_says_so(method):
    examples, tables = tiny_step.examples(ROWS), tables_for(method)
    other = {k: examples.columns[k][::-1] for k in inference.OF_ATTRIBUTES[:2]}
    other = dataclasses.replace(examples, columns=examples.columns | other)
    found, changed = (
        inference.columns_of(method, one, tables, seed=3) for one in (examples, other)
    )
    same = all(np.array_equal(found[k], changed[k]) for k in found)
    assert same or method.sees_attributes


def test_it_names_what_it_reads(method):
    assert {*method.places} <= {f.name for f in dataclasses.fields(method)}
    assert all(path.is_file() for path in method.reads().values())
    for table in method.tables:
        with pytest.raises(registry.UnknownName, match=table):
            inference.check(method, tiny_step.examples(ROWS), {table: ()})
