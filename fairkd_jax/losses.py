"""Per-example losses, and the only three ways to reduce them: masked mean, sums and means by group.

Every loss is unreduced and float32: the caller reduces, so that any debiasing method can weigh any
loss. Log-space forms throughout: finite values and finite gradients for any finite logits.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(logits: Float[Array, "B C"], label: Int[Array, "B"]) -> Float[Array, "B"]:
    """`-log softmax(logits)[label]`."""
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probs, label[:, None], axis=1)[:, 0]


def soft_cross_entropy(
    logits: Float[Array, "B C"], targets: Float[Array, "B C"]
) -> Float[Array, "B"]:
    """`-sum_c targets[c] log softmax(logits)[c]`."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=1)


def by_share(loss: Callable[[Array], Array], batch: dict) -> Float[Array, "B"]:
    """`loss(label)` by example; of both labels by their shares where two examples are mixed."""
    own = loss(batch["label"])
    if "partner_label" not in batch:
        return own
    weight = batch["label_weight"]
    return weight * own + (1 - weight) * loss(batch["partner_label"])


def task_loss(logits: Float[Array, "B C"], batch: dict) -> Float[Array, "B"]:
    """Cross-entropy with the label, or with both labels where a method mixed examples."""
    return by_share(lambda label: cross_entropy(logits, label), batch)


def labelled(batch: dict) -> Float[Array, "B"]:
    """1 for a real example whose label is known: those that a task loss is of."""
    return batch["real"] * batch["labelled"] if "labelled" in batch else batch["real"]


def generalized_cross_entropy(
    logits: Float[Array, "B C"], label: Int[Array, "B"], q: Float[Array, ""] | float
) -> Float[Array, "B"]:
    """`(1 - p_label^q) / q` (arXiv 1805.07836); its gradient is `p_label^q` times that of CE."""
    return -jnp.expm1(-q * cross_entropy(logits, label)) / q


def kl_divergence(
    teacher_logits: Float[Array, "B C"],
    student_logits: Float[Array, "B C"],
    temperature: Float[Array, ""] | float = 1.0,
) -> Float[Array, "B"]:
    """`KL(softmax(teacher / T) || softmax(student / T))`, over classes; no gradient to the teacher.

    Precise, as its gradient is, at any temperature and as the student nears the teacher, where the
    logarithms of both probabilities cancel. With c = (student - teacher) / T less its mean over the
    teacher's probabilities p, the sum over p of c is 0, so KL = log sum p e^c = log1p(sum p
    (e^c - 1 - c)), whose terms are all positive.
    """
    teacher = jax.lax.stop_gradient(teacher_logits)
    return _divergence(*_against(teacher, student_logits, temperature))


def reverse_kl_divergence(
    teacher_logits: Float[Array, "B C"],
    student_logits: Float[Array, "B C"],
    temperature: Float[Array, ""] | float = 1.0,
) -> Float[Array, "B"]:
    """`KL(softmax(student / T) || softmax(teacher / T))`, as precise; no gradient to teacher or T.

    With c = (teacher - student) / T less its mean over the student's probabilities q, the gradient
    to the student is -q c / T: written down, for what automatic differentiation adds up cancels.
    """
    rest = jax.lax.stop_gradient((teacher_logits, jnp.asarray(temperature)))
    return _reverse_kl(student_logits, *rest)


@jax.custom_jvp
def _reverse_kl(student: Array, teacher: Array, temperature: Array) -> Array:
    return _divergence(*_against(student, teacher, temperature))


@_reverse_kl.defjvp
def _reverse_kl_jvp(inputs: tuple, tangents: tuple) -> tuple:
    log_q, _, gap, mean = parts = _against(*inputs)
    slope = jnp.exp(log_q) * (mean - gap) / inputs[2]
    return _divergence(*parts), jnp.sum(slope * tangents[0], axis=1)


def jensen_shannon_divergence(
    teacher_logits: Float[Array, "B C"],
    student_logits: Float[Array, "B C"],
    temperature: Float[Array, ""] | float = 1.0,
) -> Float[Array, "B"]:
    """`(KL(p || m) + KL(q || m)) / 2`, m = (p + q) / 2: at most log 2 (Lin, 1991).

    As precise; no gradient to teacher or T. With 2h = log q - log p it is the sum over classes of
    sqrt(p q) (h sinh h - cosh h log cosh h), whose terms are all positive.
    """
    rest = jax.lax.stop_gradient((teacher_logits, jnp.asarray(temperature)))
    return _jensen_shannon(student_logits, *rest)


@jax.custom_jvp
def _jensen_shannon(student: Array, teacher: Array, temperature: Array) -> Array:
    log_p, reach, gap, mean = parts = _against(teacher, student, temperature)
    kl = _divergence(*parts)[:, None]
    h = jnp.abs(gap - mean - kl) / 2
    small = h < 1
    near, far = jnp.where(small, h, 0.0), jnp.exp(-2 * jnp.where(small, 1.0, h))
    near = near * jnp.sinh(near) - jnp.cosh(near) * jnp.log1p(jnp.sinh(near) ** 2) / 2
    far = (1 + far) / 2 * (jnp.log(2.0) - jnp.log1p(far)) - h * far
    larger = jnp.exp(jnp.maximum(log_p, reach - kl))  # of p and q
    return jnp.sum(larger * jnp.where(small, jnp.exp(-h) * near, far), axis=1)


@_jensen_shannon.defjvp
def _jensen_shannon_jvp(inputs: tuple, tangents: tuple) -> tuple:
    """The gradient is q (u - sum q u) / 2T, u = log(q / m) less that of the likeliest class."""
    log_q, _, gap, mean = parts = _against(*inputs)
    odds = mean + _divergence(*parts)[:, None]  # log(q / p) of that class
    small = jnp.abs(gap) < 1
    near = jnp.log1p(jax.nn.sigmoid(-odds) * jnp.expm1(jnp.where(small, gap, 0.0)))
    far = jnp.logaddexp(jax.nn.log_sigmoid(odds), jax.nn.log_sigmoid(-odds) + gap)
    q, u = jnp.exp(log_q), -jnp.where(small, near, far)
    slope = q * (u - jnp.sum(q * u, axis=1, keepdims=True)) / (2 * inputs[2])
    return _jensen_shannon(*inputs), jnp.sum(slope * tangents[0], axis=1)


def _against(
    base: Float[Array, "B C"], other: Float[Array, "B C"], temperature: Float[Array, ""] | float
) -> tuple[Float[Array, "B C"], Float[Array, "B C"], Float[Array, "B C"], Float[Array, "B 1"]]:
    """(log p, log p + c, gap, its mean) of the base's probabilities p; c of `kl_divergence` is
    gap - mean, and gap is 0 where p is largest.
    """
    dtype = jnp.promote_types(other.dtype, jnp.float32)
    base, other = base.astype(dtype), other.astype(dtype)
    best = jnp.argmax(base, axis=1, keepdims=True)

    def above(x: Array) -> Array:  # before T makes it large
        return (x - jnp.take_along_axis(x, best, axis=1)) / temperature

    log_p, gap = jax.nn.log_softmax(above(base)), above(other - base)
    mean = jnp.sum(jnp.exp(log_p) * gap, axis=1, keepdims=True)
    # log p + c, as a difference of the other's logits alone
    reach = above(other) + jnp.take_along_axis(log_p, best, axis=1) - mean
    return log_p, reach, gap, mean


def _divergence(
    log_p: Float[Array, "B C"],
    reach: Float[Array, "B C"],
    gap: Float[Array, "B C"],
    mean: Float[Array, "B 1"],
) -> Float[Array, "B"]:
    """`log sum p e^c`, where c is gap - mean and the sum of p c is 0."""
    far = jnp.max(reach, axis=1) > FAR  # e^c overflows soon, and nothing cancels
    excess = _excess(
        jnp.exp(log_p), *(jnp.where(far[:, None], 0.0, x) for x in (reach, gap - mean))
    )
    return jnp.where(far, jax.nn.logsumexp(reach, axis=1), jnp.log1p(excess))


FAR = 50.0
SMALL = 0.3  # below it e^c - 1 - c by its series, to 1e-7 of itself
SERIES = (1 / 40320, 1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2)


def _excess(
    p: Float[Array, "B C"], reach: Float[Array, "B C"], c: Float[Array, "B C"]
) -> Float[Array, "B"]:
    """`sum p (e^c - 1 - c)`, with `reach` = log p + c: also where p alone underflows."""
    small = jnp.abs(c) < SMALL
    near = jnp.where(small, c, 0.0)
    series = p * near**2 * jnp.polyval(jnp.asarray(SERIES, c.dtype), near)
    other = jnp.exp(jnp.where(small, 0.0, reach)) - p * (1 + c)
    return jnp.sum(jnp.where(small, series, other), axis=1)


def masked_mean(values: Float[Array, "B"], mask: Float[Array, "B"]) -> Float[Array, ""]:
    """Mean of `values` over rows with mask 1; 0 where there are none. Fractions weigh.

    Rows with mask 0 may hold NaN or infinity, and get gradient 0.
    """
    return jnp.sum(of_rows(values, mask) * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def of_rows(values: Float[Array, "B *rest"], mask: Float[Array, "B"]) -> Float[Array, "B *rest"]:
    """`values`, 0 in rows with mask 0, which may hold anything: a product would keep NaN."""
    return jnp.where(mask.reshape(-1, *[1] * (values.ndim - 1)) == 0, 0, values)


def group_sums(
    values: Float[Array, "B"], group: Int[Array, "B"], mask: Float[Array, "B"], num_groups: int
) -> tuple[Float[Array, "G"], Float[Array, "G"]]:
    """Sum of `values` and number of rows, by group, over rows with mask 1; masks as `masked_mean`.

    A product with a one-hot matrix: over a sharded batch it is a sum over the global batch.
    """
    member = jax.nn.one_hot(group, num_groups, dtype=jnp.float32) * mask[:, None]
    # without "highest", accelerators round the values to bfloat16 or tf32
    sums = jnp.matmul(of_rows(values, mask), member, precision="highest")
    return sums, jnp.sum(member, axis=0)


def group_means(
    values: Float[Array, "B"], group: Int[Array, "B"], mask: Float[Array, "B"], num_groups: int
) -> tuple[Float[Array, "G"], Float[Array, "G"]]:
    """Mean of `values` by group (0 for a group absent from the batch), and the number of rows."""
    sums, counts = group_sums(values, group, mask, num_groups)
    return sums / jnp.maximum(counts, 1.0), counts
