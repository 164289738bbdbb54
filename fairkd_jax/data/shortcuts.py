"""Shortcuts that the texts of a pair show by themselves: overlap of words, words of negation.

A word is a run of letters and digits, in any script, with the marks that belong to them; case and
compatibility forms (full width, ligatures) do not count. Of ASCII text these are the [a-z0-9]+ of
arXiv 1902.01007. Scripts that put no spaces between words (Chinese characters, kana, Thai, Lao,
Burmese, Khmer) have no words that a rule could find: there each character with its marks is one.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

ASCII_WORD = re.compile(r"[a-z0-9]+")
UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u31f0-\u31ff"  # ideographic marks and numbers, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)


def words(text: str) -> list[str]:
    """The words of a text, lower-cased, in order."""
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    return _word().findall(unicodedata.normalize("NFKC", text).casefold())


@functools.cache
def _word() -> re.Pattern[str]:
    """Made when it is first needed: `re` knows letters and digits, but no class of marks."""
    marks = "".join(c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.category(c)[0] == "M")
    spaced = rf"[^\W_{UNSPACED}]"
    return re.compile(rf"(?=[^\W_])[{UNSPACED}][{marks}]*|{spaced}(?:{spaced}|[{marks}])*")


def overlaps(premise: str, hypothesis: str) -> bool:
    """Does every word of the hypothesis occur in the premise (arXiv 1902.01007)?

    False for a hypothesis without a word, of which nothing can occur.
    """
    found = set(words(hypothesis))
    return bool(found) and found <= set(words(premise))


def negates(premise: str, hypothesis: str) -> bool:
    """Is a word of the hypothesis nobody, no, never or nothing (arXiv 1911.08731, section 3.1)?

    These are English words: other languages need a column of the file as attribute.
    """
    return not {"nobody", "no", "never", "nothing"}.isdisjoint(words(hypothesis))


class Shortcut(NamedTuple):
    """An attribute computed from the texts, and the labels that each of its two values suggests."""

    holds: Callable[[str, str], bool]
    suggests: Mapping[str, tuple[str, ...]]  # value where it holds first


SHORTCUTS = {
    "overlap": Shortcut(
        overlaps,
        {
            "overlap": ("entailment",),
            "no_overlap": ("neutral", "contradiction", "non-entailment"),
        },
    ),
    "negation": Shortcut(
        negates,
        {
            "negation": ("contradiction", "non-entailment"),
            "no_negation": ("entailment", "neutral"),
        },
    ),
}


def attribute_of(shortcut: Shortcut | None, *texts: Iterable[str]) -> np.ndarray | None:
    """Which of its two values each row of texts has, int32 [n]; None where there is no shortcut."""
    if shortcut is None:
        return None
    return np.array([0 if shortcut.holds(*row) else 1 for row in zip(*texts)], np.int32)
