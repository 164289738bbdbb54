"""Compares two trained nets inside: CKA of their layers on aligned and on conflicting examples.

    fairkd-compare --workdir=runs/quickstart --first=3f2a91 --second=91bc05
    fairkd-compare ... --first_taps='block\\d\\d/out' --second_taps='stage.*/out'

`--first` and `--second` are the stages that trained the nets, or scored them, by their first
digits: they stand behind the name of a run and in the records of the report. Debiased CKA; beside
it the same with shuffled rows, the null.
"""

import json

from absl import flags

from fairkd_jax.analyses import Compare, CompareStage
from fairkd_jax.config import Stage
from fairkd_jax.launch import folders, runtime
from fairkd_jax.study import reads, stage, stored

FIRST = flags.DEFINE_string("first", None, "First digits of the first net's stage.", required=True)
SECOND = flags.DEFINE_string(
    "second", None, "First digits of the second net's stage.", required=True
)
FIRST_TAPS = flags.DEFINE_string("first_taps", ".*/out", "Which of the first's layers (regex).")
SECOND_TAPS = flags.DEFINE_string("second_taps", ".*/out", "Which of the second's layers (regex).")
SPLIT = flags.DEFINE_string("split", "test", "Whose examples.")
EXAMPLES = flags.DEFINE_integer("examples", 512, "At most this many of each kind.")

flags.adopt_module_key_flags(runtime)
flags.adopt_module_key_flags(folders)


def main(argv: list[str]) -> None:
    """Reads both nets, compares, prints."""
    del argv
    workdir = folders.workdir()
    mesh = runtime.start(workdir)
    compare = Compare(SPLIT.value, FIRST_TAPS.value, SECOND_TAPS.value, EXAMPLES.value)
    nets = {
        "first": stored.read_net(workdir, FIRST.value),
        "second": stored.read_net(workdir, SECOND.value),
    }
    one = reads.sealed_alone(Stage("compare", CompareStage(compare), nets))
    place = stage.Place(workdir, mesh)
    stage.run(one, place)
    path = place.folder(one) / "result.json"
    result = json.loads(path.read_text())
    for kind in ("aligned", "conflicting"):
        print(f"{kind}, {result[f'n_{kind}']} examples (rows: first, columns: second)")
        width = max(map(len, result["second_layers"]))
        print(" " * 22 + "".join(f"{name:>{width + 2}}" for name in result["second_layers"]))
        for name, row in zip(result["first_layers"], result[kind]):
            cells = ["–" if v is None else f"{v:.3f}" for v in row]
            print(f"{name:22}" + "".join(f"{c:>{width + 2}}" for c in cells))
    print(path)


script = runtime.script(main)
