"""Writes the report of a finished study again, without training anything.

python launch/report.py --workdir=runs/quickstart
"""

import runtime
from absl import app, flags

from fairkd_jax.report import html

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a study.")


def main(argv: list[str]) -> None:
    """Reads the finished stages, writes `report/index.html` and `report/records.csv`."""
    del argv
    print(f"report: {html.write(runtime.folder(WORKDIR.value))}")


if __name__ == "__main__":
    app.run(main)
