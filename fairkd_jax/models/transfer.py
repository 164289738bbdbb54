"""Weights of a large net into a smaller one of its family: layers left out, widths cut.

Layers are dropped as in DistilBERT (arXiv 1910.01108, section 3), units as in weight subcloning
(arXiv 2312.09299), here ranked by their weights rather than their activations. The small net starts
there; it does not approximate the large one, unless both have the same sizes: then it is the same.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fairkd_jax.config import Transfer
from fairkd_jax.models.net import Net, leaves, path_of
from fairkd_jax.registry import UnknownName

LAYERS: Mapping[str, Callable[[int, int, int], int]] = {  # i-th of few -> which of many
    "first": lambda i, few, many: i,
    "last": lambda i, few, many: many - few + i,
    "every": lambda i, few, many: i * many // few,
}
WIDTHS = ("index", "norm")
EMBEDDINGS = ("embed/", "stem/")  # so begin the paths of what comes before the first layer
HEAD = "head/"
LAYER = re.compile(r"((?:.*/)?block\d+)/(.*)")


class Variable(NamedTuple):
    """A variable of a net and what is known of it."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]  # see Architecture.axes
    layer: str  # "block07", "stage2/block1"; "" outside of layers
    rest: str  # its path within the layer
    places: tuple[str, ...]  # its axes, those of the layer with its name: "block07.inner"
    units: tuple[tuple[int, int], ...]  # of each axis: how many parts, of how many units


class Cut(NamedTuple):
    """What is kept of a teacher's axis: of `many` parts of `large` units, `few` of `small`."""

    axis: str  # as in Variable.places
    many: int
    large: int
    few: int
    small: int


class Copy(NamedTuple):
    """Where a variable comes from, and what is kept along each axis (None: all)."""

    source: str
    cuts: tuple[Cut | None, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a transfer does; paths are those of variables, with their collection."""

    how: Transfer
    layers: Mapping[str, str]  # student's layer -> teacher's
    copies: Mapping[str, Copy]  # student's variable -> where it comes from
    fresh: tuple[str, ...]  # the student's other variables
    copied: int  # parameters of the student
    parameters: int
    teacher: Mapping[str, Variable]  # all of the teacher's variables

    def record(self) -> dict[str, Any]:
        """What a reader wants to know of it, as plain values; layers of a stack told as one."""
        cuts = {c for copy in self.copies.values() for c in copy.cuts if c}
        axes = {re.sub(r"\d+\.", "*.", c.axis): _told(c) for c in sorted(cuts)}
        return {
            "transfer": dataclasses.asdict(self.how),
            "layers": dict(self.layers),
            "axes": axes,
            "copied": self.copied,
            "parameters": self.parameters,
            "fresh": sorted({p.split("/", 1)[1].rsplit("/", 1)[0] for p in self.fresh}),
        }

    def lines(self) -> list[str]:
        """The same, to read."""
        told = self.record()
        rule = self.how.layers if isinstance(self.how.layers, str) else "as listed"
        layers = ", ".join(f"{mine} <- {theirs}" for mine, theirs in self.layers.items())
        return [
            f"layers, {rule}: {layers or 'none'}",
            *(f"axis {axis}: {sizes}, by {self.how.width}" for axis, sizes in told["axes"].items()),
            f"copied {self.copied:,} of {self.parameters:,} parameters",
            f"fresh: {', '.join(told['fresh']) or 'nothing'}",
        ]


def _told(cut: Cut) -> str:
    if cut.many == cut.few == 1:
        return f"{cut.large} -> {cut.small}"
    return f"{cut.many} x {cut.large} -> {cut.few} x {cut.small}"


def transfer(
    source: Net,
    source_variables: Mapping[str, Any],
    target: Net,
    target_variables: Mapping[str, Any],
    how: Transfer,
) -> tuple[dict[str, Any], Plan]:
    """`target_variables` with what `source` has for it, placed as it was placed; what was done.

    Parameters and BatchNorm statistics. Raises what `plan` raises.
    """
    made = plan(source, target, how)
    given, old = leaves(source_variables), leaves(target_variables)
    places = {
        k: old[k].sharding if getattr(old[k], "committed", False) else None for k in made.copies
    }
    new = jax.jit(functools.partial(_copies, made), out_shardings=places)(given)
    return jax.tree.map_with_path(lambda p, x: new.get(path_of(p), x), dict(target_variables)), made


def plan(source: Net, target: Net, how: Transfer) -> Plan:
    """What `how` takes from `source` to `target`; known from the nets alone, nothing is computed.

    Raises UnknownName for a rule or a layer that is not there, and one ValueError that lists all
    that `target` needs and `source` does not have: layers, units, the same words.
    """
    if how.width not in WIDTHS:
        raise UnknownName(how.width, "transfer.width:", WIDTHS)
    families = [type(net.architecture).__name__ for net in (source, target)]
    if families[0] != families[1]:
        raise ValueError(
            f"transfer from {families[0]} to {families[1]}: they must be of one family"
        )
    theirs, mine = _variables(source), _variables(target)
    layers, faults = _layer_map(theirs, mine, how.layers)
    if how.embeddings and source.identity and target.identity not in ("", source.identity):
        faults.append(
            f"the teacher reads what {source.identity} encodes, the student what {target.identity} "
            "does: let both read one view, or say transfer.embeddings=False"
        )
    same_head = how.head and source.num_classes == target.num_classes
    left = (() if how.embeddings else EMBEDDINGS) + (() if same_head else (HEAD,))
    copies = {}
    for path, variable in mine.items():
        collection, alone = path.split("/", 1)
        if alone.startswith(left) or (variable.layer and variable.layer not in layers):
            continue
        layer = f"{layers[variable.layer]}/" if variable.layer else ""
        origin = f"{collection}/{layer}{variable.rest}"
        if origin not in theirs:
            faults.append(f"{path}: the teacher has no such variable")
        elif theirs[origin].axes != variable.axes:
            faults.append(f"{path}: axes {variable.axes} are {theirs[origin].axes} in the teacher")
        else:
            both = variable, theirs[origin]
            cuts = (_cut(path, *both, i, faults) for i in range(len(variable.axes)))
            copies[path] = Copy(origin, tuple(cuts))
    if faults:
        lines = "\n  ".join(dict.fromkeys(faults))
        raise ValueError(f"{target} cannot start from {source} by {how}:\n  {lines}")
    return Plan(
        how=how,
        layers=layers,
        copies=copies,
        fresh=tuple(k for k in mine if k not in copies),
        copied=sum(math.prod(mine[k].shape) for k in copies if k.startswith("params/")),
        parameters=target.num_parameters(),
        teacher=theirs,
    )


def _variables(net: Net) -> dict[str, Variable]:
    names, parts = net.architecture.axes(), net.architecture.parts()
    if not names:
        raise ValueError(f"{type(net.architecture).__name__} does not say what its axes are")
    found, sizes = {}, {}
    for path, leaf in leaves(net.variable_shapes()).items():
        alone = path.split("/", 1)[1]
        axes = names.get(alone) or names[alone.rsplit("/", 1)[0]]
        axes = axes[len(axes) - leaf.ndim :]
        layer, rest = m.groups() if (m := LAYER.fullmatch(alone)) else ("", alone)
        places = tuple(f"{layer}{a}" if a.startswith(".") else a for a in axes)
        found[path] = Variable(leaf.shape, axes, layer, rest, places, ())
        for place, length in zip(places, leaf.shape):  # the longest: some have one number a part
            sizes[place] = max(length, sizes.get(place, 0))

    def units(axis: str, place: str) -> tuple[int, int]:
        return (count := parts.get(axis, 1)), sizes[place] // count

    return {k: v._replace(units=tuple(map(units, v.axes, v.places))) for k, v in found.items()}


def _layer_map(
    theirs: Mapping[str, Variable], mine: Mapping[str, Variable], rule: str | Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Student's layer -> teacher's, and what cannot be.

    Only layers of one stack and one structure, the same variables with the same axes, can stand for
    each other: a stage of a ResNet begins with a layer that is unlike the others.
    """
    theirs, mine = _structures(theirs), _structures(mine)
    found, faults = {}, []
    if not isinstance(rule, str):
        for layer, other in rule.items():
            if layer not in mine:
                raise UnknownName(layer, "layer of the student in transfer.layers:", mine)
            if other not in theirs:
                raise UnknownName(other, "layer of the teacher in transfer.layers:", theirs)
            if mine[layer] == theirs[other]:
                found[layer] = other
            else:
                faults.append(_unlike(layer, mine[layer], {other: theirs[other]}))
        return found, faults
    if rule not in LAYERS:
        raise UnknownName(rule, "transfer.layers:", [*LAYERS, "a dict {student's: teacher's}"])
    for layer, structure in mine.items():
        stack = {k: v for k, v in theirs.items() if _stack(k) == _stack(layer)}
        many = [k for k, v in stack.items() if v == structure]
        few = [k for k, v in mine.items() if v == structure and _stack(k) == _stack(layer)]
        if not many:
            faults.append(_unlike(layer, structure, stack))
        elif len(few) > len(many):
            faults.append(
                f"{len(few)} layers are like {few[0]}, in the teacher {len(many)}: "
                "transfer.layers may list which stands for which"
            )
        else:
            found[layer] = many[LAYERS[rule](few.index(layer), len(few), len(many))]
    return found, faults


def _stack(layer: str) -> str:
    return layer.rstrip("0123456789")


def _structures(variables: Mapping[str, Variable]) -> dict[str, frozenset]:
    """Layer -> {(path within the layer, axes)}; layers in their order."""
    found: dict[str, set] = {}
    for variable in variables.values():
        if variable.layer:
            found.setdefault(variable.layer, set()).add((variable.rest, variable.axes))
    ordered = sorted(found, key=lambda k: (_stack(k), int(k.removeprefix(_stack(k)))))
    return {layer: frozenset(found[layer]) for layer in ordered}


def _unlike(layer: str, structure: frozenset, others: Mapping[str, frozenset]) -> str:
    """What a layer has that the nearest of the teacher's has not, and the other way round."""
    if not others:
        return f"{layer}: the teacher has no {_stack(layer)}*"
    name, near = max(others.items(), key=lambda item: len(structure & item[1]))
    here, there = (
        ", ".join(f"{rest} {axes}" for rest, axes in sorted(s)) or "nothing else"
        for s in (structure - near, near - structure)
    )
    return f"{layer} has {here}, where the teacher's {name} has {there}"


def _cut(path: str, mine: Variable, theirs: Variable, i: int, faults: list[str]) -> Cut | None:
    """What is kept along axis i of a variable; what cannot be is added to `faults`."""
    if not mine.axes[i]:
        if mine.shape[i] != theirs.shape[i]:
            faults.append(f"{path}: axis {i} of {mine.shape} must be the teacher's: {theirs.shape}")
        return None
    cut = Cut(theirs.places[i], *theirs.units[i], *mine.units[i])
    if cut.few > cut.many or cut.small > cut.large:
        faults.append(f"{mine.places[i]} is longer than in the teacher: {_told(cut)}")
    return cut if theirs.units[i] != mine.units[i] else None


def _copies(made: Plan, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The copied variables; traced, so that arrays over several hosts stay where they are."""
    kept = {c: _kept(c, made, arrays) for copy in made.copies.values() for c in copy.cuts if c}
    copied = {}
    for path, copy in made.copies.items():
        x = arrays[copy.source]
        for axis, cut in enumerate(copy.cuts):
            if cut:
                parts, units = kept[cut]
                x = x.take(units if x.shape[axis] == cut.many * cut.large else parts, axis)
        copied[path] = x
    return copied


def _kept(
    cut: Cut, made: Plan, arrays: Mapping[str, Array]
) -> tuple[Int[Array, " P"], Int[Array, " U"]]:
    """Which parts are kept, and which units (those of one part after those of another)."""
    if made.how.width == "index" or cut.axis.startswith("#"):
        parts, inside = jnp.arange(cut.few), jnp.arange(cut.small)
    else:
        units, whole = _squares(cut, made, arrays)
        parts = _largest(units.sum(1) + whole, cut.few)
        inside = _largest(units[parts], cut.small)
    return parts, (parts[:, None] * cut.large + inside).reshape(-1)


def _largest(x: Float[Array, "... U"], count: int) -> Int[Array, "... K"]:
    """Indices of the largest entries, ascending."""
    return jnp.sort(jax.lax.top_k(x, count)[1])


def _squares(
    cut: Cut, made: Plan, arrays: Mapping[str, Array]
) -> tuple[Float[Array, "M L"], Float[Array, " M"]]:
    """Sums of squares over all of the teacher's parameters that touch an axis: by unit, by part."""
    units, whole = jnp.zeros((cut.many, cut.large)), jnp.zeros(cut.many)
    for path, variable in made.teacher.items():
        for i, place in enumerate(variable.places):
            if place == cut.axis and path.startswith("params/"):
                others = [j for j in range(len(variable.axes)) if j != i]
                x = jnp.sum(jnp.square(arrays[path]), axis=others)
                if x.size == units.size:
                    units += x.reshape(units.shape)
                else:
                    whole += x
    return units, whole
