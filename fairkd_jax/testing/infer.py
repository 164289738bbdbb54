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


def computed(method, examples):
    """Its columns; or the parameters that it gives in the place of a made-up head's."""
    tables = tables_for(method)
    with jax.transfer_guard("disallow"):  # as launchers run
        if not method.replaces:
            return inference.columns_of(method, examples, tables, seed=3)
        r = np.random.RandomState(0)
        head = {
            "head/kernel": np.float32(r.randn(tiny_step.WIDTH, tiny_step.CLASSES)),
            "head/bias": np.float32(r.randn(tiny_step.CLASSES)),
        }
        old = {path: head[path] for path in inference.replaced(method, head)}
        method.check_shapes({path: value.shape for path, value in old.items()})
        return inference.variables_of(method, old, examples, tables, seed=3)


def test_it_gives_finite_numbers_and_the_same_at_every_call(method):
    examples = tiny_step.examples(ROWS)
    inference.check(method, examples, method.tables)
    found, again = computed(method, examples), computed(method, examples)
    assert found and found.keys() == again.keys()
    for name, values in found.items():
        assert method.replaces or (len(values) == ROWS and name.isidentifier())
        np.testing.assert_array_equal(values, again[name])


def test_it_sees_attributes_only_where_it_says_so(method):
    examples = tiny_step.examples(ROWS)
    attribute = 1 - examples.columns["attribute"]
    group = examples.columns["label"] * tiny_step.ATTRIBUTES + attribute
    other = examples.columns | {"attribute": attribute[::-1], "group": group[::-1]}
    found = computed(method, examples)
    changed = computed(method, dataclasses.replace(examples, columns=other))
    same = all(np.array_equal(found[k], changed[k]) for k in found)
    assert same or method.sees_attributes


def test_it_names_what_it_reads(method):
    assert {*method.places} <= {f.name for f in dataclasses.fields(method)}
    assert {*method.elsewhere} <= {*method.tables}
    assert all(path.is_file() for path in method.reads().values())
    for table in method.tables:
        with pytest.raises(registry.UnknownName, match=table):
            inference.check(method, tiny_step.examples(ROWS), {table: ()})


def test_a_net_without_what_it_replaces_is_refused(method):
    if method.replaces:
        with pytest.raises(ValueError, match="no such parameter"):
            inference.replaced(method, ["stem/kernel"])
