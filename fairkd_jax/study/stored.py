"""A stage's folder, `stages/<identity>/`: what it holds, and whether that is what was written.

claims/        who writes here, until when (claim.py)
config.json    kind, config, inputs, digests of what it read: the identity follows from them
checkpoints/   on the way; removed at the end
metrics.jsonl, net/, table/, result.json, ...    the products
done           seconds, examples, digests of the products; written last
"""

import contextlib
import difflib
from typing import Any

from fairkd_jax import files
from fairkd_jax.config import KINDS, NETS, Stage, as_dict, parse
from fairkd_jax.registry import UnknownName
from fairkd_jax.study.claim import FOLDER as CLAIMS
from fairkd_jax.types import Path

STATES = ("done", "partial", "missing", "damaged")
DONE, CONFIG, CHECKPOINTS = "done", "config.json", "checkpoints"
NEAREST = 5  # stages that a miss lists
NET = "net.json"  # which inputs and labels a stage's net was trained on
NO_PRODUCTS = (CLAIMS, CONFIG, CHECKPOINTS, DONE)


def state_of(stage: Stage, workdir: Path) -> str:
    """ "done", "partial" (it goes on from there), "missing", or "damaged": it is done again."""
    folder = workdir / "stages" / stage.identity
    if (wrong := faults(folder)) is not None:
        return "damaged" if wrong else "done"
    return "partial" if folder.exists() else "missing"


def faults(folder: Path, *, anew: bool = False) -> list[str] | None:
    """What is wrong with the products of a finished stage, a phrase each; None: not finished.

    `anew`: all is read now, whatever is remembered of files that did not change. Raises OSError,
    naming the file, for one that cannot be read: that proves nothing.
    """
    try:
        products = files.read_sealed(folder / DONE)["products"]
    except FileNotFoundError:
        return None
    except files.Damaged as error:
        return [str(error)]
    return files.faults(folder, products, anew=anew)


def unusable(folder: Path) -> list[str]:
    """Why the products of a stage cannot be read; [] where they can."""
    wrong = faults(folder)
    return ["it is not finished"] if wrong is None else wrong


def require(folder: Path, what: str) -> Path:
    """The folder. Raises files.Damaged, naming what is wrong, where the products cannot be read."""
    if wrong := unusable(folder):
        raise files.Damaged(
            f"{folder} ({what}): {'; '.join(wrong)}. The command of its study does this stage again"
        )
    return folder


def find(workdir: Path, digits: str) -> str:
    """The identity of the stage that begins with these digits: tables print six of them.

    Raises UnknownName, with those that are nearest, where there is none, ValueError where there are
    several.
    """
    there = sorted(p.parent.name for p in (workdir / "stages").glob(f"*/{CONFIG}"))
    found = [name for name in there if digits and name.startswith(digits)]
    if len(found) > 1:
        raise ValueError(
            f"stage {digits!r} in {workdir} may be {', '.join(found)}: give more of its digits"
        )
    if not found:
        like = difflib.SequenceMatcher(b=digits)
        near = sorted(there, key=lambda name: -_likeness(like, name[: len(digits)]))[:NEAREST]
        more = f" and {len(there) - len(near)} more" if len(there) > len(near) else ""
        raise UnknownName(digits, f"stage in {workdir}:", near, more)
    return found[0]


def _likeness(like: difflib.SequenceMatcher, name: str) -> float:
    like.set_seq1(name)
    return like.ratio()


def read(workdir: Path, identity: str) -> Stage:
    """The stage that a folder was made for, with its inputs; the first digits will do.

    Raises what `find` raises where there is no such stage, ValueError where its folder was altered.
    """
    path = workdir / "stages" / identity / CONFIG
    if not identity or not path.exists():
        identity = find(workdir, identity)
        path = workdir / "stages" / identity / CONFIG
    content = files.read_json(path)
    stage = Stage(
        content["kind"],
        parse(KINDS[content["kind"]], content["config"], str(path)),
        {name: read(workdir, other) for name, other in content["inputs"].items()},
        content["reads"],
    )
    if stage.identity != identity:
        raise ValueError(f"{path} describes stage {stage.identity}, not {identity}: it was altered")
    return stage


def read_net(workdir: Path, identity: str) -> Stage:
    """The train or refit stage of that name, or that whose net an evaluate stage of it scored.

    Raises what `read` raises, and ValueError for a stage of another kind.
    """
    one = read(workdir, identity)
    if one.kind == "evaluate":
        return one.inputs["net"]
    if one.kind not in NETS:
        raise ValueError(
            f"stage {one.identity} in {workdir} is of kind {one.kind!r}: nets are in those of kind "
            "'train' and 'refit', and scored in those of kind 'evaluate'"
        )
    return one


def about(stage: Stage) -> dict[str, Any]:
    """What `config.json` holds; `read` reads it back."""
    inputs = {k: v.identity for k, v in stage.inputs.items()}
    config = files.plain(as_dict(stage.config))
    return {"kind": stage.kind, "config": config, "inputs": inputs, "reads": dict(stage.reads)}


def clear(folder: Path) -> None:
    """Removes what a killed or damaged stage left, but for claims and checkpoints."""
    for left in folder.iterdir():
        if left.name not in (CLAIMS, CHECKPOINTS):
            files.remove(left)


def close(folder: Path, facts: dict[str, Any]) -> None:
    """All products are there: writes `done` with their digests, and lets checkpoints go."""
    files.sync(folder)
    products = files.digests(folder, leave=NO_PRODUCTS)
    files.write_sealed(folder / DONE, facts | {"products": products})
    files.remove(folder / CHECKPOINTS)


def refresh(folder: Path, stage: Stage) -> None:
    """Brings a finished stage's folder up to date: where files lie now; nothing that was left."""
    for left in (CHECKPOINTS, CLAIMS):  # of a run that was killed as it ended
        with contextlib.suppress(OSError):  # or that is just removing them itself
            files.remove(folder / left)
    try:
        known = files.read_json(folder / CONFIG)
    except (files.Damaged, FileNotFoundError):
        known = None
    if known != (now := about(stage)):
        files.write_json(folder / CONFIG, now)
