"""Random batches and small nets of every family, for tests of the step."""

import jax
import jax.numpy as jnp
import numpy as np

from fairkd_jax.config import Optim
from fairkd_jax.models.net import make_net
from fairkd_jax.train import optim
from fairkd_jax.train.optim import Numbers
from fairkd_jax.train.step import Methods, Program
from fairkd_jax.types import Now

FACTS = {
    "wordpiece": {"vocab_size": 50, "length": 8, "identity": "synthetic"},
    "unigram": {"vocab_size": 50, "length": 8, "identity": "synthetic"},
    "image": {"height": 8, "width": 8, "channels": 3, "identity": "synthetic"},
}
SMALL = {  # sizes below the preset, where it is large
    "bert": {"depth": 1, "width": 16, "heads": 2},
    "t5": {"depth": 1, "width": 16, "heads": 2, "head_width": 8, "mlp_width": 32},
    "vit": {"depth": 1, "width": 16, "heads": 2},
}
CLASSES, ATTRIBUTES, EXAMPLES = 2, 2, 64


def small_net(family: str, num_classes: int = CLASSES):
    """The family's tiny preset, made smaller."""
    spec = {"name": family, "preset": "tiny"} | SMALL.get(family, {})
    return make_net(spec, num_classes, FACTS)


def batch(rows: int = 16, seed: int = 0, attributes: bool = True) -> dict:
    """A batch with every view, and with the tables that any method reads; no padding rows."""
    rng = np.random.default_rng(seed)
    length = rng.integers(3, 9, rows)
    mask = (np.arange(8) < length[:, None]).astype(np.int32)
    words = {
        "tokens": (rng.integers(5, 50, (rows, 8)) * mask).astype(np.int32),
        "mask": mask,
        "segments": (np.arange(8) >= 2) * mask,  # pairs of texts
    }
    label = rng.integers(0, CLASSES, rows).astype(np.int32)
    attribute = rng.integers(0, ATTRIBUTES, rows).astype(np.int32)
    made = {
        "views": {
            "wordpiece": words,
            "unigram": words,
            "image": {"pixels": rng.normal(size=(rows, 8, 8, 3)).astype(np.float32)},
        },
        "label": label,
        "id": rng.permutation(EXAMPLES)[:rows].astype(np.int32),
        "real": np.ones(rows, np.float32),
        "tables": {
            "teacher_logits": {"logits": rng.normal(size=(rows, CLASSES)).astype(np.float32)},
            "mistakes": {"mistake": (mistake := rng.integers(0, 2, rows).astype(np.float32))},
            "early_mistakes": {"mistake": mistake},
            "bias": {"log_probs": np.log(rng.dirichlet([1, 1], rows)).astype(np.float32)},
            "erm": {"log_probs": np.log(rng.dirichlet([1, 1], rows)).astype(np.float32)},
        },
    }
    if attributes:
        group = label * ATTRIBUTES + attribute
        made |= {"attribute": attribute, "group": group.astype(np.int32)}
    return jax.tree.map(jnp.asarray, made)


NOW = Now(  # as the loop makes it
    steps=np.float32(100),
    group_counts=np.array([30.0, 3.0, 5.0, 26.0], np.float32),
    label_counts=np.array([33.0, 31.0], np.float32),
)


def numbers(learning_rate: float = 1e-2) -> Numbers:
    """AdamW's usual."""
    return optim.numbers(Optim(weight_decay=0.01), learning_rate)


def program(student, teachers=(), **options) -> Program:
    """A program for the sizes above."""
    return Program(
        student, optim.rule_of(Optim()), teachers, ATTRIBUTES, num_examples=EXAMPLES, **options
    )


def methods(debias, distill=(), scope="total") -> Methods:
    """With numbers as the loop makes them."""
    made = Methods(debias, tuple(distill), task_weight=0.5, kd_weight=0.5, scope=scope)
    return jax.tree.map(np.float32, made)
