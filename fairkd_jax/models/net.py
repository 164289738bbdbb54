"""A network as two pure functions over nested dicts: the only file that touches the NNX boundary.

`Net.init(key)` makes variables and `Net.apply(variables, batch, ...)` runs them; both may be used
under any JAX transformation. A Net hashes by value: equal architectures share compiled programs.
"""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from fairkd_jax import registry
from fairkd_jax.models.tape import Tape
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array, Batch, Outputs


@dataclasses.dataclass(frozen=True)
class Architecture(abc.ABC):
    """The contract of a file in `models/`: a frozen dataclass of sizes that makes an NNX module.

    The module holds `Param` and `BatchStat` and nothing else, has no mode switches, and is called
    as `module(inputs, tape, train=..., rngs=...) -> Outputs` with `inputs` the arrays of its view.
    """

    view: ClassVar[str]  # the view it reads unless the config names another: "wordpiece", "image"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]  # name -> field values

    # How the family is published, for those that are: read by `pretrained.py`.
    model_type: ClassVar[str] = ""  # what config.json calls it
    ignored_keys: ClassVar[str] = ""  # regular expression of keys that hold no weight of ours

    @abc.abstractmethod
    def fit(self, facts: Mapping[str, Any]) -> "Architecture":
        """Itself with the sizes that only the data know (vocabulary, image), from the view's facts.

        Raises ValueError where a size that was given does not go with the data.
        """

    @abc.abstractmethod
    def module(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        """The network, with fresh parameters."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Architecture":
        """The architecture that a published config.json describes.

        Raises ValueError for a variant that the family does not have.
        """
        raise NotImplementedError(f"{cls.__name__} has no published form")

    def published_names(self) -> tuple[dict[str, str], ...]:
        """The key table, a dict for each published dialect: our module path -> their name."""
        return ()


@dataclasses.dataclass(frozen=True)
class Net:
    """An architecture with a head of `num_classes`, reading the batch view `view`."""

    architecture: Architecture
    num_classes: int
    view: str

    def init(self, key: Array) -> dict[str, Any]:
        """`{"params": nested dict, "stats": nested dict}`, fresh from a JAX key."""
        _, params, stats = _split(self.architecture.module(self.num_classes, nnx.Rngs(key)))
        return {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(stats)}

    def apply(
        self,
        variables: Mapping[str, Any],
        batch: Batch,
        *,
        train: bool,
        key: Array | None = None,
        save: str = "",
        edits: Mapping[str, Any] | None = None,
    ) -> tuple[Outputs, dict[str, Any]]:
        """One forward pass: (Outputs, BatchNorm statistics after it).

        `train` switches dropout (which needs `key`) and batch statistics; `save` is a regular
        expression over tap names, `edits` replaces intermediates (see `tape.py`).
        Raises UnknownName for a view, tap or edit that is not there.
        """
        if self.view not in batch["views"]:
            raise UnknownName(self.view, "view of the batch", batch["views"])
        module = nnx.merge(_graph(self), variables["params"], variables["stats"])
        tape = Tape(save, dict(edits or {}))
        rngs = nnx.Rngs(key) if key is not None else None
        inputs = jax.tree.map(jnp.asarray, batch["views"][self.view])  # numpy outside of jit
        outputs = module(inputs, tape, train=train, rngs=rngs)
        stats = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
        return (
            Outputs(
                logits=outputs.logits.astype(jnp.float32),
                features=outputs.features.astype(jnp.float32),
                taps=tape.finish(),
                mask=inputs["mask"].astype(jnp.float32) if "mask" in inputs else None,
            ),
            stats,
        )

    def shapes(self, batch: Batch, save: str = "") -> Outputs:
        """The shapes that `apply` would return for a batch (of arrays or of shapes)."""
        variables = self.variable_shapes()
        return jax.eval_shape(
            lambda v, b: self.apply(v, b, train=False, save=save)[0], variables, batch
        )

    def variable_shapes(self) -> dict[str, Any]:
        """The shapes that `init` would return; nothing is computed."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def num_parameters(self) -> int:
        """How many trainable numbers it has."""
        return sum(x.size for x in jax.tree.leaves(self.variable_shapes()["params"]))


def _split(module: nnx.Module):
    """(graph, parameters, statistics); anything else in the module fails here, at construction."""
    return nnx.split(module, nnx.Param, nnx.BatchStat)


@functools.lru_cache(maxsize=256)
def _graph(net: Net):
    shapes = nnx.eval_shape(lambda: net.architecture.module(net.num_classes, nnx.Rngs(0)))
    return _split(shapes)[0]


def make_net(spec: Mapping[str, Any], num_classes: int, facts: Mapping[str, Any]) -> Net:
    """The net that `{"name": "bert", "preset": "tiny", "view": ..., option: value}` describes.

    `facts` are those of all fitted views, by view name: {"wordpiece": {"vocab_size": ...}}.
    Raises UnknownName for an unknown family, preset, option or view.
    """
    options = dict(spec)
    family = registry.plugin("models", options.get("name", ""))
    preset = options.pop("preset", None)
    view = options.pop("view", None) or family.view
    if preset is not None:
        if preset not in family.presets:
            raise UnknownName(preset, f"preset of model {options['name']!r}:", family.presets)
        options = dict(family.presets[preset]) | options
    if view not in facts:
        raise UnknownName(view, f"view for model {options['name']!r}:", facts)
    return Net(registry.build("models", options).fit(facts[view]), num_classes, view)
