"""Checkpoints by Orbax: the state of a run on its way, and the net that a finished run leaves.

A checkpoint holds numbers only: data order and random keys are functions of (seed, step). It is
restored onto the shardings of a target, so it may be read on another number of devices. Beside the
arrays it holds `progress.json`, all else that decides how the run ends, and the digests of both: a
folder gets its final name when all of it is there.
"""

import dataclasses
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from fairkd_jax import files, processes
from fairkd_jax.types import Path

KEPT = 2  # the newest so many
PROGRESS, DIGESTS = "progress.json", "digests.json"
STAMPED = "_CHECKPOINT_METADATA"  # Orbax writes the time into it after all else
TEMPORARY = "*.orbax-checkpoint-tmp*"
OPTIONS = ocp.AsyncOptions(create_directories_asynchronously=False)  # a failed one is waited for


class Checkpoints:
    """The last states of a run, written without stopping it."""

    def __init__(self, folder: Path):
        self._folder = files.for_nets(folder)
        self._saving: tuple[int, Any] = 0, None  # step and progress
        options = dataclasses.replace(OPTIONS, post_finalization_callback=self._seal)
        self._checkpointer = ocp.StandardCheckpointer(async_options=options)
        processes.lead(self._tidy)

    def steps(self) -> list[int]:
        """Those of whole checkpoints, the newest first."""
        return sorted(int(p.name) for p in self._folder.glob("[0-9]*") if p.name.isdigit())[::-1]

    def save(self, step: int, state: Any, progress: Any) -> None:
        """Starts to write; all processes must call it at the same step.

        `progress` is what JSON can say. Raises what stopped the one before it.
        """
        self._finish()
        self._saving = step, files.plain(progress)
        self._checkpointer.save(self._folder / str(step), state, force=True)

    def restore(self, target: Any) -> tuple[Any, Any] | None:
        """The newest (state, progress) that is whole, on the shapes and shardings of `target`.

        None where there is none. A checkpoint whose content is not what was written is named and
        deleted, and the one before it is tried. Raises OSError for one that cannot be opened,
        ValueError for one that is whole and cannot be read: they are left as they are.
        """
        if (found := processes.lead(self._newest)) is None:
            return None
        path = self._folder / str(found["step"])
        try:
            return self._checkpointer.restore(path, target), found["progress"]
        except Exception as error:
            raise ValueError(
                f"the checkpoint {path} is whole, and cannot be read by this version or for this "
                f"net: {error}. Go on with the versions that wrote it, or delete it to go on from "
                "the one before"
            ) from error

    def close(self) -> None:
        """Waits until everything is written. Raises what stopped it."""
        try:
            self._finish()
        finally:
            self._checkpointer.close()

    def _finish(self) -> None:
        """Meets no other process: one whose save failed closes while others wait for its part."""
        self._checkpointer.wait_until_finished()
        if jax.process_index() == 0:
            for step in self.steps()[KEPT:]:
                files.remove(self._path(step))

    def _path(self, step: int) -> Path:
        return self._folder / str(step)

    def _seal(self) -> None:
        """Called by Orbax in process 0 when all arrays are there, before the folder is renamed."""
        step, progress = self._saving
        # In a bucket the folder has its name from the start; what tells that it is whole is here.
        (partial,) = [*self._folder.glob(TEMPORARY)] or [self._path(step)]
        files.write_json(partial / PROGRESS, progress)
        files.write_sealed(partial / DIGESTS, {"files": files.digests(partial, (STAMPED,))})

    def _tidy(self) -> None:
        """Removes what killed runs left unfinished."""
        files.make(self._folder)
        for path in self._folder.glob(TEMPORARY):
            files.remove(path)
        for path in map(self._path, self.steps()):
            # in a bucket, Orbax's own mark comes after the digests
            if not ((path / DIGESTS).exists() and ocp.utils.is_checkpoint_finalized(path)):
                files.remove(path)

    def _newest(self) -> dict[str, Any] | None:
        for step in self.steps():
            path = self._path(step)
            try:
                expected = files.read_sealed(path / DIGESTS)["files"]
                wrong = files.faults(path, expected, anew=True)
            except (files.Damaged, FileNotFoundError) as error:
                wrong = [str(error)]
            if not wrong:
                return {"step": step, "progress": files.read_json(path / PROGRESS)}
            logging.warning(
                "the checkpoint %s is broken (%s) and deleted; going on from the one before",
                path,
                "; ".join(wrong),
            )
            files.remove(path)
        return None


def save_net(folder: Path, variables: dict[str, Any]) -> None:
    """Writes the variables of a net, over those that were there."""
    with ocp.StandardCheckpointer(async_options=OPTIONS) as checkpointer:
        checkpointer.save(files.for_nets(folder), variables, force=True)


def load_net(folder: Path, target: Any) -> dict[str, Any]:
    """Reads the variables of a net onto the shapes and shardings of `target`.

    Raises FileNotFoundError where there are none, ValueError where they do not fit.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no trained net in {folder}")
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            return checkpointer.restore(files.whole(folder), target)
        except Exception as error:
            raise ValueError(f"the net in {folder} cannot be read: {error}") from error
