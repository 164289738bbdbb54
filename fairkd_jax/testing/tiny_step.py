"""A training step in small for tests of debiasing methods: a small net, made-up batches.

The net reads numbers as a text of four tokens: attention, added to its input, then two layers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fairkd_jax import registry
from fairkd_jax.config import Data, Mix, Optim, Stage, Train, TrainStage
from fairkd_jax.data.dataset import Info, Split
from fairkd_jax.debias.inference import columns_of
from fairkd_jax.models.tape import Tape
from fairkd_jax.testing.everything import made_up
from fairkd_jax.types import Array, Now, Outputs, Spec, Terms

CLASSES, ATTRIBUTES, INPUTS, WIDTH, EXAMPLES = 3, 2, 4, 5, 40
COUNTS = (30.0, 4.0, 9.0, 16.0, 5.0, 25.0)  # training examples by group
TRACES: list[str] = []  # grows whenever `run` is traced


def make_batch(rows: int = 16, seed: int = 0) -> dict:
    """Real rows of every group; the first two are one example, drawn twice.

    Rows are pairs of texts: two tokens, then one or two, where the last may be padding.
    """
    r = np.random.RandomState(seed)
    words = r.randn(rows, INPUTS)
    label, attribute = np.arange(rows) % CLASSES, np.arange(rows) // CLASSES % ATTRIBUTES
    identity = r.permutation(EXAMPLES)[:rows]
    label[1], identity[1] = label[0], identity[0]
    position = np.broadcast_to(np.arange(INPUTS), (rows, INPUTS))
    mask = (position < INPUTS - np.arange(rows)[:, None] % 3 // 2).astype(int)
    segments = (position >= 2).astype(int)
    batch = {
        "views": {"plain": {"x": words, "mask": mask, "segments": segments * mask}},
        "label": label,
        "attribute": attribute,
        "group": label * ATTRIBUTES + attribute,
        "id": identity,
        "real": np.ones(rows),
    }
    return jax.tree.map(_as_jax, batch)


def _as_jax(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, {"f": jnp.float32, "i": jnp.int32, "b": bool}[x.dtype.kind])


def pad(batch: dict) -> dict:
    """The batch with rows of garbage in front, in the middle and at the end; `real` is 0 there."""
    rows = len(batch["real"])
    order = np.r_[0, 0, 0 : rows // 2, 0, rows // 2 : rows, 0]
    padding = np.zeros(len(order), bool)
    padding[[0, 1, 2 + rows // 2, -1]] = True

    def grow(x):
        garbage = jnp.full_like(x, 1e4) if jnp.issubdtype(x.dtype, jnp.floating) else x * 0
        where = padding.reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(where, garbage[order], x[order])

    batch = jax.tree.map(grow, batch)
    return batch | {"real": jnp.asarray(~padding, jnp.float32)}


def base(seed: int = 0) -> Stage:
    """A stage as the planner hands it to `stages`."""
    config = TrainStage(
        data=Data(),
        model={"name": "resnet", "preset": "tiny"},
        debias={"name": "erm"},
        distill=({"name": "none"},),
        mix=Mix(),
        optim=Optim(),
        train=Train(steps=100),
        seed=seed,
    )
    return Stage("train", config)


def made_up_columns(rows: int) -> dict:
    """What a table of a net's answers may hold."""
    r = np.random.RandomState(rows)
    bias = r.randn(rows, CLASSES)
    return {
        "logits": bias,
        "log_probs": bias - np.log(np.exp(bias).sum(1, keepdims=True)),
        "features": r.randn(rows, WIDTH),
        "mistake": np.float32(r.rand(rows) < 0.4),
        "loss": r.rand(rows),
        "held": np.int32(r.rand(rows) < 0.4),
    }


def examples(rows: int) -> Split:
    """Examples of the labels that `make_batch` gives, with raw columns of ours."""
    batch = jax.device_get(make_batch(rows))
    labels, attributes = ("entailment", "neutral", "contradiction"), ("plain", "negated")
    aligned = ((True, False), (True, True), (False, True))
    info = Info(labels, attributes, aligned, "none", "made here")
    return made_up(info, batch["label"], batch["attribute"])


def table_of(stage: Stage, rows: int) -> dict:
    """Made-up columns where a net would be asked; what a stage infers of them."""
    if (key := (stage.identity, rows)) not in INFERRED:
        INFERRED[key] = _table_of(stage, rows)
    return INFERRED[key]


INFERRED: dict[tuple[str, int], dict] = {}


def _table_of(stage: Stage, rows: int) -> dict:
    if stage.kind == "table":
        return {c: made_up_columns(rows)[c] for c in stage.config.columns}
    tables = {name: table_of(one, rows) for name, one in stage.inputs.items()}
    inferred = registry.build("infer", stage.config.infer)
    return columns_of(inferred, examples(rows), tables, stage.config.seed)


def tables_of(method, rows: int) -> dict:
    """The tables that a method reads, of the columns that its first stages write."""
    stages = method.stages(base()).inputs
    return jax.tree.map(_as_jax, {name: table_of(stages[name], rows) for name in method.tables})


def shown_to(method, batch: dict) -> dict:
    """The batch as training gives it to a method: its tables, no attributes that it may not see."""
    hidden = () if method.sees_attributes else ("attribute", "group")
    shown = {k: v for k, v in batch.items() if k not in hidden}
    tables = batch.get("tables") or tables_of(method, len(batch["real"]))
    return shown | ({"tables": tables} if tables else {})


def make_spec(method, counts=COUNTS) -> Spec:
    """Group counts are NaN where the method may not see attributes."""
    counts = jnp.asarray(counts, jnp.float32)
    groups = counts if method.sees_attributes else jnp.full_like(counts, jnp.nan)
    labels = counts.reshape(CLASSES, ATTRIBUTES).sum(1)
    inputs = make_batch()["views"]["plain"]
    student = apply(_net(np.random.RandomState(0)), inputs, {}, method.taps)
    return Spec(groups, labels, student, (), CLASSES, ATTRIBUTES, EXAMPLES, inputs)


def make_now(method, memory, counts=COUNTS, step: int = 0, steps: float = 100.0) -> Now:
    """What training tells a method in a step."""
    spec = make_spec(method, counts)
    steps, step = jnp.asarray(steps, jnp.float32), jnp.asarray(step, jnp.int32)
    return Now(steps, spec.group_counts, spec.label_counts, step, memory)


@functools.partial(jax.jit, static_argnums=0)
def _init(kind: type, method, counts, seed: Array) -> tuple[dict, dict]:
    return method.init(make_spec(method, counts), jax.random.key(seed))


def start(method, seed: int = 0, counts=COUNTS) -> tuple[dict, Now]:
    """Parameters of all nets and of the method, and what it is told in the first step."""
    r = np.random.RandomState(seed)
    nets = {name: _net(r) for name in ("student", *method.extra_nets)}
    own, memory = _init(type(method), method, counts, seed)
    return {"nets": nets, "debias": own}, make_now(method, memory, counts)


def _net(r: np.random.RandomState) -> dict:
    shapes = {"body": (INPUTS, WIDTH), "head": (WIDTH, CLASSES)}
    shapes |= {"query": (WIDTH, WIDTH), "key": (WIDTH, WIDTH)}
    return jax.tree.map(_as_jax, {name: r.randn(*shape) for name, shape in shapes.items()})


def apply(weights: dict, inputs: dict, edits: dict, save: str) -> Outputs:
    """The net with one head of attention; what it adds is small, to leave the rest as it is."""
    tape, mask = Tape(save, edits), inputs["mask"]
    x = tape("input", inputs["x"])
    y = (x * mask)[:, :, None] * weights["body"]
    query, key = y @ weights["query"], y @ weights["key"]
    scores = jnp.einsum("BTD,BSD->BTS", query, key) / WIDTH
    probs = jax.nn.softmax(jnp.where(mask[:, None] > 0, scores, -1e9))
    y = tape("block00/out", y + 0.1 * tape("block00/attn_probs", probs[:, None])[:, 0] @ y)
    features = tape("features", jnp.tanh(jnp.sum(y * mask[:, :, None], axis=1)))
    return Outputs(features @ weights["head"], features, tape.finish(), mask.astype(jnp.float32))


def outputs(method, nets: dict, batch: dict, edits: dict, now: Now, key: jax.Array) -> dict:
    """Of all nets, and of all passes of the student."""
    inputs, found = batch["views"]["plain"], {}
    for name in method.extra_nets:
        found[name] = apply(nets[name], inputs, edits, method.taps)
    for name, one in method.passes(inputs, found, batch, now, key).items():
        found[name] = apply(nets["student"], one.inputs, edits | one.edits, method.taps)
    return found


def step(method, params: dict, now: Now, batch: dict, key: jax.Array):
    """((loss, (memory, metrics)), gradients) of one step, as training makes it."""
    TRACES.append(type(method).__name__)

    def loss(params):
        changed, edits = method.prepare(batch, now, key)
        found = outputs(method, params["nets"], changed, edits, now, key)
        task = method.task(found, changed, params["debias"], now)
        terms = Terms(task=task, distill=jnp.zeros_like(task), total=task)
        value, *rest = method(terms, found, changed, params["debias"], now, key)
        return value, tuple(rest)

    return jax.value_and_grad(loss, has_aux=True)(params)


def after(now: Now, memory: dict) -> Now:
    """What the next step is told."""
    return now.replace(step=now.step + 1, memory=memory)


@functools.partial(jax.jit, static_argnums=0)
def _run(kind: type, method, *rest):
    return step(method, *rest)


def run(method, *rest):
    """`step`, compiled; by the type too, for JAX takes alike methods for one (`step.Methods`)."""
    return _run(type(method), method, *rest)
