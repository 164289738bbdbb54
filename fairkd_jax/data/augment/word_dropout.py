"""Texts from which words are left out by chance, each by itself (as in arXiv 1511.06349, 3.1).

An example keeps its label, which is a guess where the word left out decided it, and its attribute.
"""

import dataclasses

import numpy as np

from fairkd_jax.data.augmentation import Augmentation, Columns, Numbers, texts_of
from fairkd_jax.data.dataset import Split


@dataclasses.dataclass(frozen=True)
class WordDropout(Augmentation):
    """Words are what stands between spaces; of each text one at least stays."""

    changes_inputs = True

    rate: float = 1.0
    drop: float = 0.1  # chance of a word
    texts: tuple[str, ...] = ("premise", "hypothesis")  # or ("text",)

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.drop < 1:
            raise ValueError(f"word_dropout: drop = {self.drop}, expected between 0 and 1")
        if not self.texts:
            raise ValueError("word_dropout: texts = (): name a column, as 'premise' or 'text'")

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns whose words are left out."""
        return self.texts

    def change(self, columns: Columns, train: Split, draw: Numbers) -> Columns:
        words = {name: [t.split() for t in texts_of(columns, name)] for name in self.texts}
        longest = max(len(text) for rows in words.values() for text in rows)
        # by turns, so that what a row draws does not depend on how long others are
        numbers = draw(longest * len(words))
        return {
            name: np.array(
                [self._thinned(r, d) for r, d in zip(rows, numbers[:, i :: len(words)])], object
            )
            for i, (name, rows) in enumerate(words.items())
        }

    def _thinned(self, words: list[str], drawn: np.ndarray) -> str:
        drawn = drawn[: len(words)]
        kept = drawn >= min(self.drop, drawn.max(initial=0.0))
        return " ".join(word for word, stays in zip(words, kept) if stays)
