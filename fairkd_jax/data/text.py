"""What the text views share: texts of a split, tokenizers of a folder, and arrays of tokens.

A view's own post-processor makes the segments, so they do not depend on which class of
`transformers` a folder names; the pipeline before it is that of the folder, as it is written there.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import string
from collections.abc import Mapping
from typing import Any

import numpy as np

from fairkd_jax.data.dataset import Encoder, column
from fairkd_jax.hub import resolve

Prompt = tuple[tuple[str, str], ...]  # (words put before a text, its column), in order
FILES = ("tokenizer.json", "vocab.txt", "spiece.model")
READ = (*FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A family of tokenizers, by the names of `tokenizers` and `transformers`."""

    model: str  # class of tokenizers.models
    special: Mapping[str, str]  # role -> the token that has it, unless a folder names another
    single: str  # templates over roles, $A and $B; ":1" puts into the second segment
    pair: str
    reader: str  # class of transformers that reads a folder without tokenizer.json
    rebuilds: tuple[str, ...] = ()  # settings of a folder that change what tokenizer.json says
    arrays: tuple[str, ...] = ("input_ids", "attention_mask")  # as transformers should give them


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A tokenizer without truncation and padding, and its special tokens by role."""

    kind: Kind
    tokenizer: Any
    special: Mapping[str, str]

    @property
    def identity(self) -> str:
        """Equal where equal numbers mean equal words, at any length, in any process."""
        content = json.dumps(json.loads(self.tokenizer.to_str()), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def save(self, folder: pathlib.Path, length: int) -> None:
        """Files that this view and AutoTokenizer of transformers read as this tokenizer.

        The class named in them is the only one that keeps a pipeline as it is written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": list(self.kind.arrays),
            "model_max_length": length,
            **self.special,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


class TextEncoder(Encoder):
    """A tokenizer with its prompt, and its length of padding and truncation."""

    def __init__(self, tokens: Tokens, prompt: Prompt, length: int, **facts: Any):
        self.tokens, self.prompt, self.length = tokens, prompt, length
        self.tokenizer = type(tokens.tokenizer).from_str(tokens.tokenizer.to_str())
        if length - self.tokenizer.num_special_tokens_to_add(True) < 2:
            raise ValueError(f"text view: length = {length} leaves no room for two texts")
        pad = tokens.special["pad_token"]
        pad_id = self.tokenizer.token_to_id(pad)
        self.tokenizer.enable_truncation(length, strategy="longest_first")
        self.tokenizer.enable_padding(length=length, pad_id=pad_id, pad_token=pad)
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
        first, *second = texts(columns, self.prompt)
        rows = self.tokenizer.encode_batch(list(zip(first, *second)) if second else first)
        shape = (len(rows), self.length)
        return {
            "tokens": np.array([r.ids for r in rows], np.int32).reshape(shape),
            "mask": np.array([r.attention_mask for r in rows], np.int32).reshape(shape),
            "segments": np.array([r.type_ids for r in rows], np.int32).reshape(shape),
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
        [literal + text for text in column(strings, name).tolist()]
        for literal, name in prompt or [("", name) for name in names]
    ]


def library() -> Any:
    """The `tokenizers` package, imported where it is first needed."""
    # Set before the first use: worker threads inside a forked process would deadlock, and the
    # library says so on standard error at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    return tokenizers


def finish(kind: Kind, tokenizer: Any, special: Mapping[str, str], place: str) -> Tokens:
    """A pipeline with the kind's special tokens around texts, neither truncated nor padded.

    Raises ValueError where it is of another kind, or lacks a token that padding or texts need.
    """
    found = type(tokenizer.model).__name__
    if found != kind.model:
        raise ValueError(f"{place} is a {found} tokenizer, the view is for {kind.model}")
    numbers = {role: tokenizer.token_to_id(token) for role, token in special.items()}
    needed = [r for r in special if r == "pad_token" or f"{{{r}}}" in kind.pair]
    missing = [f"{role} {special[role]!r}" for role in needed if numbers[role] is None]
    if missing:
        raise ValueError(f"{place} has no {', no '.join(missing)}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = library().processors.TemplateProcessing(
        single=kind.single.format(**special),
        pair=kind.pair.format(**special),
        special_tokens=[(special[role], numbers[role]) for role in needed],
    )
    return Tokens(kind, tokenizer, {r: t for r, t in special.items() if numbers[r] is not None})


def read(name: str, kind: Kind) -> Tokens:
    """The tokenizer of a folder or hub name, by transformers.

    Its classes for BERT and T5 build their own pipeline and ignore the one in tokenizer.json, so
    that a cased one is lower-cased, for example. A tokenizer.json is therefore read as written,
    unless a setting beside it says otherwise. Raises FileNotFoundError or ValueError.
    """
    path = resolve(name)
    if not path.is_dir():
        raise ValueError(f"tokenizer = {name!r} is a file: name the folder that holds it")
    library()
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found"
    import transformers

    settings = path / "tokenizer_config.json"
    said = json.loads(settings.read_text()) if settings.is_file() else {}
    written = (path / "tokenizer.json").is_file() and not any(k in said for k in kind.rebuilds)
    reader = getattr(transformers, "PreTrainedTokenizerFast" if written else kind.reader)
    try:
        if not has_tokenizer(path):
            raise ValueError(f"expected one of {', '.join(FILES)}")
        fast = reader.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        found = ", ".join(sorted(p.name for p in path.iterdir())) or "nothing"
        raise ValueError(f"no tokenizer in {path}, which holds {found}: {error}") from error
    special = {role: getattr(fast, role) or usual for role, usual in kind.special.items()}
    return finish(kind, fast.backend_tokenizer, special, f"the tokenizer in {path}")


def files_in(name: str) -> dict[str, pathlib.Path]:
    """The files of a tokenizer that are there, by name; `name` is a folder or a hub name."""
    folder = resolve(name)
    return {file: folder / file for file in READ if (folder / file).is_file()}


def has_tokenizer(folder: pathlib.Path) -> bool:
    """Are there tokenizer files?"""
    return any((folder / file).is_file() for file in FILES)


def identity_in(folder: pathlib.Path, kind: Kind) -> str | None:
    """The identity of the tokenizer of a folder; None if there is none."""
    return read(str(folder), kind).identity if has_tokenizer(folder) else None
