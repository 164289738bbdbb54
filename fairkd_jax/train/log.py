"""`metrics.jsonl`: one JSON object a line, `{"step": 50, "train/loss": 0.31}`; process 0 writes."""

import json
import pathlib
from collections.abc import Mapping

import jax


class Writer:
    """Appends lines; cuts those after the step that a resumed run goes on from.

    `write_scalars(step, scalars)` and `flush()` are named as in clu's `MetricWriter`.
    """

    def __init__(self, path: pathlib.Path, after: int):
        self._file = None
        if jax.process_index() == 0:
            kept = [line for line in read(path) if line["step"] <= after]
            path.write_text("".join(json.dumps(line) + "\n" for line in kept))
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


def read(path: pathlib.Path) -> list[dict]:
    """All whole lines; a line that a kill cut short is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
