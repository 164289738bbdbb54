"""What a plugin of the room infer computes in a stage of its own: in process 0, told to all."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fairkd_jax import processes, registry, sharding
from fairkd_jax.config import TABLES, Stage
from fairkd_jax.data import pipeline
from fairkd_jax.data.dataset import Split
from fairkd_jax.data.regrouped import Regrouped
from fairkd_jax.data.tables import read_table, write_table
from fairkd_jax.debias import inference
from fairkd_jax.debias.inference import Inference
from fairkd_jax.models.net import leaves, path_of
from fairkd_jax.train.drawn import ATTRIBUTE
from fairkd_jax.types import Path

Folders = Callable[[Stage], Path]


def write_columns(stage: Stage, folder: Folders) -> int:
    """Writes the table of an infer stage; returns how many examples it is of."""

    def infer() -> int:
        config = stage.config
        method = registry.build("infer", config.infer)
        examples, tables = _known(stage, folder, method)
        columns = inference.columns_of(method, examples, tables, config.seed)
        about = {"infer": config.infer["name"]}
        write_table(folder(stage) / "table", examples.columns["id"], columns, about)
        return len(examples)

    return processes.lead(infer)


def refitted(
    stage: Stage, folder: Folders, variables: dict[str, Any], mesh: Mesh
) -> dict[str, Any]:
    """A net's variables, those replaced that a refit stage's plugin gives anew."""
    config, method = stage.config, registry.build("infer", stage.config.infer)
    params = leaves(variables["params"])
    gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
    old = jax.device_get(gather({k: params[k] for k in inference.replaced(method, params)}))

    def refit() -> dict[str, Any]:
        examples, tables = _known(stage, folder, method)
        found = inference.variables_of(method, old, examples, tables, config.seed)
        return {k: value.tolist() for k, value in found.items()}

    new = {k: np.asarray(v, np.float32) for k, v in processes.lead(refit).items()}
    new = sharding.put_replicated(new, mesh)
    params = jax.tree_util.tree_map_with_path(
        lambda keys, x: new.get(path_of(keys), x), variables["params"]
    )
    return variables | {"params": params}


def _known(stage: Stage, folder: Folders, method: Inference) -> tuple[Split, dict[str, Any]]:
    """(examples, tables); attributes that were inferred stand in the place of the data's."""
    source, tables = pipeline.open_data(stage.config.data).drawn(), {}
    for name, one in stage.inputs.items():
        if one.kind in TABLES:
            found = read_table(folder(one) / "table")
            alone = name in method.elsewhere
            tables[name] = found.columns if alone else found.join(source.split.columns["id"])
    if ATTRIBUTE in tables:
        attribute = tables[ATTRIBUTE][ATTRIBUTE]
        source = Regrouped(source, attribute, int(attribute.max()) + 1)
    return source.split, tables
