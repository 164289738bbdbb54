"""Where scalars go beside `metrics.jsonl`: TensorBoard, Weights & Biases. Each is an extra.

A tracker is fed by process 0, decides nothing, and lies outside of the stages' folders.
"""

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from fairkd_jax import buckets, files
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Path


@runtime_checkable
class Tracker(Protocol):
    """`write_scalars` as in clu's `MetricWriter`, and an end."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars by name at a step."""

    def close(self) -> None:
        """Nothing more will come."""


class TensorBoard:
    """Event files in `W/tensorboard/RUN`: `tensorboard --logdir=W/tensorboard`."""

    package, extra = "tensorboardX", "tensorboard"

    def __init__(self, workdir: Path, run: str, config: Mapping[str, Any]):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(workdir / "tensorboard" / run))
        self._writer.add_text("config", f"    {config}")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of the project that WANDB_PROJECT names; WANDB_MODE=offline keeps it in `W/wandb`."""

    package, extra = "wandb", "wandb"

    def __init__(self, workdir: Path, run: str, config: Mapping[str, Any]):
        import wandb

        if not buckets.is_local(workdir):
            raise ValueError(f"wandb writes into a folder of this disk, not into {workdir}")
        files.make(workdir)
        self._run = wandb.init(
            id=run,
            name=run,
            resume="allow",
            config=dict(config),
            dir=str(workdir),
            reinit="create_new",
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB}


def check(names: Iterable[str]) -> None:
    """Raises UnknownName for a tracker that is not there, ModuleNotFoundError naming its extra."""
    for name in names:
        if name not in TRACKERS:
            raise UnknownName(name, "tracker", TRACKERS)
        needed = TRACKERS[name]
        if importlib.util.find_spec(needed.package) is None:
            raise ModuleNotFoundError(
                f"tracker {name!r} needs {needed.package}: pip install 'fairkd_jax[{needed.extra}]'"
            )


def started(
    names: Iterable[str], workdir: Path, run: str, config: Mapping[str, Any]
) -> list[Tracker]:
    """The trackers of one run, by their names."""
    return [TRACKERS[name](workdir, run, config) for name in names]
