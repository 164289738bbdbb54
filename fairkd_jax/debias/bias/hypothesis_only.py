"""A net that reads the hypothesis alone: what it can answer, it has from artefacts (1909.06321).

The column is an option: a net may as well read the premise alone.
"""

import dataclasses
from typing import Any

from fairkd_jax import registry
from fairkd_jax.config import Stage
from fairkd_jax.data.text import parse_prompt
from fairkd_jax.debias.bias.base import Bias, answers, check_above_0, with_model


@dataclasses.dataclass(frozen=True)
class HypothesisOnly(Bias):
    """The base's view with a prompt that holds one column; the words before it stay."""

    column: str = "hypothesis"  # of the data set
    model: tuple[tuple[str, Any], ...] = ()  # a model's config; (): the base's
    share: float = 1.0  # of the base's steps

    def __post_init__(self):
        check_above_0("hypothesis_only", share=self.share)

    def stage(self, base: Stage) -> Stage:
        """The answers of the net. Raises ValueError where the net's view is none of texts."""
        views = base.config.data.views
        changes = with_model(self.model)
        model = changes.get("model", base.config.model)
        name = model.get("view") or registry.plugin("models", model["name"]).view
        if name not in views:
            raise registry.UnknownName(name, f"view for model {model['name']!r}:", views)
        options = registry.defaults("views", views[name]["name"]) | views[name]
        if "prompt" not in options:
            raise ValueError(
                f"bias 'hypothesis_only' asks a net about the column {self.column!r} alone, but "
                f"data.views.{name} = {views[name]} has no prompt to say which columns it reads: "
                "it needs a view of texts, as wordpiece and unigram"
            )
        before = {column: words for words, column in parse_prompt(options["prompt"])}
        words = before.get(self.column, "").replace("{", "{{").replace("}", "}}")
        changes[f"data.views.{name}.prompt"] = f"{words}{{{self.column}}}"
        return answers(base, self.share, changes)
