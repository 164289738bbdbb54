"""The contract of a decision: which label a trained net's log-probabilities are taken to mean.

Without one it is the likeliest. A decision changes no net: its parameters are fitted, after
training, to what the net says of another split, so nets are shared with what is decided otherwise.
"""

import abc
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from fairkd_jax.data.dataset import Info, draws
from fairkd_jax.registry import name_of

Parameters = Mapping[str, Any]  # finite numbers, truth values, texts and lists: what JSON can say
STREAM = int.from_bytes(b"decide")  # of what is drawn here, apart from what augmentations draw


@dataclasses.dataclass(frozen=True)
class Decision(abc.ABC):
    """The contract of a file in `evaluation/decide/`: a frozen dataclass of options.

    It works on the host, with NumPy or a library; log-probabilities are float64, by the net's class
    in the order of its set's labels.
    """

    sees_attributes: ClassVar[bool] = False  # of the examples that it decides on, in a test too?

    def check(self, info: Info, counts: Int[np.ndarray, "C A"]) -> None:
        """Raises ValueError, before any compute, where it cannot be fitted.

        `counts` are the examples of the split that it will be fitted to, by label and attribute.
        """
        return None

    @abc.abstractmethod
    def fit(
        self,
        log_probs: Float[np.ndarray, "N C"],
        label: Int[np.ndarray, "N"],
        attribute: Int[np.ndarray, "N"],
    ) -> Parameters:
        """The parameters: a pure function of these examples, in whatever order they come."""

    @abc.abstractmethod
    def apply(
        self,
        parameters: Parameters,
        log_probs: Float[np.ndarray, "N C"],
        attribute: Int[np.ndarray, "N"],
        chance: Float[np.ndarray, "N"],
    ) -> Int[np.ndarray, "N"]:
        """The class of each example: a pure function, row by row.

        `attribute` is 0 everywhere unless the decision sees attributes. `chance` is uniform in
        [0, 1), for decisions that draw: of the run's seed and the example alone.
        """


def check(
    method: Decision, calibration: Info, counts: Int[np.ndarray, "C A"], scored: Info
) -> None:
    """Raises ValueError for a split that it cannot be fitted to, or examples it cannot decide on.

    `calibration` and `counts` tell of the split that it is fitted to, `scored` of the other.
    """
    names, others = calibration.attribute_names, scored.attribute_names
    if method.sees_attributes and names != others:
        raise ValueError(
            f"{title(method)} reads the attribute of each example that it decides on, and those "
            f"that it is fitted to have attributes {list(names)}, those of an evaluation "
            f"{list(others)}: leave that evaluation out, or decide otherwise"
        )
    method.check(calibration, counts)


def fitted(
    method: Decision,
    log_probs: Float[np.ndarray, "N C"],
    label: Int[np.ndarray, "N"],
    attribute: Int[np.ndarray, "N"],
) -> Parameters:
    """Its parameters, as they come back from JSON. Raises ValueError for what JSON cannot say."""
    found = method.fit(np.float64(log_probs), label, attribute)
    try:
        return json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{title(method)}: parameters {found}: {error}") from error


def decided(
    method: Decision, parameters: Parameters, rows: Mapping[str, np.ndarray], seed: int
) -> Int[np.ndarray, "N"]:
    """The net's class that each example is given; `rows` are log_probs [N, C], attribute and id."""
    chance = draws(seed, 0, rows["id"], 1, STREAM)[:, 0] if len(rows["id"]) else np.zeros(0)
    attribute = rows["attribute"] if method.sees_attributes else np.zeros_like(rows["attribute"])
    return method.apply(parameters, np.float64(rows["log_probs"]), attribute, chance)


def title(method: Decision) -> str:
    """How messages speak of it."""
    return f"decision {name_of(type(method))!r}"
