"""`metrics.jsonl`: one JSON object a line, `{"step": 50, "train/loss": 0.31}`; process 0 writes.

What is of training is a mean over the steps since the line before; "time/data_wait" is the share of
their time for which the devices waited for data. It is a log and decides nothing:
a resumed run takes its lines, and the sums on their way, from the checkpoint.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
from tqdm.auto import tqdm

from fairkd_jax import files
from fairkd_jax.train.trackers import Tracker
from fairkd_jax.types import Path

TIMES = "time/"  # how names of what was timed begin
EVERY = 5.0  # seconds between writes on the way


class Means:
    """Means of scalars over steps. All that it knows is `count` and `sums`, which JSON can say."""

    def __init__(self, count: int = 0, sums: Mapping[str, float] = MappingProxyType({})):
        self.count = count
        self.sums = {k: math.nan if v is None else v for k, v in sums.items()}

    def add(self, scalars: Mapping[str, Any]) -> None:
        """Those of one more step."""
        self.count += 1
        self.sums = {k: self.sums.get(k, 0.0) + float(v) for k, v in scalars.items()}

    def take(self) -> dict[str, float]:
        """The means since this was last called."""
        found = {k: v / self.count for k, v in self.sums.items()}
        self.count, self.sums = 0, {}
        return found


class Writer:
    """Lines in memory, and the file that holds them, which is replaced whole.

    `write_scalars(step, scalars)` and `flush()` are named as in clu's `MetricWriter`; trackers
    (trackers.py) are given every new line.
    """

    def __init__(self, path: Path, lines: list[dict], trackers: Sequence[Tracker] = ()):
        self.lines, self._path, self._written, self._trackers = lines, path, 0.0, trackers
        self.flush()

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line."""
        self.lines.append(files.plain({"step": step, **scalars}))
        for tracker in self._trackers:
            tracker.write_scalars(step, scalars)
        if time.monotonic() - self._written > EVERY:
            self.flush()

    def flush(self) -> None:
        """Makes what was written survive a kill."""
        if jax.process_index() == 0:
            files.write(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))
        self._written = time.monotonic()


def progress(**options: Any) -> tqdm:
    """A bar with rate and time left on a terminal or in a notebook of process 0, else nothing."""
    notebook = any(kind.__name__ == "tqdm_notebook" for kind in tqdm.__mro__)
    hide = False if notebook else None  # None: unless it is written to a terminal
    return tqdm(disable=hide if jax.process_index() == 0 else True, **options)


def read(path: Path) -> list[dict]:
    """All lines of a finished run, without times, in which equal runs differ; [] for no file."""
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in lines]
