"""Domain-adversarial training against the attribute, by gradient reversal (arXiv 1505.07818).

A discriminator reads the attribute from the student's features and descends on its loss `L_d`; the
features ascend on it. `conditional` is CDANN: the discriminator also sees the label (arXiv
1711.10455).
"""

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from fairkd_jax.debias.base import Debiaser, require_attributes
from fairkd_jax.losses import cross_entropy, masked_mean
from fairkd_jax.types import Array, Spec


@jax.custom_vjp
def reverse_gradient(x: Float[JaxArray, "*shape"], strength: Array) -> Float[JaxArray, "*shape"]:
    """`x`; its gradient is multiplied by `-strength`, and `strength` gets none."""
    return x


reverse_gradient.defvjp(
    lambda x, strength: (x, strength),
    lambda strength, g: (-strength * g, jnp.zeros_like(strength)),
)


def dense_layers(sizes: Sequence[int], keys: Iterable) -> dict[str, dict[str, JaxArray]]:
    """Parameters of dense layers between each size and the next, a key a layer."""
    make = jax.nn.initializers.lecun_normal()
    return {
        f"layer{i}": {"kernel": make(k, sizes[i : i + 2]), "bias": jnp.zeros(sizes[i + 1])}
        for i, k in enumerate(keys)
    }


def discriminate(
    layers: dict, x: Float[JaxArray, "B D"], activation: Callable = jax.nn.relu
) -> Float[JaxArray, "B A"]:
    """Logits over attributes or labels: dense layers with an activation between them."""
    for i in range(len(layers)):
        x = activation(x) if i else x
        x = x @ layers[f"layer{i}"]["kernel"] + layers[f"layer{i}"]["bias"]
    return x


@struct.dataclass
class DANN(Debiaser):
    """`mean loss + L_d`, `L_d = CE(attribute) + gradient_penalty |dCE / d input|^2`.

    One optimizer moves all parameters at once; DomainBed, whose losses these are, gives each player
    its own Adam (first moment .5) and turns.
    """

    sees_attributes = True
    search = {"strength": (0.1, 0.3, 1.0), "gradient_penalty": (0.0, 1.0)}

    strength: Array = 1.0  # of the reversed gradient at the features (lambda)
    gradient_penalty: Array = 0.0
    conditional: bool = struct.field(pytree_node=False, default=False)  # adds a label embedding
    width: int = struct.field(pytree_node=False, default=256)  # of the hidden layers
    depth: int = struct.field(pytree_node=False, default=3)  # dense layers; 1: linear

    def check(self, spec: Spec) -> None:
        """Raises ValueError for one attribute alone, or a discriminator without layers or width."""
        require_attributes(spec, "dann")
        if self.depth < 1 or self.width < 1:
            raise ValueError(f"dann: depth = {self.depth}, width = {self.width}; both from 1 on")

    def init(self, spec, key):
        """Own parameters: the discriminator's layers, and embeddings of labels if conditional."""
        features = spec.student.features.shape[-1]
        sizes = (features, *[self.width] * (self.depth - 1), spec.num_attributes)
        *keys, embed = jax.random.split(key, self.depth + 1)
        params = {"discriminator": dense_layers(sizes, keys)}
        if self.conditional:
            shape = (spec.num_classes, features)
            params["label_embedding"] = jax.random.normal(embed, shape)
        return params, {}

    def __call__(self, terms, outputs, batch, params, now, key):
        """Adds the discriminator's loss, seen through a gradient reversal by the features."""
        x = reverse_gradient(outputs["student"].features, jnp.asarray(self.strength))
        if self.conditional:
            x = x + params["label_embedding"][batch["label"]]

        def by_example(x):
            return cross_entropy(discriminate(params["discriminator"], x), batch["attribute"])

        losses, pullback = jax.vjp(by_example, x)
        (slope,) = pullback(jnp.ones_like(losses))
        losses = losses + self.gradient_penalty * jnp.sum(slope**2, axis=1)
        adversary = masked_mean(losses, batch["real"])
        metrics = {"discriminator_loss": adversary}
        return masked_mean(terms.total, batch["real"]) + adversary, now.memory, metrics
