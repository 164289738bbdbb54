"""What adapters share that compare intermediates: a pair of them, and a method's loss on it.

Oracles hold maps as [B, K, Y, X] and kernels as [out, in, Y, X]; here both end in channels.
"""

import jax
import jax.numpy as jnp
from method_oracles.cases import make_spec

from fairkd_jax.distill.pairs import meet
from fairkd_jax.losses import masked_mean
from fairkd_jax.types import Now, Outputs

PAIR = (("a", "b"),)
NAME = "a_to_b_teacher0"  # the key of what is learned for it


def last(x):
    """Channels last."""
    return jnp.moveaxis(x, 1, -1) if x.ndim == 4 else x


def kernel(x):
    """[out, in, Y, X] as [Y, X, in, out], or [in, out] where there is but one place."""
    x = jnp.transpose(x, (2, 3, 1, 0))
    return x[0, 0] if x.shape[:2] == (1, 1) else x


def nets(pairs, ours, theirs):
    """(student, teacher) with these intermediates, by pair."""

    def outputs(names, values):
        return Outputs(jnp.zeros((len(values[0]), 2)), taps=dict(zip(names, map(last, values))))

    return outputs([s for s, _ in pairs], ours), outputs([t for _, t in pairs], theirs)


def now_of(dtype, memory=(), groups: int = 4, classes: int = 2) -> Now:
    """What a step tells, in the precision under test."""
    counts = jnp.ones(groups, dtype), jnp.ones(classes, dtype)
    return Now(jnp.ones((), dtype), *counts, jnp.int32(0), memory)


def kd_of(method, ours, theirs, params=(), batch=(), **told):
    """What a method says of intermediates, by pair."""
    student, teacher = nets(method.pairs, ours, theirs)
    dtype = ours[0].dtype
    batch = {"real": jnp.ones(len(ours[0]), dtype), **dict(batch)}
    return method(student, (teacher,), batch, dict(params), now_of(dtype, **told))


def loss_of(method, ours, theirs, *rest, **told):
    """The mean over examples and the penalty."""
    kd = kd_of(method, ours, theirs, *rest, **told)
    return masked_mean(kd.per_example, jnp.ones(len(ours[0]), ours[0].dtype)) + kd.penalty


def start(method, fs, ft):
    """Own parameters of a method of one pair."""
    student, teacher = nets(method.pairs, [fs], [ft])
    return method.init(make_spec(student=student, teachers=(teacher,)), jax.random.key(0))[0]


def met(fs, ft):
    """The pair as a method sees it."""
    student, teacher = nets(PAIR, [fs], [ft])
    batch = {"real": jnp.ones(len(fs), fs.dtype)}
    (((found,),),) = (list(meet(PAIR, student, (teacher,), batch)),)
    return found


def value_and_grad(method, x, *rest, **told):
    """(loss, its gradient to the student's features) of a case of one pair, fs and ft."""
    return jax.value_and_grad(lambda fs: loss_of(method, [fs], [x["ft"]], *rest, **told))(x["fs"])
