"""Prepares a set from the files of its authors, once; checks it, and shows what it holds.

    fairkd-data --set=snli --source=snli_1.0.zip --data_dir=data
    fairkd-data --set=snli --data_dir=data                 what is there, checked anew

SOURCE is the official archive, that archive unpacked, or a folder that holds either. Written is
DATA_DIR/NAME/VERSION, a folder of TensorFlow Datasets, which appears when it is whole: killed, the
same command starts over; run again, it does nothing. Groups that differ from those of the
literature, repeated ids, wrong labels and broken images are told with file and line.

Beside the examples stand `groups.txt`, how many each group has, and a sheet of some of them.
Training reads the set by {"name": NAME, "data_dir": DATA_DIR}. A folder that TensorFlow Datasets
prepared elsewhere is read as it is, and nothing is written there.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

from absl import flags, logging
from tqdm.auto import tqdm

from fairkd_jax import files, registry
from fairkd_jax.data import prepared, preparing, summary
from fairkd_jax.data.archives import Source
from fairkd_jax.data.dataset import DataSet, Split
from fairkd_jax.launch import runtime
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Path

SET = flags.DEFINE_string("set", None, "Name of the set.", required=True)
SOURCE = flags.DEFINE_string("source", None, "Its official archive, or a folder that holds it.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared sets lie.", required=True)
PART = flags.DEFINE_bool("part", False, "Take fewer examples, or splits, than were published.")
OPTION = flags.DEFINE_multi_string(
    "option", [], "An option of the set, such as attribute=overlap, for the table and the sheet."
)

flags.adopt_module_key_flags(runtime)
GROUPS, SHEET = "groups.txt", "examples"


def main(argv: list[str]) -> None:
    """Prepares what is not there, checks, prints the table and says where the sheet is."""
    del argv
    logging.set_verbosity(logging.ERROR)  # TFDS tells of every file
    dataset = _dataset()
    original, start = dataset.original, time.monotonic()
    try:
        folder = prepared.folder_of(original, DATA_DIR.value)
    except ValueError:
        if not SOURCE.value:
            raise
        source = Source(SOURCE.value)
        folder = preparing.prepare(
            original, source, DATA_DIR.value, part=PART.value, watch=_progress
        )
        print(f"{folder}: prepared in {time.monotonic() - start:.0f} s")
    else:
        print(f"{folder}: is there")
    found = preparing.verify(original, folder)
    print(", ".join(f"{split} {count:,} examples" for split, count in found.items()))
    if OPTION.value or not (folder / GROUPS).exists():
        splits = dict(_loaded(dataset))
        told = summary.table(splits)
        ours = (folder.parent.name, folder.name) == (original.name, original.version)
        if ours and not OPTION.value:
            _write_sheet(folder, splits)
            files.write(folder / GROUPS, f"{told}\n")  # last: where it is, all is
    else:
        told = (folder / GROUPS).read_text(encoding="utf-8").rstrip()
    print(told)
    for path in sorted(folder.glob(f"{SHEET}.*")):
        print(f"examples of each group: {path}")


def _loaded(dataset: DataSet) -> Iterator[tuple[str, Split]]:
    """All splits but those of which there are no files, as there may be in a part."""
    for split in dataset.splits:
        with contextlib.suppress(UnknownName):
            yield split, dataset.load(split)


def _dataset() -> DataSet:
    """The set that the flags name. Raises UnknownName for one that nobody prepares."""
    if registry.plugin("sets", SET.value).original is None:
        ours = [n for n in registry.choices("sets") if registry.plugin("sets", n).original]
        raise UnknownName(SET.value, "set that is prepared:", ours)
    return registry.build(
        "sets", {"name": SET.value, "data_dir": DATA_DIR.value, **dict(map(_option, OPTION.value))}
    )


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON where it is."""
    name, mark, value = text.partition("=")
    if not mark:
        raise ValueError(f"--option={text}: expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _progress(split: str, total: int | None, examples: preparing.Examples) -> Iterator[Any]:
    """A bar on a terminal; no device is asked for, as there is no training."""
    yield from tqdm(examples, desc=split, total=total, unit=" examples", disable=None)


def _write_sheet(folder: Path, splits: dict[str, Split]) -> None:
    if any("image" in split.columns for split in splits.values()):
        from fairkd_jax.data import sheet

        sheet.write(folder / f"{SHEET}.png", splits)
    else:
        files.write(folder / f"{SHEET}.txt", summary.sheet(splits))


script = runtime.script(main)
