"""Tokenizers of a folder, as they are written there, or trained here; and back into folders.

A view's own post-processor makes the segments, so they do not depend on which class of
`transformers` a folder names; the pipeline before it is that of the folder.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from fairkd_jax import files, hub
from fairkd_jax.data import kept

TOKENIZER = "tokenizer.json"
READ = (  # files that say what a tokenizer does, beside the vocabulary of its kind
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
FIXED = {"padding_side": "right", "truncation_side": "right", "sp_model_kwargs": {}}
# settings that transformers would obey and arrays made here do not
CASED = 0.01  # share of a vocabulary from which on capitals are no accident


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """A family of tokenizers, by the names of `tokenizers` and `transformers`."""

    model: str  # class of tokenizers.models
    vocabulary: str  # file that says all where there is no tokenizer.json
    special: Mapping[str, str]  # role -> the token that has it, unless a folder names another
    single: str  # templates over roles, $A and $B; ":1" puts into the second segment
    pair: str
    reader: str  # class of transformers that reads a folder without tokenizer.json
    own_pair: bool = False  # pairs are put together as the published tokenizers do not
    rebuilds: tuple[str, ...] = ()  # settings of a folder that change what tokenizer.json says
    arrays: tuple[str, ...] = ("input_ids", "attention_mask")  # as transformers should give them


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A tokenizer without truncation and padding, and its special tokens by role."""

    kind: Kind
    tokenizer: Any
    special: Mapping[str, str]
    place: str  # where it comes from, for messages

    @functools.cached_property
    def identity(self) -> str:
        """Equal where equal numbers mean equal words, at any length, in any process."""
        content = json.dumps(json.loads(self.tokenizer.to_str()), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def save(self, folder: pathlib.Path, length: int) -> None:
        """Files that this view and AutoTokenizer of transformers read as this tokenizer.

        The class named in them is the only one that keeps a pipeline as it is written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / TOKENIZER))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": list(self.kind.arrays),
            "model_max_length": length,
            **self.special,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def library() -> Any:
    """The `tokenizers` package, imported where it is first needed."""
    # Set before the first use: the library tells standard error at every fork that its threads
    # would deadlock in the child, unless it was told whether to have any.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import tokenizers

    _no_threads_in_forked_children()
    return tokenizers


@functools.cache
def _no_threads_in_forked_children() -> None:
    def forbid() -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"

    os.register_at_fork(after_in_child=forbid)


def version() -> str:
    """Of what cuts texts into tokens: the same text is the same tokens in one version."""
    return importlib.metadata.version("tokenizers")


def trained(kind: Kind, key: Any, train: Callable[[], Any]) -> Tokens:
    """A tokenizer trained here, by `train` or at an earlier launch under the same key.

    A key that begins with "" is of what is not kept.
    """

    def make(writer: kept.Writer | None) -> dict[str, str]:
        return {"tokenizer": train().to_str()}

    what = [kind.model, version(), *key]
    told = kept.keep("tokenizers", what, make).facts if key[0] else make(None)
    tokenizer = library().Tokenizer.from_str(told["tokenizer"])
    return finish(kind, tokenizer, kind.special, "the tokenizer trained here")


def finish(
    kind: Kind, tokenizer: Any, special: Mapping[str, str], place: str, framed: bool = False
) -> Tokens:
    """A pipeline with the kind's special tokens around texts, neither truncated nor padded.

    `framed`: it has put its own around them so far. Raises ValueError where those are others, where
    it is of another kind, or lacks a token that is needed. Capitals never found are warned of.
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
    texts = [("a",)] if kind.own_pair else [("a",), ("a", "a")]
    before = [_framed(tokenizer, text) for text in texts if framed]
    tokenizer.post_processor = library().processors.TemplateProcessing(
        single=kind.single.format(**special),
        pair=kind.pair.format(**special),
        special_tokens=[(special[role], numbers[role]) for role in needed],
    )
    for theirs, text in zip(before, texts):
        if theirs != (ours := _framed(tokenizer, text)):
            raise ValueError(f"{place} makes {theirs} of {text}, but the view makes {ours}")
    _check_unknown(tokenizer, special, place)
    _warn_of_capitals(tokenizer, place)
    there = {r: t for r, t in special.items() if numbers[r] is not None}
    return Tokens(kind, tokenizer, there, place)


def _framed(tokenizer: Any, text: tuple[str, ...]) -> str:
    """Its tokens with the segment that each is in, as "[CLS]:0 a:0 [SEP]:0"."""
    encoded = tokenizer.encode(*text)
    return " ".join(f"{t}:{i}" for t, i in zip(encoded.tokens, encoded.type_ids))


def _check_unknown(tokenizer: Any, special: Mapping[str, str], place: str) -> None:
    """Raises ValueError where the model gives another token for what it does not know."""
    model = json.loads(tokenizer.to_str())["model"]
    number = model.get("unk_id")
    given = model.get("unk_token") if number is None else model["vocab"][number][0]
    if given not in (None, special["unk_token"]):
        raise ValueError(
            f"{place} gives {given!r} for what it does not know, but names {special['unk_token']!r}"
        )


def _warn_of_capitals(tokenizer: Any, place: str) -> None:
    """A vocabulary with capitals behind a step that lower-cases: its cased words are never found.

    Seen where a cased model's vocabulary is read without its settings.
    """
    normaliser = tokenizer.normalizer
    if normaliser is None or normaliser.normalize_str("A").strip("▁ ") != "a":
        return
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    words = [word for word in tokenizer.get_vocab() if word not in added]
    cased = [word for word in words if word != word.lower()]
    if len(cased) > CASED * len(words):
        logging.warning(
            "%s lower-cases all texts, but %d of its %d words have capitals (%s): if it is a cased "
            'one, put {"do_lower_case": false} into tokenizer_config.json',
            place,
            len(cased),
            len(words),
            ", ".join(sorted(cased)[:3]),
        )


def read(name: str, kind: Kind) -> Tokens:
    """The tokenizer of a folder or hub name, by transformers.

    Its classes for BERT and T5 build their own pipeline and ignore the one in tokenizer.json, so
    that a cased one is lower-cased, for example. A tokenizer.json is therefore read as written,
    unless a setting beside it says otherwise. Raises FileNotFoundError or ValueError.
    """
    path = hub.resolve(name)
    if not path.is_dir():
        raise ValueError(f"tokenizer = {name!r} is a file: name the folder that holds it")
    content = tuple((file, files.digest(path / file)) for file in files_in(name, kind))
    return _read(path, kind, content)


@functools.lru_cache(maxsize=16)
def _read(path: pathlib.Path, kind: Kind, content: tuple[tuple[str, str], ...]) -> Tokens:
    names = [name for name, _ in content]
    if not {TOKENIZER, kind.vocabulary} & {*names}:
        found = ", ".join(sorted(p.name for p in path.iterdir())) or "nothing"
        raise ValueError(
            f"no tokenizer for a {kind.model} view in {path}, which holds {found}: expected "
            f"{TOKENIZER} or {kind.vocabulary}"
        )
    said = {name: hub.read_json(path / name) for name in names if name.endswith(".json")}
    for name in {*names} - said.keys():
        if told := hub.instead(path / name):
            raise ValueError(f"{path / name} is no vocabulary{told}")
    settings = said.get("tokenizer_config.json", {})
    for key, known in FIXED.items():
        if (value := settings.get(key) or known) != known:
            raise ValueError(
                f"{path}/tokenizer_config.json says {key} = {value!r}; only {known!r} is there"
            )
    library()
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found"
    import transformers

    written = TOKENIZER in said and not any(key in settings for key in kind.rebuilds)
    reader = getattr(transformers, "PreTrainedTokenizerFast" if written else kind.reader)
    try:
        fast = reader.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # also bare ones, of the library in Rust
        raise ValueError(f"the tokenizer in {path} cannot be read: {error}") from error
    special = {role: getattr(fast, role) or usual for role, usual in kind.special.items()}
    framed = said.get(TOKENIZER, {}).get("post_processor") is not None
    return finish(kind, fast.backend_tokenizer, special, f"the tokenizer in {path}", framed)


def files_in(name: str, kind: Kind) -> dict[str, pathlib.Path]:
    """The files of a tokenizer that are there, by name; `name` is a folder or a hub name."""
    folder = hub.resolve(name)
    return {f: folder / f for f in (*READ, kind.vocabulary) if (folder / f).is_file()}


def options_for(folder: pathlib.Path, kind: Kind, identity: str) -> dict[str, Any] | None:
    """`View.options_for` of a text view whose encoder has this identity."""
    if not any((folder / name).is_file() for name in (TOKENIZER, kind.vocabulary)):
        return None
    theirs = read(str(folder), kind).identity
    return {} if theirs == identity else {"tokenizer": str(folder)}
