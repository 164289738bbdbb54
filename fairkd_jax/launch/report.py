"""Writes the reports of finished studies again, without training anything.

fairkd-report --workdir=runs/quickstart                       of every study in the folder
fairkd-report --workdir=runs/quickstart --study=quickstart    of one
fairkd-report --workdir=runs/quickstart --markdown            with their headlines as tables
"""

from absl import flags

from fairkd_jax.launch import folders, runtime
from fairkd_jax.registry import UnknownName
from fairkd_jax.report import html, records, summary

STUDY = flags.DEFINE_string("study", None, "Name of the study; not given: all of them.")
MARKDOWN = flags.DEFINE_bool("markdown", False, "Print each headline as a table of Markdown too.")

flags.adopt_module_key_flags(runtime)
flags.adopt_module_key_flags(folders)


def main(argv: list[str]) -> None:
    """Reads the finished stages, writes `report/index.html` and the tables beside it."""
    del argv
    folder = folders.workdir() / "studies"
    names = sorted(p.parent.name for p in folder.glob("*/study.json"))
    if not names or STUDY.value not in (None, *names):
        raise UnknownName(STUDY.value or "", f"study in {folder}:", names)
    for name in [STUDY.value] if STUDY.value else names:
        print(f"report: {html.write(folder / name)}")
        if MARKDOWN.value:
            print(summary.markdown(summary.frame(records.read(folder / name))))


script = runtime.script(main)
