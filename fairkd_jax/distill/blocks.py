"""Blocks of transformers: which of two nets meet, and what distillers of their inside share."""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.losses import kl_divergence
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array, Outputs, Spec

Layers = tuple[tuple[str, str], ...]  # (the student's block, the teacher's)


def taps(*kinds: str, stack: str = "enc") -> str:
    """Regular expression of intermediates of every block; of T5, in one of its stacks.

    And of "features", which every net has: so `check` says what a net lacks, not the tape.
    """
    return rf"(?:{stack}/)?block\d\d/(?:{'|'.join(kinds)})|features"


def names(net: Outputs, kind: str, stack: str = "enc") -> list[str]:
    """The blocks that saved the intermediate `kind`, from the input on."""
    pattern = rf"((?:{stack}/)?block\d\d)/{kind}"
    return sorted(m[1] for tap in net.taps if (m := re.fullmatch(pattern, tap)))


def meet(student: Sequence[str], teacher: Sequence[str], layers: Layers = ()) -> Layers:
    """Which blocks meet: as `layers` say, else by depth, the i-th of n the i m / n-th of m."""
    if layers:
        return layers
    n, m = len(student), len(teacher)
    depths = [max(round((i + 1) * m / n), 1) - 1 for i in range(n)]
    return tuple((block, teacher[depth]) for block, depth in zip(student, depths))


def check(
    spec: Spec, method: str, *kinds: str, layers: Layers = (), stack: str = "enc"
) -> tuple[tuple[str, Outputs], ...]:
    """All nets, each with its place in messages.

    Raises ValueError without a teacher or for a net without such intermediates, UnknownName for a
    block in `layers` that is not there.
    """
    if not spec.teachers:
        raise ValueError(f"distill.{method} needs a teacher: there is none")
    nets = (("student", spec.student), *((f"teacher {k}", x) for k, x in enumerate(spec.teachers)))
    for place, net in nets:
        there = names(net, kinds[0], stack)
        if any(not names(net, kind, stack) for kind in kinds):
            raise ValueError(
                f"distill.{method} reads {', '.join(map(repr, kinds))} of a transformer's blocks, "
                f"as bert, t5 and vit have them: the {place} has none"
            )
        for block in (pair[place != "student"] for pair in layers):
            if block not in there:
                raise UnknownName(block, f"block of the {place} in distill.{method}:", there)
    return nets


def check_equal(
    nets: Sequence[tuple[str, Outputs]], method: str, kind: str, axis: int, what: str
) -> None:
    """Raises ValueError where the nets have different sizes of an axis of an intermediate."""
    sizes = {place: net.taps[f"{names(net, kind)[0]}/{kind}"].shape[axis] for place, net in nets}
    if len({*sizes.values()}) > 1:
        raise ValueError(f"distill.{method} compares {what} one by one, but they are {sizes}")


def real_tokens(student: Outputs, teacher: Outputs, like: Array) -> Float[JaxArray, "B T"]:
    """1 for tokens that are real in both nets; `like` is [B, T, ...]."""
    mask = jnp.ones(like.shape[:2], jnp.float32)
    for net in (student, teacher):
        mask = mask if net.mask is None else mask * net.mask
    return jax.lax.stop_gradient(mask)


def relation(x: Float[JaxArray, "B T N H"], heads: int) -> Float[JaxArray, "B R T T"]:
    """Scaled dot products of tokens' vectors, cut anew into `heads` (arXiv 2012.15828)."""
    x = jnp.moveaxis(x.reshape(*x.shape[:2], heads, -1), 2, 1)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    scores = jnp.matmul(x, x.swapaxes(2, 3), preferred_element_type=dtype)
    return scores * x.shape[3] ** -0.5


def attention_divergence(
    teacher: Float[JaxArray, "B N T T"],
    student: Float[JaxArray, "B N T T"],
    mask: Float[JaxArray, "B T"],
) -> Float[JaxArray, "B"]:
    """`KL(softmax(teacher) || softmax(student))` over real keys, mean over heads, real queries."""
    rows = (-1, teacher.shape[3])
    keys = mask[:, None, None, :] > 0
    teacher, student = (jnp.where(keys, x, -1e9).reshape(rows) for x in (teacher, student))
    kl = kl_divergence(teacher, student).reshape(len(mask), -1, mask.shape[1])
    kl = jnp.where(mask[:, None] > 0, kl, 0)
    return jnp.sum(kl, axis=(1, 2)) / (kl.shape[1] * jnp.maximum(jnp.sum(mask, axis=1), 1.0))
