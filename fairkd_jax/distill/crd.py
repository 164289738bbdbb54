"""Contrastive representation distillation (arXiv 1910.10699, section 3): whose teacher is whose?

With `P = exp(<s, t> / temperature) / Z` of unit embeddings and N examples, an example's loss is
`-log P / (P + K / N)` of its own pair, less `sum log (K / N) / (P + K / N)` over K pairs with
others: once its student's embedding against remembered teachers', once the reverse. Options are
those of the reference, which weighs it 0.8.

A step costs 2.2x that of `logits` (processor time, ResNet tiny, 64 x 32 px): for each example K =
16384 others are drawn, and compared with in both directions.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from fairkd_jax import geometry
from fairkd_jax.distill import pairs, projections
from fairkd_jax.distill.base import FEATURES, Distiller, Pair
from fairkd_jax.losses import labelled
from fairkd_jax.types import KD, Array, Spec

UNSET = -1e30  # the logarithm of a constant that is not known yet
LEAST = 1e-7  # added to P + K / N


@struct.dataclass
class CRD(Distiller):
    """By example, summed over pairs; of intermediates with positions the mean is embedded.

    Memory holds both embeddings of every example, moving averages brought to length 1, and they are
    compared as they were before the step. Z is set in the first step, to N times the mean of the
    batch's exponentials, and kept. As in the reference's script others have another label, or one
    not seen yet; which are drawn hangs on seed, step and example alone.
    """

    reads = "inside"
    couples_examples = True  # the first batch sets Z

    pairs: tuple[Pair, ...] = struct.field(pytree_node=False, default=FEATURES)
    width: int = struct.field(pytree_node=False, default=128)  # of embeddings
    negatives: int = struct.field(pytree_node=False, default=16384)  # K
    temperature: Array = 0.07
    momentum: Array = 0.5  # of the memory

    def check(self, spec: Spec) -> None:
        """Raises ValueError without pairs or teacher, or for a number that cannot be.

        Raises UnknownName for an unknown intermediate.
        """
        if min(self.width, self.negatives, spec.num_examples) < 1 or self.temperature <= 0:
            raise ValueError(
                f"distill.crd: width = {self.width}, negatives = {self.negatives}, temperature = "
                f"{self.temperature} and num_examples = {spec.num_examples} (one more than the "
                "largest id of the training split) must be above 0"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(
                f"distill.crd: momentum = {self.momentum}, expected 0 up to, but not, 1"
            )
        pairs.check(self, spec, same="nothing")

    def init(self, spec, key):
        """Own parameters: dense maps of both; memory: embeddings, Z, labels, the key of draws."""
        key, bank_key, draw_key = jax.random.split(key, 3)

        def embeddings(key, ours, theirs):
            keys = zip(("student", "teacher"), jax.random.split(key), (ours, theirs))
            return {who: projections.dense(k, shape[-1], self.width) for who, k, shape in keys}

        def banks(key, ours, theirs):
            shape, size = (spec.num_examples, self.width), math.sqrt(3 / self.width)
            both = zip(("student", "teacher"), jax.random.split(key))
            made = {who: jax.random.uniform(k, shape, minval=-size, maxval=size) for who, k in both}
            return made | {"log_z": jnp.full(2, UNSET, jnp.float32)}

        memory = projections.for_each(self.pairs, spec, bank_key, banks)
        memory |= {
            "label": jnp.full(spec.num_examples, -1, jnp.int32),  # -1: not seen yet
            "key": jax.random.key_data(draw_key),
        }
        return projections.for_each(self.pairs, spec, key, embeddings), memory

    def __call__(self, student, teachers, batch, params, now):
        """Both directions, mean over teachers by their shares, [B]."""
        after = dict(now.memory)
        here = jnp.where(labelled(batch) > 0, batch["id"], len(after["label"]))  # beyond: dropped
        after["label"] = after["label"].at[here].set(batch["label"], mode="drop")
        drawn = self._draw(after, batch, now)

        def loss(met):
            own, memory = params[met.name], now.memory[met.name]
            value, after[met.name] = self.contrast(met, batch["id"], drawn, own, memory)
            return value

        losses = pairs.total(loss, self.pairs, student, teachers, batch)
        return KD(per_example=losses, penalty=jnp.zeros(()), memory=after)

    def _draw(self, memory, batch, now):
        """Ids of others, [B, K]: with ids sorted by label, those before and behind an example's."""
        labels, classes = memory["label"], now.label_counts.shape[0]
        own = jnp.where(labelled(batch) > 0, batch["label"], classes) + 1  # the last: unknown
        order, counts = jnp.argsort(labels), jnp.bincount(labels + 1, length=classes + 2)
        first, alike = (jnp.cumsum(counts) - counts)[own], counts[own]
        key = jax.random.fold_in(jax.random.wrap_key_data(memory["key"]), now.step)

        def of_one(i, first, alike):
            most = jnp.maximum(len(labels) - alike, 1)
            place = jax.random.randint(jax.random.fold_in(key, i), (self.negatives,), 0, most)
            return order.at[place + jnp.where(place < first, 0, alike)].get(mode="clip")

        return jax.vmap(of_one)(batch["id"], first, alike)

    def contrast(self, met, ids, drawn, own, memory):
        """(losses [B], memory after the step) of a pair, against the examples `drawn` [B, K]."""
        embedded = zip(("student", "teacher"), met.averaged())
        v = {who: geometry.unit(projections.apply(own[who], x)) for who, x in embedded}
        size = len(memory["student"])
        chosen = jnp.concatenate([jnp.where(met.real > 0, ids, 0)[:, None], drawn], axis=1)
        losses, after = jnp.zeros_like(v["student"][:, 0]), {"log_z": memory["log_z"]}
        for i, (who, other) in enumerate((("student", "teacher"), ("teacher", "student"))):
            scores = geometry.products(v[who], memory[other]) / self.temperature
            scores = jnp.take_along_axis(scores, chosen, axis=1)
            log_z = _constant(memory["log_z"][i], jax.lax.stop_gradient(scores), met.real, size)
            after["log_z"] = after["log_z"].at[i].set(log_z)
            losses += _noise_contrastive(scores - log_z, self.negatives / size)
            after[who] = self._remember(memory[who], jax.lax.stop_gradient(v[who]), ids, met.real)
        return losses, after

    def _remember(self, bank, v, ids, real):
        """The bank with the batch's embeddings; of an example drawn twice their mean counts."""
        same = (ids[:, None] == ids) * real
        mean = geometry.products(same, v.T) / jnp.maximum(jnp.sum(same, axis=1, keepdims=True), 1)
        old = bank.at[ids].get(mode="clip")
        new = geometry.unit(self.momentum * old + (1 - self.momentum) * mean).astype(bank.dtype)
        return bank.at[jnp.where(real > 0, ids, len(bank))].set(new, mode="drop")


def _constant(log_z: Array, scores: Array, real: Array, size: int) -> Array:
    """`log Z`: as remembered or, where it is not yet, `log(N mean exp(scores))` over real rows."""
    count = jnp.maximum(jnp.sum(real), 1.0) * scores.shape[1]
    found = jax.nn.logsumexp(scores, b=real[:, None]) + jnp.log(size / count)
    unset = (log_z <= UNSET / 2) & (jnp.sum(real) > 0)
    return jnp.where(unset, found, log_z).astype(log_z.dtype)


def _noise_contrastive(log_p: Array, noise: float) -> Array:
    """From log P, [B, 1 + K], its own first; in logarithms, so that nothing overflows."""
    log_c = math.log(noise + LEAST)
    own = jax.nn.softplus(log_c - log_p[:, 0])
    others = jax.nn.softplus(log_p[:, 1:] - log_c) + log_c - math.log(noise)
    return own + jnp.sum(others, axis=1)
