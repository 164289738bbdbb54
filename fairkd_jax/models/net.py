"""A network as two pure functions over nested dicts: the only file that touches the NNX boundary.

`Net.init(key)` makes variables and `Net.apply(variables, batch, ...)` runs them; both may be used
under any JAX transformation. A Net hashes by value: equal architectures share compiled programs.
"""

import abc
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fairkd_jax import registry
from fairkd_jax.data.device import decoded_view
from fairkd_jax.models import weights
from fairkd_jax.models.tape import Tape
from fairkd_jax.models.wiring import Step
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array, Batch, Outputs

BLOCK = re.compile(r"((?:.*/)?block\d+)/")  # of a variable's path
Gather = Callable[[Any], Any]  # parameters, by the end of their paths -> the same, whole
# primitives by which parameters are gathered (`sharding.whole`), and brought into another form
ANEW = ("custom_vjp_call", "convert_element_type", "reshape", "transpose", "broadcast_in_dim")


@dataclasses.dataclass(frozen=True)
class Architecture(abc.ABC):
    """The contract of a file in `models/`: a frozen dataclass of sizes that makes an NNX module.

    The module holds `Param` and `BatchStat` and nothing else, has no mode switches, and is called
    as `module(inputs, tape) -> Outputs` with `inputs` the arrays of its view; `tape` says whether
    the pass is one of training, and draws its random numbers.
    """

    view: ClassVar[str]  # the view it reads unless the config names another: "wordpiece", "image"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]  # name -> field values
    places: ClassVar[tuple[str, ...]] = ("pretrained",)  # of a model's config: where weights lie

    # How the family is published, for those that are: read by `pretrained.py`.
    model_types: ClassVar[tuple[str, ...]] = ()  # what config.json calls it
    signature: ClassVar[str] = ""  # regular expression of a key that only its weights have
    free: ClassVar[frozenset[str]] = frozenset(  # fields that weights of any value go with
        {"dropout", "attention_dropout", "drop_path", "dtype", "remat"}
    )
    head_reads: ClassVar[frozenset[str]] = frozenset()  # fields that are free beside a fresh head
    before_head: ClassVar[tuple[str, ...]] = ()  # modules that files of some tasks do not have

    # What circuits are made of, by regular expressions over names of taps.
    enters: ClassVar[str] = r"(.*/)?embed|stem"  # where what a net reads has become numbers
    nodes: ClassVar[str] = r".*/((cross_)?head_out|mlp_out|branch_out)"  # heads each by itself
    no_edges: ClassVar[str] = "it does not say what reads and what writes its residual stream"

    def wiring(self) -> tuple[Step, ...]:
        """All that reads or writes a residual stream, in the order of the computation.

        Where sums are normalised before they go on there are no edges: (), and `no_edges` says why.
        """
        return ()

    @property
    def ignored_keys(self) -> str:
        """Regular expression of published keys that hold no weight of this net."""
        return ""

    @abc.abstractmethod
    def fit(self, facts: Mapping[str, Any]) -> "Architecture":
        """Itself with the sizes that only the data know (vocabulary, image), from the view's facts.

        Raises ValueError where a size that was given does not go with the data.
        """

    @abc.abstractmethod
    def module(self, num_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        """The network, with fresh parameters."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], keys: Iterable[str] = ()) -> "Architecture":
        """The architecture that a published config.json describes.

        `keys` are those of the weights beside it, where they are known: some files say more than
        their config. Raises ValueError for a variant that the family does not have.
        """
        raise NotImplementedError(f"{cls.__name__} has no published form")

    def to_config(self) -> dict[str, Any]:
        """The config.json of the first published dialect; `from_config` reads it back."""
        raise NotImplementedError(
            f"{type(self).__name__} has no published form: its nets cannot be exported"
        )

    def published_names(self) -> tuple[dict[str, str], ...]:
        """The key table, a dict for each published dialect, the one to export in first.

        It maps the path of a module, whose variables then have their usual names (`kernel` is
        `weight`), or of a single variable that stands alone: {"embed/cls": "vit.cls_token"}.
        Where a module may have several names, "|" stands between them, the usual one first. A
        module whose rows are a part of another's has its name and "[0/3]", the first of three.
        """
        return ()

    def axes(self) -> dict[str, tuple[str, ...]]:
        """What each axis of a variable is, for cutting a large net to a small one (transfer.py).

        It maps the path of a module to the axes of its kernel or embedding (its vectors have the
        last of them), or of a variable that stands alone to its axes:

            ""          must be as long in both nets: a kernel's height, a vocabulary, classes
            "#rows"     rows in an order that means something (positions): the first are kept
            "width"     units; the same ones are kept wherever the name stands
            ".inner"    units that no other layer knows
        """
        return {}

    def parts(self) -> dict[str, int]:
        """Axes whose units come in parts that are kept or left whole: {".heads": 12}.

        Such an axis has all units, part after part, or one number a part.
        """
        return {}

    def order(self) -> tuple[str, ...]:
        """Regular expressions of parameters from the input on: what embeds, then block by block.

        The first that matches wins; what none matches is the head and what leads to it. What a
        stack has beside its blocks goes with its last one.
        """
        blocks = [*dict.fromkeys(m[1] for path in self.axes() if (m := BLOCK.match(path)))]
        ends = {block.rpartition("/")[0]: block for block in blocks}
        ends = {block: f"|{stack}/.*" for stack, block in ends.items() if stack}
        found = [f"{block}/.*{ends.get(block, '')}" for block in blocks]
        return (r"(.*/)?(embed|stem|relative)/.*", *found) if found else ()

    def rows(self) -> dict[str, int]:
        """Arrays of its view that number rows of a table, and how many it has: {"tokens": 30522}.

        Data that name a row beyond them are refused; a vocabulary that merely could is not.
        """
        return {}

    def adapt(self, path: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """A published variable of another shape made to fit `shape`; None: it cannot be.

        Position embeddings may be interpolated, for example. `path` is ours, without collection.
        """
        return None


@dataclasses.dataclass(frozen=True)
class Net:
    """An architecture with a head of `num_classes`, reading the batch view `view`.

    `identity` is that of the view's encoding (a tokenizer), "" where it is not known: inputs that
    another encoding made are refused.
    """

    architecture: Architecture
    num_classes: int
    view: str
    identity: str = ""

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
        gather: Gather | None = None,
    ) -> tuple[Outputs, dict[str, Any]]:
        """One forward pass: (Outputs, BatchNorm statistics after it).

        `train` switches dropout (which needs `key`) and batch statistics; `save` is a regular
        expression over tap names, `edits` replaces intermediates (see `tape.py`). `gather` makes
        whole the parameters that are split over devices: those of a repeated block when it is
        computed, and again for its gradient, so that no more than one is whole at a time.
        Raises UnknownName for a view, tap or edit that is not there, ValueError for inputs of
        another encoding.
        """
        if self.view not in batch["views"]:
            raise UnknownName(self.view, "view of the batch", batch["views"])
        given = getattr(batch["views"][self.view], "identity", "")
        if self.identity and given and given != self.identity:
            raise ValueError(
                f"view {self.view!r} was encoded by {given}, but the net reads what "
                f"{self.identity} encodes: to it the same numbers mean other words or pixels"
            )
        params = variables["params"]
        params = params if gather is None else _gathered_but_blocks(params, gather)
        module = nnx.merge(_graph(self), params, variables["stats"])
        tape = Tape(save, dict(edits or {}), train=train, key=key, gather=gather)
        inputs = jax.tree.map(jnp.asarray, decoded_view(batch["views"][self.view]))
        outputs = module(inputs, tape)
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
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

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


def leaves(tree: Any) -> dict[str, Any]:
    """The arrays of nested dicts by path: {"params/block00/query/kernel": ...}."""
    return {path_of(keys): leaf for keys, leaf in jax.tree.leaves_with_path(tree)}


def path_of(keys: Any) -> str:
    """The path that a JAX key path writes."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _gathered_but_blocks(params: Any, gather: Gather) -> Any:
    """The parameters, whole where `call_block` does not see to it."""
    whole, inside = gather(params), {k for k in leaves(params) if BLOCK.match(k)}
    return jax.tree.map_with_path(
        lambda keys, split, made: split if path_of(keys) in inside else made, params, whole
    )


def _kept(primitive: Any, *_: Any, **__: Any) -> bool:
    """Is its result kept for the gradient? Not what was gathered, nor another form of it."""
    return primitive.name not in ANEW


def call_block(module: nnx.Module, tape: Tape, name: str, *inputs: Any, remat: bool) -> Array:
    """`module(*inputs, tape, name)`; with `remat`, its inside is computed anew for the gradient.

    So a deep net keeps one array a block in training instead of all it computed (arXiv 1604.06174).
    Parameters that are split over devices are gathered here, and for the gradient again.
    """
    remat, gather = remat and tape.train, tape.gather
    if not (remat or gather):
        return module(*inputs, tape, name)
    graph, params, stats = _split(module)
    part = tape.fork()

    @functools.partial(jax.checkpoint, policy=None if remat else _kept)
    def run(params: Any, stats: Any, *inputs: Any) -> tuple:
        params = gather(nnx.to_pure_dict(params)) if gather else params
        inner = nnx.merge(graph, params, stats)
        y = inner(*inputs, part, name)
        return y, part.saved, nnx.state(inner, nnx.BatchStat)

    y, saved, stats = run(params, stats, *inputs)
    nnx.update(module, stats)
    tape.join(part, saved)
    return y


def make_net(spec: Mapping[str, Any], num_classes: int, facts: Mapping[str, Any]) -> Net:
    """The net that `{"name": "bert", "preset": "tiny", "view": ..., option: value}` describes.

    Or, `{"name": "bert", "pretrained": "FOLDER", "head": "fresh", option: value}`: the folder, the
    .safetensors file or the hub name of weights to start from, and whether to "take" their task
    head; `"label_map": {"LABEL_0": "neutral"}` says which labels of the task the labels of a taken
    head are, where they are called otherwise. Sizes are then those of the config.json beside the
    weights; a preset or options that contradict it are refused, but for those that are `free` and,
    beside a fresh head, `head_reads`. A preset tells them where it is not.

    `facts` are those of all fitted views, by view name: {"wordpiece": {"vocab_size": ...}}.
    Raises UnknownName for an unknown family, preset, option or view, ValueError for weights of
    another family or of unknown sizes, and for a rate of dropout that is none.
    """
    options, start = weights.split(spec)
    name = options.pop("name", "")
    family = registry.plugin("models", name)
    preset = options.pop("preset", None)
    preset = None if preset is None else str(preset)  # 50 of a ResNet
    view = options.pop("view", None) or family.view
    if view not in facts:
        raise UnknownName(view, f"view for model {name!r}:", facts)
    sizes: Mapping[str, Any] = {}
    if preset is not None:
        if preset not in family.presets:
            raise UnknownName(preset, f"preset of model {name!r}:", family.presets)
        sizes = family.presets[preset]
    if start is not None:
        found = weights.find(start.pretrained)
        check_family(family, found)
        if preset is None or found.config is not None:
            published = _published_sizes(family, name, found)
            said = sizes if preset is not None else published
            asked = registry.build("models", {"name": name, **said, **options})
            where = found.name if preset is None else f"{found.name}, preset = {preset!r}"
            _check_contradictions(asked, family(**published), where, start.head)
            sizes = said
    architecture = registry.build("models", {"name": name, **sizes, **options}).fit(facts[view])
    for rate in ("dropout", "attention_dropout", "drop_path"):
        if not 0 <= (getattr(architecture, rate, None) or 0) <= 1:
            value = getattr(architecture, rate)
            raise ValueError(f"{rate} = {value} of model {name!r}: expected a share from 0 to 1")
    return Net(architecture, num_classes, view, facts[view].get("identity", ""))


def families(keys: Iterable[str]) -> dict[str, type[Architecture]]:
    """The families of which weights with such keys are, by name."""
    keys = [*keys]
    known = {n: registry.plugin("models", n) for n in registry.available("models")}
    return {n: f for n, f in known.items() if any(re.fullmatch(f.signature, k) for k in keys)}


def check_family(family: type[Architecture], found: weights.Weights) -> None:
    """Raises ValueError where the config.json or the keys of weights are those of other families.

    A config without model_type may still say the class of the net: RoBERTa's body has BERT's keys.
    """
    name, config, types = registry.name_of(family), found.config or {}, family.model_types
    model_type, classes = config.get("model_type"), config.get("architectures") or ()
    usual = re.compile(rf"({'|'.join(types)})(Model|Encoder|For|LMHead|With)\w*", re.IGNORECASE)
    told = f"model {name!r} reads weights of model_type {' or '.join(types)}, but"
    if model_type not in (None, *types):
        raise ValueError(f"{told} the config.json beside {found.name} says {model_type!r}")
    if model_type is None and not all(usual.fullmatch(c) for c in classes):
        raise ValueError(f"{told} the config.json beside {found.name} says architectures {classes}")
    kinds = families(found.headers())
    if kinds and name not in kinds:
        these = f"by their keys these are {' or '.join(kinds)} weights"
        raise ValueError(f"{told} {these}: {found.name}")


def _check_contradictions(
    asked: Architecture, published: Architecture, where: str, head: str
) -> None:
    """That nothing is asked for beside which weights mean something else, though it fit."""
    free = asked.free | (asked.head_reads if head == "fresh" else frozenset())
    pairs = {
        f.name: (getattr(asked, f.name), getattr(published, f.name))
        for f in dataclasses.fields(asked)
        if f.name not in free
    }
    if other := [
        f"{field} = {ours!r}, config.json says {theirs!r}"
        + (', what their head reads: or head="fresh"' if field in asked.head_reads else "")
        for field, (ours, theirs) in pairs.items()
        if ours not in (None, theirs) and theirs is not None
    ]:
        raise ValueError(
            f"weights {where}: the config.json beside them is contradicted by preset or options; "
            "leave them out to take what it says:\n  " + "\n  ".join(other)
        )


def _published_sizes(
    family: type[Architecture], name: str, found: weights.Weights
) -> dict[str, Any]:
    """What the config.json beside published weights says, as options of the family."""
    if found.config is None:
        raise ValueError(
            f"model {name!r}: no config.json beside {found.name} tells its sizes; say preset = one "
            f"of {', '.join(family.presets)}"
        )
    try:
        built = family.from_config(found.config, found.headers().keys())
    except ValueError as error:
        raise ValueError(f"the config.json beside {found.name}: {error}") from error
    return {f.name: getattr(built, f.name) for f in dataclasses.fields(built) if f.init}
