"""The contract of a debiasing method: per-example losses in, one scalar out.

With no hook overridden a method is empirical risk minimisation. A method is a pytree
(`flax.struct.dataclass`): its numbers are leaves, traced, so that a sweep over them compiles once;
names and booleans are `struct.field(pytree_node=False, default=...)`. It holds no state: own
parameters and own memory come from `init` and travel in the training state. `now` tells a hook that
memory, the step, how many there will be, and counts of the training split.
Examples whose label no one knows are padding to it: `batch["real"]` is 0 there.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from flax import struct

from fairkd_jax.config import Stage
from fairkd_jax.losses import masked_mean, task_loss
from fairkd_jax.models.net import Net
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Array, Batch, Now, Outputs, Pass, Spec, Terms

UNITS = ("group", "label")  # of which a batch has a column


@struct.dataclass
class Debiaser:
    """Empirical risk minimisation, and the hooks that methods override."""

    extra_nets: ClassVar[tuple[str, ...]] = ()  # more trained nets, see `extra_net`
    sees_attributes: ClassVar[bool] = False  # may it be given attribute and group at train time?
    couples_examples: ClassVar[bool] = False  # the loss is no mean over examples: no accumulation
    changes_inputs: ClassVar[bool] = False  # a table of the teacher's answers would be stale
    search: ClassVar[Mapping[str, tuple]] = {}  # values of its options that a tuner may try

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that it reads from batch["tables"]: inputs of its stage."""
        return ()

    @property
    def taps(self) -> str:
        """Regular expression of the intermediates that it reads, of all trained nets."""
        return ""

    def stages(self, base: Stage) -> Stage:
        """The stage that trains a net by this method; earlier stages hang on it as its inputs.

        `base` trains by this method's loss; a method of several stages returns another Stage.
        """
        return base

    def check(self, spec: Spec) -> None:
        """Raises ValueError before any compute where the method cannot work on these data.

        Counts are concrete here and, where data are there, `spec.inputs`, those of some batch.
        """

    def check_tables(self, tables: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Raises ValueError, before any step, for whole tables that the method cannot learn from.

        `tables` are those it reads, by table name and column name: [N, ...], a row an example.
        """

    def extra_net(self, student: Net) -> Net:
        """What an extra net is, with the student's view and labels: unless changed, its equal.

        Its variables, where the student has such, start from the same published weights.
        """
        return student

    def init(self, spec: Spec, key: Array) -> tuple[dict[str, Any], dict[str, Any]]:
        """(own parameters, own memory)."""
        return {}, {}

    def prepare(self, batch: Batch, now: Now, key: Array) -> tuple[Batch, dict[str, Any]]:
        """The batch to train on, and edits by tap name for every net that reads it."""
        return batch, {}

    def passes(
        self,
        inputs: dict[str, Array],
        outputs: dict[str, Outputs],
        batch: Batch,
        now: Now,
        key: Array,
    ) -> dict[str, Pass]:
        """The student's passes, by the names of what they give: "student", and "student/NAME".

        `inputs` is what the student reads of the batch, `outputs` are those of the extra nets. The
        edits add to those of `prepare`. Teachers see the batch, and statistics of a batch
        normalisation are kept of the pass "student" alone.
        """
        return {"student": Pass(inputs)}

    def task(
        self, outputs: dict[str, Outputs], batch: Batch, params: dict[str, Any], now: Now
    ) -> Array:
        """Task loss of the student by example, float32 [B]; outputs are keyed by net or pass."""
        return task_loss(outputs["student"].logits, batch)

    def __call__(
        self,
        terms: Terms,
        outputs: dict[str, Outputs],
        batch: Batch,
        params: dict[str, Any],
        now: Now,
        key: Array,
    ) -> tuple[Array, dict[str, Any], dict[str, Array]]:
        """(scalar loss, memory after the step, metrics); reduce `terms.total` over real rows."""
        return masked_mean(terms.total, batch["real"]), now.memory, {}


def require_unit(by: str, method: str) -> None:
    """Raises UnknownName for what is no unit that examples are counted, weighed or drawn by."""
    if by not in UNITS:
        raise UnknownName(by, f"value of debias.{method}.by:", UNITS)


def require_groups(spec: Spec, method: str) -> None:
    """Raises ValueError naming the groups without a training example."""
    counts = [int(n) for n in spec.group_counts]
    if 0 in counts:
        empty = [g for g, n in enumerate(counts) if n == 0]
        raise ValueError(
            f"{method} needs training examples in every group; groups {empty} (label * "
            f"{spec.num_attributes} attributes + attribute) are empty, counts are {counts}"
        )


def require_attributes(spec: Spec, method: str) -> None:
    """Raises ValueError unless training examples have two attributes at least."""
    counts = [int(n) for n in np.reshape(spec.group_counts, (-1, spec.num_attributes)).sum(axis=0)]
    if sum(n > 0 for n in counts) < 2:
        raise ValueError(
            f"{method} compares training examples of different attributes, and there are not two: "
            f"counts by attribute are {counts}"
        )
