"""`metrics.jsonl`: one JSON object a line, `{"step": 50, "train/loss": 0.31}`; process 0 writes."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from tqdm import tqdm


class Writer:
    """Appends lines; cuts those after the step that a resumed run goes on from.

    `write_scalars(step, scalars)` and `flush()` are named as in clu's `MetricWriter`.
    """

    def __init__(self, path: pathlib.Path, after: int):
        self._file = None
        self.kept = [line for line in read(path) if line["step"] <= after]
        if jax.process_index() == 0:
            path.write_text("".join(json.dumps(line) + "\n" for line in self.kept))
            self._file = path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line."""
        if self._file:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")

    def flush(self) -> None:
        """Makes what was written survive a kill."""
        if self._file:
            self._file.flush()

    def close(self) -> None:
        """The file is complete."""
        if self._file:
            self._file.close()


def progress(**options: Any) -> tqdm:
    """A bar with rate and time left on a terminal of process 0, nothing elsewhere."""
    return tqdm(disable=None if jax.process_index() == 0 else True, **options)


def read(path: pathlib.Path) -> list[dict]:
    """All whole lines; a line that a kill cut short is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
