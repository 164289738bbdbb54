"""Every file in data/augment/ keeps its contract."""

import pytest

from fairkd_jax import registry
from fairkd_jax.testing.augment import *  # noqa: F403

PAIRS = "label\tpremise\thypothesis\n" + "".join(
    f"{label}\tThe baker saw {n} birds.\tThe baker saw {'few' if n % 2 else n} birds.\n"
    for n in range(4)
    for label in ("entailment", "non-entailment")
)
LONG_WAYS = {  # sure to change something of 20 short texts or images
    "word_dropout": {"drop": 0.5},
}


@pytest.fixture(params=registry.available("augment"))
def plugin(request, tmp_path):
    spec = {"name": request.param, **LONG_WAYS.get(request.param, {})}
    if request.param == "counterfactual_pairs":
        (tmp_path / "pairs.tsv").write_text(PAIRS)
        spec |= {"folder": str(tmp_path), "file": "pairs.tsv"}
    return spec


@pytest.fixture
def sets():
    return [
        {"name": "template_nli", "train": 200, "eval": 24},
        {"name": "colored_digits", "image_size": 8},
    ]
