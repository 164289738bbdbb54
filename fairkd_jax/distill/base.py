"""The contract of a distillation method: outputs of student and teachers in, losses by example out.

With no hook overridden a method is no distillation. Like debiasing methods these are pytrees:
numbers are traced leaves, names and booleans are `struct.field(pytree_node=False, default=...)`.
What a method remembers, and what it may know of step and data, it is told in `now`. A number may
be given as a schedule, {"from": 1.0, "to": 4.0, "until": 0.5}: hooks see what it is in their step,
`init` what it starts from.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import struct

from fairkd_jax.config import Stage
from fairkd_jax.types import KD, Array, Batch, Now, Outputs, Spec, Tree, schedule

Pair = tuple[str, str]  # (the student's intermediate, the teacher's)
FEATURES = (("features", "features"),)
LAST = "last"  # in a pair: the output of a net's last block, whatever its family calls it
BLOCKS = r"(?:enc/|stage\d+/)?block\d+/out"


@struct.dataclass
class Distiller:
    """No distillation, and the hooks that methods override.

    `reads` says what of the teacher is read: "nothing", "logits" (a table of the teacher's answers
    will do) or "inside" (features or taps: the teacher runs beside the student). A method that
    compares intermediates has them as an option `pairs`: see `pairs.py`.
    """

    reads: ClassVar[str] = "nothing"
    sees_attributes: ClassVar[bool] = False  # may it be given attribute and group at train time?
    couples_examples: ClassVar[bool] = False  # the loss is no mean over examples: no accumulation
    tables: ClassVar[tuple[str, ...]] = ()  # names of the tables it reads from batch["tables"]
    pairs: ClassVar[tuple[Pair, ...]] = ()
    schedule = staticmethod(schedule)  # reads a number that is given as a dict

    weight: Array = 1.0  # share in a list of distillers

    @property
    def student_taps(self) -> str:
        """Regular expression of the student's intermediates that it reads."""
        return _any_of([s for s, _ in self.pairs])

    @property
    def teacher_taps(self) -> str:
        """Regular expression of the teachers' intermediates that it reads."""
        return _any_of([t for _, t in self.pairs])

    def stages(self, base: Stage) -> Stage:
        """The stage that trains the student by this method; it may hang earlier ones on it."""
        return base

    def check(self, spec: Spec) -> None:
        """Raises ValueError before any compute where the two nets do not go together."""

    def check_tables(self, tables: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Raises ValueError, before any step, for whole tables that the method cannot learn from.

        `tables` are those of the stage, by table name and column name: [N, ...], a row an example.
        """

    def init(self, spec: Spec, key: Array) -> tuple[dict[str, Any], dict[str, Any]]:
        """(own parameters, as projections, trained with the student; own memory)."""
        return {}, {}

    def __call__(
        self,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        params: dict[str, Any],
        now: Now,
    ) -> KD:
        """Losses by example, [B] float32; the gradient stops at the teachers.

        Those of several teachers meet as their shares say: see `mean_over`. A method with a memory
        returns it with them, as it is after the step; one that weighs the task loss too, its
        factors. A method that reads labels asks `losses.labelled(batch)` where they are known.
        """
        zeros = jnp.zeros(student.logits.shape[0], jnp.float32)
        return KD(per_example=zeros, penalty=jnp.zeros((), jnp.float32))

    def finished(
        self, student: Tree, teachers: tuple[Tree, ...], shares: tuple, params: dict[str, Any]
    ) -> Tree:
        """The student's parameters as they are validated and kept, from those that were trained.

        `teachers` are the parameters of live ones, `shares` their shares, `params` the method's
        own. Raises ValueError for nets for which that cannot be.
        """
        return student


def _any_of(names: Sequence[str]) -> str:
    return "|".join(BLOCKS if n == LAST else re.escape(n) for n in names)


def mean_over(teachers: Sequence[Outputs], losses: Sequence[Array]) -> Array:
    """`sum_k w_k l_k / sum_k w_k`, of a loss for each teacher; w_k is its share, else 1."""
    weights = shares(teachers)
    return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)


def shares(teachers: Sequence[Outputs]) -> list[Array]:
    """The share of each teacher, else 1."""
    return [1.0 if teacher.share is None else teacher.share for teacher in teachers]


def require_teachers(spec: Spec, method: str) -> None:
    """Raises ValueError without a teacher, or for one of other classes than the student's."""
    if not spec.teachers:
        raise ValueError(f"distill.{method} needs a teacher: there is none")
    for k, teacher in enumerate(spec.teachers):
        if teacher.logits.shape[-1] != spec.num_classes:
            raise ValueError(
                f"distill.{method}: teacher {k} tells {teacher.logits.shape[-1]} classes apart, "
                f"the student {spec.num_classes}"
            )
