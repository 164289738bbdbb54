"""Reads everything in a work folder and says what is not as it was written."""

from fairkd_jax import files
from fairkd_jax.study import stored
from fairkd_jax.study.claim import FOLDER as CLAIMS
from fairkd_jax.train import log
from fairkd_jax.types import Path


def verify(workdir: Path) -> tuple[list[str], int]:
    """(lines to print, how many stages or studies are damaged).

    Every byte is read, whatever is remembered of files that did not change. Nothing is altered.
    """
    lines, wrong, unfinished = [], 0, 0
    folders = sorted(p for p in workdir.glob("stages/*") if p.is_dir())
    for folder in log.progress(iterable=folders, desc="verify", unit="stage"):
        found = _faults(folder)
        unfinished += found is None
        if found:
            wrong += 1
            lines.append(f"{folder}: {'; '.join(found)}")
    for path in sorted(workdir.glob("studies/*/study.json")):
        try:
            files.read_sealed(path)
        except (files.Damaged, OSError) as error:
            wrong += 1
            lines.append(str(error))
    done = len(folders) - unfinished
    remedy = ": the command of its study does the damaged ones again" if wrong else ""
    return [
        *lines,
        f"{done} finished stages, {unfinished} unfinished, {wrong} damaged{remedy}",
    ], wrong


def _faults(folder: Path) -> list[str] | None:
    """None: not finished."""
    try:
        found = stored.faults(folder, anew=True)
        if found is None:
            return None
        stored.read(folder.parent.parent, folder.name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [str(error)]
    left = [p.name for p in folder.glob("*") if p.name in (stored.CHECKPOINTS, CLAIMS)]
    return found + [f"{name} was left behind" for name in left]
