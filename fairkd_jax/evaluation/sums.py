"""Counts by group of one batch, addable over batches and hosts: what every fairness number needs.

On a device counts are int32 and sums float32; the host adds them up in int64 and float64, so that
no count is ever rounded and the order of batches does not show.
"""

import functools
import operator
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int, Integer

from fairkd_jax.data.dataset import Info
from fairkd_jax.types import Array, Batch

NUM_BINS = 15  # of the calibration error, as in Guo et al. (arXiv 1706.04599)


@struct.dataclass
class Sums:
    """Additive facts about predictions on real rows; `a + b` is that of both sets of rows.

    As group is label * A + attribute, `predicted` is a confusion matrix for each attribute. Rows
    without finite log-probabilities predict nothing: they are in `not_finite` and nowhere else.
    """

    predicted: Array  # int [G, C], rows by group and predicted label
    loss: Array  # float [G], cross-entropy
    squared_error: Array  # float [G], between probabilities and one-hot label, over labels
    bin_count: Array  # int [bins], rows by confidence in the predicted label
    bin_confidence: Array  # float [bins]
    bin_correct: Array  # int [bins]
    not_finite: Array  # int [G], rows whose logits are NaN or infinite, or too far apart
    subpopulations: Array  # int [E, C, C], rows by subpopulation, label and predicted label

    @classmethod
    def zero(
        cls,
        num_groups: int,
        num_labels: int,
        num_bins: int = NUM_BINS,
        num_subpopulations: int = 0,
    ) -> "Sums":
        """No rows, on the host (int64 and float64)."""
        return cls(
            predicted=np.zeros((num_groups, num_labels), np.int64),
            loss=np.zeros(num_groups),
            squared_error=np.zeros(num_groups),
            bin_count=np.zeros(num_bins, np.int64),
            bin_confidence=np.zeros(num_bins),
            bin_correct=np.zeros(num_bins, np.int64),
            not_finite=np.zeros(num_groups, np.int64),
            subpopulations=np.zeros((num_subpopulations, num_labels, num_labels), np.int64),
        )

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(operator.add, self, other)


def sizes_of(info: Info) -> dict[str, int]:
    """What a set says of the sizes that `Sums.zero` and `count` are asked for."""
    return {
        "num_groups": len(info.group_names),
        "num_labels": len(info.label_names),
        "num_subpopulations": len(info.subpopulations),
    }


def label_map(net_label_names: tuple[str, ...], info: Info) -> Int[np.ndarray, "C_net"]:
    """For each class of a net, the label of the set that it counts as, by name.

    `info.collapses` says which other names count as a label of the set: a net that knows neutral
    and contradiction can be scored on a set that knows only non-entailment.
    Raises ValueError where a class has no label, or a label no class.
    """
    place = {}
    for i, name in enumerate(info.label_names):
        place |= dict.fromkeys(info.collapses.get(name, ()), i)
    place |= {name: i for i, name in enumerate(info.label_names)}
    found = [place.get(name) for name in net_label_names]
    if set(found) != set(range(len(info.label_names))):
        raise ValueError(
            f"labels of the net {list(net_label_names)} do not match those of the set "
            f"{list(info.label_names)} (collapsing {dict(info.collapses)})"
        )
    return np.asarray(found, np.int32)


def finite_rows(logits: Float[Array, "B C"]) -> Bool[Array, "B"]:
    """Where each class has a finite log-probability: no NaN, no infinity, no loss without bound."""
    return jnp.all(jnp.isfinite(jax.nn.log_softmax(logits)), axis=1)


@functools.partial(
    jax.jit, static_argnames=("num_groups", "num_labels", "num_bins", "num_subpopulations")
)
def count(
    logits: Float[Array, "B C_net"],
    batch: Batch,
    labels: Integer[Array, "C_net"],
    *,
    num_groups: int,
    num_labels: int,
    num_bins: int = NUM_BINS,
    num_subpopulations: int = 0,
) -> Sums:
    """Sums of one batch, over rows with `real` 1; over a sharded batch, of the global batch.

    A batch has "member", bool [B, E], where there are subpopulations to count.

    `labels` is a `label_map`: the prediction is the net's largest class (the first of equals), then
    mapped; the probability of a label is the sum over the classes that count as it. Rows of logits
    that are not finite are counted apart.
    Bins are of equal width, open on the left and closed on the right.
    """
    finite = finite_rows(logits)
    real = (batch["real"] > 0) & finite
    log_probs = jax.nn.log_softmax(logits)
    predicted = labels[jnp.argmax(logits, axis=1)]
    correct = predicted == batch["label"]

    def log_prob(label: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(log_probs, axis=1, where=labels == label[:, None])

    confidence = jnp.exp(log_prob(predicted))
    to_label = jax.nn.one_hot(labels, num_labels, dtype=log_probs.dtype)
    probs = jnp.matmul(jnp.exp(log_probs), to_label, precision="highest")
    error = probs - jax.nn.one_hot(batch["label"], num_labels, dtype=probs.dtype)

    edges = jnp.linspace(0, 1, num_bins + 1, dtype=confidence.dtype)[1:-1]
    place = jnp.sum(confidence[:, None] > edges, axis=1)
    of_group = batch["group"][:, None] == jnp.arange(num_groups)
    in_group = of_group & real[:, None]
    left_out = of_group & ((batch["real"] > 0) & ~finite)[:, None]
    in_bin = (place[:, None] == jnp.arange(num_bins)) & real[:, None]
    confusion = jnp.zeros((num_subpopulations, num_labels, num_labels), jnp.int32)
    if num_subpopulations:
        member = jnp.asarray(batch["member"], bool) & real[:, None]
        confusion = confusion.at[:, batch["label"], predicted].add(member.T.astype(jnp.int32))

    def total(values: jax.Array, member: jax.Array) -> jax.Array:
        # selected, not multiplied: a row left out may hold NaN; summed, not a dot product: on
        # accelerators that would round the values to bfloat16 or tf32
        return jnp.sum(jnp.where(member, values[:, None], 0), axis=0)

    return Sums(
        predicted=jnp.zeros((num_groups, num_labels), jnp.int32)
        .at[batch["group"], predicted]
        .add(real.astype(jnp.int32)),
        loss=total(-log_prob(batch["label"]), in_group),
        squared_error=total(jnp.sum(error**2, axis=1), in_group),
        bin_count=jnp.sum(in_bin, axis=0, dtype=jnp.int32),
        bin_confidence=total(confidence, in_bin),
        bin_correct=jnp.sum(in_bin & correct[:, None], axis=0, dtype=jnp.int32),
        not_finite=jnp.sum(left_out, axis=0, dtype=jnp.int32),
        subpopulations=confusion,
    )


def recount(
    sums: Sums, rows: Mapping[str, np.ndarray], predicted: Integer[np.ndarray, "n"]
) -> Sums:
    """The same sums, on the host, with other predictions in the place of the net's.

    `rows` are those that were counted: label, group and, where there are subpopulations, member.
    Loss, squared error and bins stay those of the net's probabilities.
    """
    counts, confusion = np.zeros_like(sums.predicted), np.zeros_like(sums.subpopulations)
    np.add.at(counts, (rows["group"], predicted), 1)
    if len(confusion):
        row, part = np.nonzero(rows["member"])
        np.add.at(confusion, (part, rows["label"][row], predicted[row]), 1)
    return sums.replace(predicted=counts, subpopulations=confusion)
