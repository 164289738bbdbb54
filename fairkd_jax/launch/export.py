"""Writes the net of a finished train stage as published weights, for transformers and others.

    fairkd-export --workdir=runs/quickstart_nli --stage=3f2a91 --folder=exported/student
    python -c "from transformers import AutoModelForSequenceClassification as Model; \\
               print(Model.from_pretrained('exported/student').config.id2label)"

`--stage` is the stage that trained the net, or one that scored it, by its first digits: they stand
behind the name of a run and in the records of the report. The folder, on a disk or gs://, then
holds model.safetensors, config.json with the names of the labels, and for nets of text their
tokenizer. Nets that transformers does not have are refused: ResNets of the CIFAR form, such as the
quickstart's.

Another study starts from it by `model.pretrained = FOLDER`, with the tokenizer by
`data.views.NAME.tokenizer = FOLDER`.
"""

import jax
from absl import flags

from fairkd_jax import buckets, files
from fairkd_jax.data import pipeline
from fairkd_jax.launch import folders, runtime
from fairkd_jax.models import pretrained
from fairkd_jax.study import reads, stage, stored

STAGE = flags.DEFINE_string("stage", None, "First digits of the net's stage.", required=True)
FOLDER = flags.DEFINE_string("folder", None, "Where to write; holds no weights yet.", required=True)

flags.adopt_module_key_flags(runtime)
flags.adopt_module_key_flags(folders)


def main(argv: list[str]) -> None:
    """Reads the net, writes it, says what was written."""
    del argv
    workdir = folders.workdir()
    mesh = runtime.start(workdir)
    folder = files.whole(buckets.path(FOLDER.value))
    one = stored.read_net(workdir, STAGE.value)
    reads.check([one])
    net, variables = stage.Place(workdir, mesh).net(one)
    opened = pipeline.open_data(one.config.data)
    labels, encoder = opened.dataset.info.label_names, opened.encoders[net.view]
    pretrained.save(net, jax.device_get(variables), folder, labels, encoder)
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


script = runtime.script(main)
