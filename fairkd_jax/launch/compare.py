"""Compares two trained nets inside: how like their layers are, aligned and conflicting examples.

    fairkd-compare --workdir=runs/quickstart --first=3f2a91 --second=91bc05
    fairkd-compare ... --first_taps='block\\d\\d/out' --second_taps='stage.*/out'
    fairkd-compare ... --measure=rbf_cka --measure='{"name": "mutual_knn", "k": 5}'
    fairkd-compare --first=exported/teacher --second=exported/student --output=compared \\
        --on_set='{"name": "snli", "data_dir": "data"}'

`--first` and `--second` are the stages that trained the nets, or scored them, by their first
digits: they stand behind the name of a run and in the records of the report. Or folders: those that
fairkd-export wrote, or WORKDIR/stages/STAGE of any work folder; then examples are those of the set
that --on_set names, else of the first net's, else of the second's.

Debiased CKA, and every `--measure`, a file in fairkd_jax/representation/similarity/; beside each
the same with shuffled rows, the null, and an interval over examples. The page compare.html shows
them, compare.npz holds all numbers; both are written to --output, which for stages of a work folder
is WORKDIR/compared/NAME unless said.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from fairkd_jax import buckets, files
from fairkd_jax.analyses import Compare, CompareStage
from fairkd_jax.config import Stage
from fairkd_jax.launch import folders, runtime
from fairkd_jax.report import similarity
from fairkd_jax.study import anywhere, reads, stage, stored
from fairkd_jax.types import Path

FIRST = flags.DEFINE_string(
    "first", None, "The first net: first digits of its stage, or a folder.", required=True
)
SECOND = flags.DEFINE_string("second", None, "The second net, likewise.", required=True)
FIRST_TAPS = flags.DEFINE_string("first_taps", ".*/out", "Which of the first's layers (regex).")
SECOND_TAPS = flags.DEFINE_string("second_taps", ".*/out", "Which of the second's layers (regex).")
SPLIT = flags.DEFINE_string("split", "test", "Whose examples.")
EXAMPLES = flags.DEFINE_integer("examples", 512, "At most this many of each kind.")
MEASURE = flags.DEFINE_multi_string(
    "measure", [], "A measure beside CKA, a name or a config; may be given more than once."
)
ON_SET = flags.DEFINE_string("on_set", None, "With folders: the set, a name or a config.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of compare.html and compare.npz.")

flags.adopt_module_key_flags(runtime)
flags.adopt_module_key_flags(folders)


def main(argv: list[str]) -> None:
    """Reads both nets, compares, prints, writes the page and the numbers."""
    del argv
    names = FIRST.value, SECOND.value
    measures = tuple(_plugin(text, "measure") for text in MEASURE.value)
    compare = Compare(
        SPLIT.value, FIRST_TAPS.value, SECOND_TAPS.value, EXAMPLES.value, measures=measures
    )
    if any(map(anywhere.is_folder, names)):
        result, output = _of_folders(names, compare)
    else:
        result, output = _of_stages(names, compare)
    if jax.process_index() == 0:
        _print(result)
        for path in _write(result, output, names):
            print(path)


def _of_stages(names: tuple[str, str], compare: Compare) -> tuple[Mapping[str, Any], Path]:
    """(what was found, where to write it): a stage of the work folder, done once."""
    if ON_SET.value:
        raise ValueError(f"--on_set={ON_SET.value} is for nets in folders; stages have their set")
    workdir = folders.workdir()
    mesh = runtime.start(workdir)
    nets = {k: stored.read_net(workdir, name) for k, name in zip(("first", "second"), names)}
    one = reads.sealed_alone(Stage("compare", CompareStage(compare), nets))
    place = stage.Place(workdir, mesh)
    stage.run(one, place)
    output = OUTPUT.value or workdir / "compared" / one.identity
    return json.loads((place.folder(one) / "result.json").read_text()), _folder(output)


def _of_folders(names: tuple[str, str], compare: Compare) -> tuple[Mapping[str, Any], Path]:
    """Likewise of nets wherever they lie; one that is named by digits is in --workdir."""
    if not OUTPUT.value:
        raise ValueError("--output=FOLDER is needed where nets are in folders: the page goes there")
    on = _plugin(ON_SET.value, "on_set") if ON_SET.value else None
    output, mesh = _folder(OUTPUT.value), runtime.start()
    places = tuple(map(_place, names))
    return files.plain(anywhere.compared(places, compare, mesh, on)), output


def _place(name: str) -> anywhere.Place:
    if anywhere.is_folder(name):
        return anywhere.find(name)
    workdir = folders.workdir()
    return anywhere.find(str(workdir / "stages" / stored.find(workdir, name)))


def _folder(output: Any) -> Path:
    return files.make(files.whole(buckets.path(output)))


def _plugin(text: str, flag: str) -> dict[str, Any]:
    """Of a name or of JSON. Raises ValueError for what is neither."""
    if not text.startswith("{"):
        return {"name": text}
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--{flag}={text} is no JSON: {error}") from error


def _print(result: Mapping[str, Any]) -> None:
    """Debiased CKA as tables."""
    for kind in ("aligned", "conflicting"):
        print(f"{kind}, {result[f'n_{kind}']} examples (rows: first, columns: second)")
        width = max(map(len, result["second_layers"]))
        print(" " * 22 + "".join(f"{name:>{width + 2}}" for name in result["second_layers"]))
        for name, row in zip(result["first_layers"], result[kind]):
            cells = ["–" if v is None else f"{v:.3f}" for v in row]
            print(f"{name:22}" + "".join(f"{c:>{width + 2}}" for c in cells))


def _write(result: Mapping[str, Any], output: Path, names: tuple[str, str]) -> tuple[Path, ...]:
    """The page and the numbers."""
    page, numbers = output / "compare.html", output / "compare.npz"
    files.write(page, similarity.page(result, *names, f"split {SPLIT.value}"))
    numbers.write_bytes(similarity.arrays(result))
    return page, numbers


script = runtime.script(main)
