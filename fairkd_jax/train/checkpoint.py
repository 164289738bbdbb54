"""Checkpoints by Orbax: the state of a run on its way, and the net that a finished run leaves.

A checkpoint holds numbers only: data order and random keys are functions of (seed, step). It is
restored onto the shardings of a target, so it may be read on another number of devices.
"""

import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging


class Checkpoints:
    """The last two states of a run, written without stopping it."""

    def __init__(self, folder: pathlib.Path):
        self._manager = ocp.CheckpointManager(
            folder.absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=2)
        )

    def save(self, step: int, state: Any) -> None:
        """Starts to write; all processes must call it at the same step."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state))
            self._manager.check_for_errors()

    def restore(self, target: Any) -> Any | None:
        """The newest state that can be read, on the shapes and shardings of `target`, or None.

        A checkpoint that cannot be read is named, deleted, and the one before it is tried.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._manager.restore(step, args=ocp.args.StandardRestore(target))
            except Exception as error:  # whatever the storage layer raises for what it cannot read
                logging.warning(
                    "checkpoint of step %d in %s cannot be read (%s); falling back to the previous",
                    step,
                    self._manager.directory,
                    f"{type(error).__name__}: {error}"[:120],
                )
                self._manager.delete(step)
        return None

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        self._manager.close()


def save_net(folder: pathlib.Path, variables: dict[str, Any]) -> None:
    """Writes the variables of a net, over those that were there."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), variables, force=True)


def load_net(folder: pathlib.Path, target: Any) -> dict[str, Any]:
    """Reads the variables of a net onto the shapes and shardings of `target`.

    Raises FileNotFoundError where there are none, ValueError where they are broken or do not fit.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no trained net in {folder}")
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            return checkpointer.restore(folder.absolute(), target)
        except Exception as error:
            raise ValueError(
                f"the net in {folder} is broken, delete {folder.parent} to train it again: {error}"
            ) from error


def remove(folder: pathlib.Path) -> None:
    """Deletes the checkpoints of a finished run (process 0 alone)."""
    if jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
