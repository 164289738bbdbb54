"""Distillation of transformers: which blocks meet, what padding changes, what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.distill import blocks
from fairkd_jax.testing.distill import batch, close, make_now, make_spec, outputs
from fairkd_jax.types import Outputs

NAMES = ("pkd", "tinybert", "minilm_v1", "minilm_v2")


def build(name, **options):
    return registry.build("distill", {"name": name, **options})


def nets(method, *widths):
    return [outputs(width, i, more=method.student_taps) for i, width in enumerate(widths)]


def loss(method, student, teacher, params=None):
    if params is None:
        params, _ = method.init(make_spec(student, (teacher,)), jax.random.key(0))
    run = jax.jit(lambda *rest: method(*rest, make_now()).per_example)
    return run(student, (teacher,), batch(), params)


@pytest.mark.parametrize(
    "n, m, layers",
    [(2, 4, (1, 3)), (3, 12, (3, 7, 11)), (4, 6, (1, 2, 3, 5)), (4, 2, (0, 0, 1, 1)), (1, 3, (2,))],
)
def test_blocks_meet_by_depth(n, m, layers):
    """Where m is a multiple of n, as in TinyBERT: the i-th the i m / n-th; the last the last."""
    ours, theirs = ([f"block{i:02}" for i in range(k)] for k in (n, m))
    assert blocks.meet(ours, theirs) == tuple(zip(ours, (theirs[i] for i in layers)))
    assert blocks.meet(ours, theirs, (("a", "b"),)) == (("a", "b"),)


@pytest.mark.parametrize("name", NAMES)
def test_identical_nets_have_nothing_to_teach(name):
    method = build(name)
    (net,) = nets(method, 5)
    exact = {"teacher0": {"kernel": jnp.eye(5), "bias": jnp.zeros(5)}}
    own = exact if name == "tinybert" else {}
    np.testing.assert_allclose(loss(method, net, net, own), 0, atol=1e-7)


@pytest.mark.parametrize("name", NAMES[1:])
def test_what_stands_at_padded_tokens_changes_nothing(name):
    method = build(name)
    student, teacher = nets(method, 5, 7)
    params, _ = method.init(make_spec(student, (teacher,)), jax.random.key(0))
    real = np.asarray(student.mask * teacher.mask)

    def spoil(net):
        def at(tap):
            if tap.shape[1:] == (2, 4, 4):
                both = real[:, None, :, None] * real[:, None, None, :]
                return jnp.where(both > 0, tap, 1e3)
            return jnp.where(real.reshape(6, 4, *[1] * (tap.ndim - 2)) > 0, tap, 1e3)

        return net.replace(taps={k: at(v) for k, v in net.taps.items() if "/" in k or k == "embed"})

    found = loss(method, spoil(student), spoil(teacher), params)
    close(found, loss(method, student, teacher, params))


def test_relations_do_not_hang_on_the_heads_of_either_net():
    method = build("minilm_v2", relation_heads=2)
    student, teacher = nets(method, 5, 7)
    one = teacher.replace(
        taps={k: v.reshape(6, 4, 1, -1) if "attn" in k else v for k, v in teacher.taps.items()}
    )
    close(loss(method, student, one), loss(method, student, teacher))


def test_patience_knows_directions_alone_and_named_layers():
    method = build("pkd", layers={"block01": "block00"})
    assert method.layers == (("block01", "block00"),)
    student, teacher = nets(method, 5, 5)
    longer = teacher.replace(taps={k: 3 * v for k, v in teacher.taps.items()})
    close(loss(method, student, longer), loss(method, student, teacher))
    a, b = student.taps["block01/out"][:, 0], teacher.taps["block00/out"][:, 0]
    cos = jnp.sum(a * b, 1) / (jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1))
    close(loss(method, student, teacher), 2 - 2 * cos)


@pytest.mark.parametrize("name", NAMES)
def test_a_net_without_attention_is_refused(name):
    method = build(name)
    (net,) = nets(method, 5)
    convolutional = Outputs(net.logits, net.features, {"features": net.features})
    for pair in ((convolutional, net, "student"), (net, convolutional, "teacher 0")):
        with pytest.raises(ValueError, match=rf"distill.{name} reads .*: the {pair[2]} has none"):
            method.check(make_spec(pair[0], (pair[1],)))
    with pytest.raises(ValueError, match=f"distill.{name} needs a teacher"):
        method.check(make_spec(net, ()))
    assert re.fullmatch(method.student_taps, "features")


def test_what_cannot_be_compared_is_named():
    student, teacher = nets(build("tinybert"), 5, 7)
    three = {k: jnp.repeat(v, 2, 1) if "scores" in k else v for k, v in teacher.taps.items()}
    for name in ("tinybert", "minilm_v1"):
        other = teacher.replace(taps=three | nets(build(name), 5)[0].taps | three)
        ours = student.replace(taps=student.taps | nets(build(name), 5)[0].taps)
        with pytest.raises(ValueError, match=r"heads.*they are \{'student': 2, 'teacher 0': 4\}"):
            build(name).check(make_spec(ours, (other,)))
    with pytest.raises(registry.UnknownName, match=r"block of the teacher 0 in distill.tinybert"):
        build("tinybert", layers={"block00": "block7"}).check(make_spec(student, (teacher,)))
    student, teacher = nets(build("minilm_v2"), 5, 7)
    with pytest.raises(ValueError, match="relation_heads = 3 does not divide the 10 units"):
        build("minilm_v2", relation_heads=3).check(make_spec(student, (teacher,)))
    with pytest.raises(ValueError, match="teacher_block = 2, but the teacher 0 has 2 blocks"):
        build("minilm_v2", teacher_block=2).check(make_spec(student, (teacher,)))
    with pytest.raises(registry.UnknownName, match=r"reduction of distill.pkd"):
        build("pkd", reduction="max")
