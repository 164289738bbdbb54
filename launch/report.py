"""Writes the reports of finished studies again, without training anything.

python launch/report.py --workdir=runs/quickstart                    of every study in the folder
python launch/report.py --workdir=runs/quickstart --study=quickstart   of one
"""

import runtime
from absl import app, flags

from fairkd_jax.registry import UnknownName
from fairkd_jax.report import html

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of studies.")
STUDY = flags.DEFINE_string("study", None, "Name of the study; not given: all of them.")


@runtime.told
def main(argv: list[str]) -> None:
    """Reads the finished stages, writes `report/index.html` and `report/records.csv`."""
    del argv
    folder = runtime.folder(WORKDIR.value) / "studies"
    names = sorted(p.parent.name for p in folder.glob("*/study.json"))
    if not names or STUDY.value not in (None, *names):
        raise UnknownName(STUDY.value or "", f"study in {folder}:", names)
    for name in [STUDY.value] if STUDY.value else names:
        print(f"report: {html.write(folder / name)}")


if __name__ == "__main__":
    app.run(main)
