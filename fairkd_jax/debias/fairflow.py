"""An approximation of FairFlow: undecided on corrupted inputs (Cheng and Amiri, EMNLP 2024).

`mean loss + weight mean_v KL(U || p(z(v))) + contrast L_con` (arXiv 2503.17632) over biased views v
of each input, with U uniform. Its code is not published and its README gives the idea alone:
the form of L_con, all weights and what is corrupted how much are ours.

A step costs 3.9x that of ERM (processor time, ResNet tiny, 64 x 32 px): each of the three views is
a pass of the student.
"""

import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax import geometry
from fairkd_jax.debias.altered import check_pieces, draws, dropped, shuffled
from fairkd_jax.debias.base import Debiaser
from fairkd_jax.losses import masked_mean, of_rows
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array, Batch, Pass, Spec


@struct.dataclass
class Zero:
    """Zeroes a share `rate` of the units of an intermediate, others for each example."""

    real: Array  # [B]
    key: Array
    rate: Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(draws(self.real, self.key, *x.shape[1:]) < self.rate, 0, x)


def _shuffle(method: "FairFlow", inputs: dict[str, Array], batch: Batch, key: JaxArray) -> Pass:
    return Pass(shuffled(inputs, batch["real"], key, method.grid))


def _drop(method: "FairFlow", inputs: dict[str, Array], batch: Batch, key: JaxArray) -> Pass:
    return Pass(dropped(inputs, batch["real"], key, method.grid, method.rate))


def _zero(method: "FairFlow", inputs: dict[str, Array], batch: Batch, key: JaxArray) -> Pass:
    return Pass(inputs, {method.tap: Zero(batch["real"], key, method.rate)})


VIEWS: Mapping[str, Callable[..., Pass]] = {"shuffle": _shuffle, "drop": _drop, "zero": _zero}


def undecided(logits: Float[JaxArray, "B C"]) -> Float[JaxArray, "B"]:
    """`KL(U || softmax(logits))`, 0 where all labels are as likely."""
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.mean(log_probs, axis=1) - jnp.log(logits.shape[1])


def contrastive(
    clean: Float[JaxArray, "B D"],
    biased: Float[JaxArray, "V B D"],
    same: Float[JaxArray, "B B"],
    real: Float[JaxArray, "B"],
    temperature: Array,
) -> Float[JaxArray, "B"]:
    """Supervised contrast (arXiv 2004.11362, eq. 2) of clean examples with biased views, [B].

    Positives are other clean examples, as far as they have the `same` label; negatives all views
    of all real examples. 0 for an example without positives.
    """
    anchors, *others = (geometry.unit(of_rows(x, real)) for x in (clean, *biased))
    others = jnp.concatenate(others)
    near, far = (geometry.products(anchors, x) / temperature for x in (anchors, others))
    least = jnp.finfo(near.dtype).min
    positive = same * real * (1 - jnp.eye(len(real), dtype=near.dtype))
    far = jnp.where(jnp.tile(real, len(biased)) > 0, far, least)
    all_of_them = jnp.concatenate([jnp.where(positive > 0, near, least), far], axis=1)
    log_share = near - jax.nn.logsumexp(all_of_them, axis=1, keepdims=True)
    log_share = jnp.where(positive > 0, log_share, 0)
    return -jnp.sum(positive * log_share, axis=1) / jnp.maximum(jnp.sum(positive, axis=1), 1.0)


@struct.dataclass
class FairFlow(Debiaser):
    """Explicit views of the inputs, "shuffle" and "drop", and an implicit one inside, "zero".

    Tokens are shuffled within their text, images by patches; dropped tokens are masked.
    """

    couples_examples = True
    search = {"weight": (0.3, 1.0), "contrast": (0.03, 0.1, 0.3)}

    weight: Array = 1.0  # of the divergence from uniform, a mean over views
    contrast: Array = 0.1  # of the contrastive loss
    temperature: Array = 0.1  # of cosines in it
    rate: Array = 0.5  # what share of tokens, patches or units is dropped or zeroed
    views: tuple[str, ...] = struct.field(pytree_node=False, default=("shuffle", "drop", "zero"))
    tap: str = struct.field(pytree_node=False, default="features")  # what "zero" zeroes part of
    grid: int = struct.field(pytree_node=False, default=4)  # patches down and across an image

    @property
    def taps(self) -> str:
        """Where it zeroes, so that a wrong name is known before training."""
        return re.escape(self.tap) if "zero" in self.views else ""

    def check(self, spec: Spec) -> None:
        """Raises UnknownName for a view that is not there, ValueError for none or a wrong number,
        or for inputs that cannot be altered.
        """
        for view in self.views:
            if view not in VIEWS:
                raise UnknownName(view, "fairflow: view", VIEWS)
        if not self.views:
            raise ValueError(f"fairflow: views = {self.views}, expected some of {sorted(VIEWS)}")
        if not (self.temperature > 0 and 0 <= self.rate <= 1):
            raise ValueError(
                f"fairflow: temperature = {self.temperature}, rate = {self.rate}; expected a "
                "number above 0, a share from 0 to 1"
            )
        check_pieces(spec, "fairflow", self.grid)

    def passes(self, inputs, outputs, batch, now, key):
        """The student as it is, and on each biased view."""
        keys = jax.random.split(key, len(self.views))
        views = {f"student/{v}": VIEWS[v](self, inputs, batch, k) for v, k in zip(self.views, keys)}
        return {"student": Pass(inputs)} | views

    def __call__(self, terms, outputs, batch, params, now, key):
        """Adds both losses to the mean."""
        real, clean = batch["real"], outputs["student"].features
        biased = [outputs[f"student/{view}"] for view in self.views]
        doubt = masked_mean(sum(undecided(out.logits) for out in biased) / len(biased), real)
        same = (batch["label"][:, None] == batch["label"]).astype(clean.dtype)
        features = jnp.stack([out.features for out in biased])
        contrast = contrastive(clean, features, same, real, self.temperature)
        contrast = masked_mean(contrast, real)
        loss = masked_mean(terms.total, real) + self.weight * doubt + self.contrast * contrast
        return loss, now.memory, {"undecided": doubt, "contrast": contrast}
