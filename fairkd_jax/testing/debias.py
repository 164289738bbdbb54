"""What every debiasing method must keep, whoever wrote it. `plugin` is the method's config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fairkd_jax import registry
from fairkd_jax.config import NETS, TABLES
from fairkd_jax.testing import tiny_step

KEY = jax.random.key(7)


@pytest.fixture
def method(plugin):
    return registry.build("debias", plugin)


def batch_for(method, **kwargs):
    return tiny_step.shown_to(method, tiny_step.make_batch(**kwargs))


def other_numbers(method):
    """The same choices with other numbers."""
    return jax.tree.map(lambda v: v * 0.9 if isinstance(v, float) else v + 1, method)


def close(a, b, rtol=2e-5, atol=2e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol)


def test_numbers_are_leaves_and_choices_hash(method, plugin):
    fields = dataclasses.fields(method)
    traced = [f.name for f in fields if f.metadata.get("pytree_node", True)]
    for f in fields:
        if isinstance(f.default, float):
            assert f.name in traced, f"{f.name} is a number: leave it a leaf"
    assert len(jax.tree.leaves(method)) == len(traced)
    assert all(isinstance(v, int | float) for v in jax.tree.leaves(method))
    again = registry.build("debias", registry.defaults("debias", plugin["name"]) | plugin)
    assert hash(jax.tree.structure(method)) == hash(jax.tree.structure(again))
    assert jax.tree.structure(method) == jax.tree.structure(other_numbers(method))


def test_stages_are_stable_and_write_the_tables_that_are_read(method):
    stage = method.stages(tiny_step.base())
    assert stage.kind in NETS
    assert stage.identity == method.stages(tiny_step.base()).identity
    assert stage.identity != method.stages(tiny_step.base(seed=1)).identity
    written = {k for k, v in stage.inputs.items() if v.kind in TABLES}
    assert stage.kind != "train" or written == set(method.tables)
    inferred = [registry.build("infer", v.config.infer) for v in _before(stage, "infer")]
    assert method.sees_attributes or not any(one.sees_attributes for one in inferred)


def _before(stage, kind):
    """The stages of a kind that a stage hangs on."""
    for one in stage.inputs.values():
        yield from [one] if one.kind == kind else []
        yield from _before(one, kind)


def test_what_a_tuner_may_try_can_be_built(method, plugin):
    for option, values in method.search.items():
        assert len(set(values)) == len(values) > 1, f"{option}: nothing to choose from"
        for value in values:
            registry.build("debias", {**plugin, option: value})


def test_check_accepts_sound_data(method):
    method.check(tiny_step.make_spec(method))
    method.check_tables(jax.tree.map(np.asarray, tiny_step.tables_of(method, rows=16)))


def test_one_step_is_finite_and_keeps_its_memory(method):
    params, now = tiny_step.start(method)
    (loss, (after, metrics)), grads = tiny_step.run(method, params, now, batch_for(method), KEY)
    assert loss.shape == () and loss.dtype == jnp.float32
    assert all(v.shape == () for v in metrics.values())
    for x in jax.tree.leaves((loss, after, metrics, grads)):
        assert np.isfinite(x).all()
    assert any(np.any(g != 0) for g in jax.tree.leaves(grads["nets"]["student"]))
    for net in method.extra_nets:
        assert any(np.any(g != 0) for g in jax.tree.leaves(grads["nets"][net]))
    assert jax.tree.structure(after) == jax.tree.structure(now.memory)
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(now.memory)):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)


def test_extreme_logits_leave_everything_finite(method):
    params, now = tiny_step.start(method)
    for net in params["nets"].values():
        net["head"] = net["head"] * 1e4
    ((loss, (after, metrics)), grads) = tiny_step.run(method, params, now, batch_for(method), KEY)
    for x in jax.tree.leaves((loss, after, metrics, grads)):
        assert np.isfinite(x).all()


def _types(tree):
    return jax.tree.map(lambda x: x.dtype, tree)


def test_nets_that_compute_in_bfloat16_get_float32_losses(method, monkeypatch):
    apply = tiny_step.apply

    def half(*arguments):
        outputs = apply(*arguments)
        return outputs.replace(taps={k: x.astype(jnp.bfloat16) for k, x in outputs.taps.items()})

    params, now = tiny_step.start(method)
    monkeypatch.setattr(tiny_step, "apply", half)
    told = tiny_step.step, method, params, now, batch_for(method), KEY
    (loss, (after, metrics)), _ = jax.eval_shape(*told)
    assert {loss.dtype, *(x.dtype for x in metrics.values())} == {jnp.dtype("float32")}
    assert _types(after) == _types(now.memory)


def test_padding_rows_change_nothing(method):
    params, now = tiny_step.start(method)
    batch = batch_for(method, rows=12)
    close(
        tiny_step.run(method, params, now, batch, KEY),
        tiny_step.run(method, params, now, tiny_step.pad(batch), KEY),
    )


def test_a_batch_of_padding_alone_is_finite(method):
    params, now = tiny_step.start(method)
    batch = batch_for(method)
    batch["real"] = jnp.zeros_like(batch["real"])
    (loss, (after, _)), grads = tiny_step.run(method, params, now, batch, KEY)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, after, grads)))


def test_other_numbers_are_no_new_trace(method):
    params, now = tiny_step.start(method)
    (_, (memory, _)), _ = tiny_step.run(method, params, now, batch_for(method), KEY)
    traced = len(tiny_step.TRACES)
    counts = [2.0 * n for n in tiny_step.COUNTS]
    later = tiny_step.make_now(method, memory, counts, step=40, steps=80.0)
    for told in (tiny_step.after(now, memory), later):
        tiny_step.run(other_numbers(method), params, told, batch_for(method), KEY)
    assert len(tiny_step.TRACES) == traced


def test_lanes_give_what_each_run_gives_alone(method):
    methods = (method, other_numbers(method))
    keys = jax.random.split(KEY)
    starts = [tiny_step.start(m, seed) for seed, m in enumerate(methods)]
    starts = [(p, n.replace(step=n.step + k, steps=n.steps + k)) for k, (p, n) in enumerate(starts)]
    batches = [batch_for(method, seed=s) for s in (0, 1)]
    lanes = jax.tree.map(
        lambda *v: jnp.stack([jnp.asarray(x) for x in v]),
        *[(m, *s, b, k) for m, s, b, k in zip(methods, starts, batches, keys)],
    )
    together = jax.jit(jax.vmap(tiny_step.step))(*lanes)
    for i in range(2):
        alone = tiny_step.run(methods[i], *starts[i], batches[i], keys[i])
        close(jax.tree.map(lambda x, i=i: x[i], together), alone)


def test_eight_devices_give_what_one_gives(method):
    params, now = tiny_step.start(method)
    batch = tiny_step.pad(batch_for(method, rows=12))
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    rest = jax.device_put((method, params, now), NamedSharding(mesh, PartitionSpec()))
    close(tiny_step.run(method, params, now, batch, KEY), tiny_step.run(*rest, spread, KEY))


def test_a_mean_over_examples_accumulates(method):
    """Two halves of a batch, averaged, are the batch, unless the method says otherwise."""
    params, now = tiny_step.start(method)
    batch = batch_for(method)
    whole = tiny_step.run(method, params, now, batch, KEY)
    even = jnp.asarray(np.arange(len(batch["real"])) % 2 == 0, jnp.float32)
    halves = [
        tiny_step.run(method, params, now, batch | {"real": half}, KEY) for half in (even, 1 - even)
    ]
    found = whole[0][0], whole[1]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *[(h[0][0], h[1]) for h in halves])
    if not method.couples_examples:
        close(found, mean)
        return
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(mean))
    same = [np.allclose(a, b, rtol=1e-4) for a, b in pairs]
    assert not all(same), "no two examples meet: leave couples_examples at False"


def test_the_task_hook_is_per_example(method):
    """Padding and order aside, an example's task loss does not depend on the other examples."""
    if method.changes_inputs:
        pytest.skip("mixes examples before the task loss")
    params, now = tiny_step.start(method)
    batch = batch_for(method)
    outputs = tiny_step.outputs(method, params["nets"], batch, {}, now, KEY)
    first = lambda tree: jax.tree.map(lambda x: x[:4], tree)  # noqa: E731
    close(
        first(method.task(outputs, batch, params["debias"], now)),
        method.task(first(outputs), first(batch), params["debias"], now),
    )
