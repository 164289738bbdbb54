"""What flows between the rooms: batches, network outputs, the state of training.

Letters used in shapes everywhere: B batch, T tokens, D width, N heads, H head width, C classes,
G groups, A attributes, X Y K image height, width and channels, L lanes.
"""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import struct

Path = pathlib.Path | epath.Path  # on a disk | in a bucket: see buckets.py
Array = Any  # jax.Array, numpy array, ShapeDtypeStruct or sharding: pytrees carry all four
Tree = Any  # nested dicts of arrays
Batch = dict[str, Any]
"""A dict of arrays with leading axis B; nothing strips it.

"views"      {view name: Inputs}: what nets read; a net names the view it wants
"label"      int32 [B]
"attribute"  int32 [B], the spurious attribute   } absent when the method may not see them
"group"      int32 [B], label * A + attribute    }
"id"         int32 [B], stable identity of the example within its split
"real"       float32 [B], 1 for an example, 0 for a padding row
"member"     bool [B, E], in which subpopulations it is: in evaluation alone, where the set has some
"tables"     {table name: {column name: [B, ...]}}: columns that earlier stages wrote, joined by id
"partner_label" int32 [B], "label_weight" float32 [B]: only where two examples are mixed into one;
             `label` then counts `label_weight`, the partner's label the rest
"labelled"   float32 [B], 0 where the label is unknown (`label` then says nothing); only where some
             are. A debiasing method is shown such examples as padding; distillation counts them
"""


@jax.tree_util.register_pytree_with_keys_class
class Inputs(dict):
    """The arrays of one view {name: [B, ...]}, and the identity of the encoding that made them.

    The identity is static: a net compares it with its own while the step is traced, at no cost. So
    is `scaling`, what makes numbers of those arrays that are bytes: see data/device.py.
    """

    def __init__(self, arrays: Any, identity: str = "", scaling: tuple = ()):
        super().__init__(arrays)
        self.identity, self.scaling = identity, scaling

    def tree_flatten_with_keys(self) -> tuple:
        names = tuple(sorted(self))
        children = [(jax.tree_util.DictKey(name), self[name]) for name in names]
        return children, (names, self.identity, self.scaling)

    @classmethod
    def tree_unflatten(cls, static: tuple, children: Any) -> "Inputs":
        names, *rest = static
        return cls(zip(names, children), *rest)


@struct.dataclass
class Outputs:
    """What every architecture returns."""

    logits: Array  # [B, C] float32
    features: Array = None  # [B, D] float32: what the head reads
    taps: Tree = struct.field(default_factory=dict)  # intermediates asked for, by name
    mask: Array = None  # [B, T] float32, 1 on real tokens of the net's view; None: all are real
    share: Array = None  # float32 [], of a teacher among several: its weight; None: as the others'
    name: str = struct.field(pytree_node=False, default="")  # of a teacher, as experiments call it


@struct.dataclass
class Pass:
    """A pass of the student: what it reads of its view, and what replaces its intermediates."""

    inputs: dict[str, Array]  # the arrays of the view, [B, ...]
    edits: dict[str, Any] = struct.field(default_factory=dict)  # by tap name, see models/tape.py


@struct.dataclass
class TrainState:
    """Everything a training step changes; donated to each step, checkpointed whole.

    params  {"nets": {"student": ..., other trained nets}, "debias": ..., "distill": {"0": ...}}
    stats   {net name: BatchNorm statistics}
    opt     optimizer state
    memory  what methods remember without gradient, {"debias": ..., "distill": {"0": ...}}
    average optax.EmaState of the student's {"params", "stats"}; {} where none is kept
    """

    step: Array  # int32 []
    params: Tree
    stats: Tree
    opt: Tree
    memory: Tree
    average: Tree = struct.field(default_factory=dict)


@struct.dataclass
class Terms:
    """Per-example losses on their way to a debiasing method, which reduces them to a scalar."""

    task: Array  # [B] float32; labels are smoothed, where they are, in `total` alone
    distill: Array  # [B] float32, weighted sum over distillers (before kd_weight)
    total: Array  # [B] float32: what the method reduces; which terms it holds is `mix.scope`


@struct.dataclass
class KD:
    """What a distillation method returns."""

    per_example: Array  # [B] float32
    penalty: Array  # float32 []: what does not decompose over examples; added outside the debiasing
    metrics: Tree = struct.field(default_factory=dict)
    memory: Tree = struct.field(default_factory=dict)  # the method's own after the step, all of it
    task_weight: Array = None  # [B] float32, a factor on the task loss by example; None: 1


@struct.dataclass
class Now:
    """What a method may know in a step beside the batch.

    All is traced: no number of it compiles anew, and what a method does not read costs nothing.
    """

    steps: Array  # float32 []: of the whole run
    group_counts: Array  # [G] float32, training examples by group; NaN where attributes are hidden
    label_counts: Array  # [C] float32, training examples by label
    step: Array = None  # int32 []: steps behind us, the same in all micro-batches of one
    memory: Tree = struct.field(default_factory=dict)  # the method's own, before the step

    @property
    def num_attributes(self) -> int:
        return self.group_counts.shape[0] // self.label_counts.shape[0]


@struct.dataclass
class Schedule:
    """A number that moves from `start` evenly, to reach `end` at a share of the run's steps."""

    start: Array
    end: Array
    until: Array = 1.0

    def at(self, now: Now) -> Array:
        """The number in a step, float32 []."""
        share = jnp.minimum(now.step / (self.until * now.steps), 1.0)
        return (1 - share) * self.start + share * self.end


def schedule(value: float | Mapping[str, Any], place: str) -> float | Schedule:
    """A number, or what `{"from": 1.0, "to": 4.0, "until": 0.5}` describes.

    Raises ValueError, naming the place, for a mapping that is none.
    """
    if not isinstance(value, Mapping):
        return value
    told = {"until": 1.0} | dict(value)
    numbers = [told.get(key) for key in ("from", "to", "until")]
    good = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
    if len(told) != 3 or not good or not 0 < told["until"] <= 1:
        raise ValueError(
            f"{place} = {value!r}: expected a number, or {{'from': number, 'to': number, 'until': "
            "share of the steps, above 0 and up to 1}"
        )
    return Schedule(*map(float, numbers))


def with_numbers(tree: Tree, number: Callable[[Schedule], Array]) -> Tree:
    """`tree`, of methods, with the number that `number` says in the place of each schedule."""

    def moves(x: Any) -> bool:
        return isinstance(x, Schedule)

    return jax.tree.map(lambda x: number(x) if moves(x) else x, tree, is_leaf=moves)


@struct.dataclass
class Spec:
    """What a method may know when it creates its parameters and its memory.

    Counts are arrays, so that methods on data sets of equal shape share one compiled program.
    """

    group_counts: Array  # [G] float32, training examples by group; NaN where attributes are hidden
    label_counts: Array  # [C] float32, training examples by label
    student: Outputs  # of shapes
    teachers: tuple[Outputs, ...] = ()  # of shapes, in the order of their names
    num_classes: int = struct.field(pytree_node=False, default=2)
    num_attributes: int = struct.field(pytree_node=False, default=2)
    num_examples: int = struct.field(pytree_node=False, default=0)  # ids of the split are below it
    inputs: dict[str, Array] = struct.field(default_factory=dict)  # the student's view of a batch

    @property
    def num_groups(self) -> int:
        return self.num_classes * self.num_attributes
