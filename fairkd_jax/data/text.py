"""What the text views share: prompts, texts of a split, and arrays of tokens."""

import itertools
import json
import pathlib
import string
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from fairkd_jax.data import kept, subwords
from fairkd_jax.data.dataset import Encoder, Ragged, Split, column
from fairkd_jax.data.subwords import Tokens

Prompt = tuple[tuple[str, str], ...]  # (words put before a text, its column), in order
ROWS_AT_ONCE = 2**14
SAMPLE = 1000  # training rows that are looked at for words that the tokenizer does not know
UNKNOWN = 0.01  # share of unknown tokens that is worth a warning; of more than half, refused


class TextEncoder(Encoder):
    """A tokenizer with its prompt, and its length of padding and truncation."""

    def __init__(self, tokens: Tokens, prompt: Prompt, length: int, **facts: Any):
        self.tokens, self.prompt, self.length = tokens, prompt, length
        self.tokenizer = type(tokens.tokenizer).from_str(tokens.tokenizer.to_str())
        if length - self.tokenizer.num_special_tokens_to_add(True) < 2:
            raise ValueError(f"text view: length = {length} leaves no room for two texts")
        self.tokenizer.enable_truncation(length, strategy="longest_first")
        self.fill = {"tokens": self.tokenizer.token_to_id(tokens.special["pad_token"])}
        self.key = json.dumps([tokens.identity, prompt, length, subwords.version()])
        self.facts = {
            "vocab_size": max(self.tokenizer.get_vocab().values()) + 1,
            "length": length,
            "identity": tokens.identity,
            **facts,
        }

    def encode(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{"tokens", "mask" (1 on tokens, 0 on padding), "segments" (1 on the second text)}.

        All int32 [n, length].
        """
        return self.pad(self.ragged(columns), self.length)

    def ragged(self, columns: Mapping[str, np.ndarray]) -> Ragged:
        """{"tokens", "segments"} of all rows; encoded by the tokenizer's own threads."""
        first, *second = texts(columns, self.prompt)
        pairs = list(zip(first, *second)) if second else first
        rows = self.tokenizer.encode_batch_fast(pairs)
        lengths = np.array([len(row) for row in rows], np.int32)
        total, join = int(lengths.sum()), itertools.chain.from_iterable
        small = self.facts["vocab_size"] <= 2**16
        tokens = np.fromiter(join(r.ids for r in rows), np.uint16 if small else np.int32, total)
        segments = np.fromiter(join(r.type_ids for r in rows), np.uint8, total)
        return Ragged(lengths, {"tokens": tokens, "segments": segments})

    def check_known(self, train: Split) -> None:
        """Raises ValueError where most words of the first rows are unknown to the tokenizer.

        It is then that of another language, or a vocabulary of a few words. Fewer are warned of.
        """
        key = [train.key, self.key]
        counts = (
            kept.keep("known", key, lambda writer: self._known(train)).facts
            if train.key
            else self._known(train)
        )
        share, rows = counts["unknown"] / max(counts["words"], 1), counts["rows"]
        said = f"{share:.1%} of the tokens of {rows} training rows are unknown to"
        if share > 0.5:
            raise ValueError(
                f"{said} {self.tokens.place}, of {self.facts['vocab_size']} tokens: is it that of "
                "another language or model?"
            )
        if share > UNKNOWN:
            logging.warning("%s %s", said, self.tokens.place)

    def _known(self, train: Split) -> dict[str, int]:
        """How many words the first rows have, and how many of them the tokenizer does not know."""
        unknown = self.tokenizer.token_to_id(self.tokens.special.get("unk_token", ""))
        tokens = self.ragged({k: v[:SAMPLE] for k, v in train.columns.items()}).flat["tokens"]
        special = [self.tokenizer.token_to_id(t) for t in self.tokens.special.values()]
        of_unknown = np.zeros(tokens.shape, bool) if unknown is None else tokens == unknown
        words = ~np.isin(tokens, [s for s in special if s is not None]) | of_unknown
        return {
            "words": int(np.count_nonzero(words)),
            "unknown": int(np.count_nonzero(of_unknown)),
            "rows": min(SAMPLE, len(train)),
        }

    def save(self, folder: str | pathlib.Path) -> None:
        """Writes the tokenizer for this view and for transformers; the prompt is not in it."""
        self.tokens.save(pathlib.Path(folder), self.length)


def parse_prompt(prompt: str) -> Prompt:
    """The parts of a format string such as "premise: {premise} hypothesis: {hypothesis}".

    Raises ValueError unless it names one or two columns, each as {column}, the last at the end.
    """
    place = f"prompt = {prompt!r}"
    try:
        parsed = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    parts, words = [], ""
    for literal, name, form, conversion in parsed:
        words += literal
        if name is None:  # an escaped brace, or the end
            continue
        if form or conversion:
            raise ValueError(f"{place}: {{{name}}} may have no format or conversion")
        parts.append((words.lstrip(), name))
        words = ""
    if words:
        raise ValueError(f"{place}: {words!r} comes after the last column")
    if len(parts) > 2:
        raise ValueError(f"{place}: {len(parts)} columns, expected one or two")
    return tuple(parts)


def texts(columns: Mapping[str, np.ndarray], prompt: Prompt) -> list[list[str]]:
    """The texts of all rows, one list or two; UnknownName for a column that is not there.

    Without a prompt: "text", or "premise" and "hypothesis".
    """
    strings = {name: values for name, values in columns.items() if values.dtype.kind in "UTO"}
    names = ["text"] if "text" in strings else ["premise", "hypothesis"]
    return [
        [literal + text for text in column(strings, name)[:].tolist()]
        for literal, name in prompt or [("", name) for name in names]
    ]


def every_text(train: Split, prompt: Prompt) -> Iterator[str]:
    """All texts of a split, one after the other, of which few are in memory at a time."""
    for i in range(0, len(train), ROWS_AT_ONCE):
        some = {name: values[i : i + ROWS_AT_ONCE] for name, values in train.columns.items()}
        for column_of_texts in texts(some, prompt):
            yield from column_of_texts
