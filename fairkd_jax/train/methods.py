"""The methods of a run: one for debiasing, distillers, how their losses meet, what each may see."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import struct

from fairkd_jax.debias.base import Debiaser
from fairkd_jax.distill.base import Distiller
from fairkd_jax.types import Array, Tree


@struct.dataclass
class Methods:
    """The traced part: a debiasing method, distillers, and how their losses meet."""

    debias: Debiaser
    distill: tuple[Distiller, ...]
    task_weight: Array = 1.0
    kd_weight: Array = 1.0
    label_smoothing: Array = None  # None: the task loss is of the label alone
    scope: str = struct.field(pytree_node=False, default="total")
    shares: dict = struct.field(default_factory=dict)  # of teachers, by name; see `teachers_of`
    kinds: tuple = struct.field(pytree_node=False, default=())  # set here

    def __post_init__(self):
        # To JAX 0.10.2 two dataclasses with as many leaves and equal static fields are one tree:
        # only their hashes differ, and where these collide one method runs as the other compiled.
        object.__setattr__(self, "kinds", (type(self.debias), *map(type, self.distill)))

    @property
    def all(self) -> tuple[Debiaser | Distiller, ...]:
        """The debiasing method, then the distillers."""
        return self.debias, *self.distill

    @property
    def sees_attributes(self) -> bool:
        """Must a batch have attribute and group, for one of them at least?"""
        return any(method.sees_attributes for method in self.all)


def shown_to(method: Debiaser | Distiller, told: Any) -> Any:
    """A batch, a `Now` or a `Spec` without what tells of attributes, if the method may see none."""
    if method.sees_attributes:
        return told
    if isinstance(told, dict):
        return {k: v for k, v in told.items() if k not in ("attribute", "group")}
    return told.replace(group_counts=told.group_counts * float("nan"))


def finished(methods: Methods, variables: Tree, params: Tree, teachers: Mapping[str, Tree]) -> Tree:
    """The student's variables as its distillers finish them: what is validated and kept.

    `params` is all that trains, `teachers` the variables of live ones by name.
    """
    if all(type(d).finished is Distiller.finished for d in methods.distill):
        return variables
    theirs = {name: one["params"] for name, one in sorted(teachers.items())}
    return variables | {"params": _finish(methods, variables["params"], params["distill"], theirs)}


@jax.jit
def _finish(methods: Methods, student: Tree, own: Tree, teachers: dict[str, Tree]) -> Tree:
    shares = tuple(methods.shares.get(name) for name in teachers)
    for i, distiller in enumerate(methods.distill):
        student = distiller.finished(student, (*teachers.values(),), shares, own[str(i)])
    return student
