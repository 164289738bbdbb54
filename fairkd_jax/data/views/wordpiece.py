"""Text as word pieces: a tokenizer from a folder, or one trained on the training split.

WordPiece as BERT reads it (arXiv 1810.04805): lower-cased, greedy longest match, `[CLS] a [SEP] b
[SEP]`. All rows are padded to one length, so a net is compiled once.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fairkd_jax.data.dataset import Encoder, Split, View, column

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclasses.dataclass(frozen=True)
class Wordpiece(View):
    """Token numbers of "premise" and "hypothesis", or of "text"."""

    tokenizer: str = ""  # folder of tokenizer files, read by transformers; "": train one
    vocab_size: int = 8192  # of a tokenizer trained here: at most, unless characters exceed it
    length: int = 64  # longer pairs lose tokens from the end of the longer text

    def fit(self, train: Split) -> "WordpieceEncoder":
        if self.tokenizer:
            tokenizer, pad = _read(self.tokenizer)
        else:
            texts = [t for text in _texts(train.columns) for t in text]
            tokenizer, pad = _train(texts, self.vocab_size), SPECIAL[0]
        return WordpieceEncoder(tokenizer, pad, self.length)


class WordpieceEncoder(Encoder):
    """A tokenizer with its length of padding and truncation."""

    def __init__(self, tokenizer: Any, pad: str, length: int):
        room = length - tokenizer.num_special_tokens_to_add(True)
        if room < 2:
            raise ValueError(f"wordpiece view: length = {length} leaves no room for two texts")
        tokenizer.enable_truncation(length, strategy="longest_first")
        tokenizer.enable_padding(length=length, pad_id=tokenizer.token_to_id(pad), pad_token=pad)
        self.tokenizer, self.length = tokenizer, length
        self.facts = {
            "vocab_size": max(tokenizer.get_vocab().values()) + 1,
            "length": length,
            "identity": hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16],
        }

    def encode(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{"tokens", "mask" (1 on tokens, 0 on padding), "segments" (1 on the second text)}.

        All int32 [n, length].
        """
        first, *second = _texts(columns)
        rows = self.tokenizer.encode_batch(list(zip(first, *second)) if second else first)
        shape = (len(rows), self.length)
        return {
            "tokens": np.array([r.ids for r in rows], np.int32).reshape(shape),
            "mask": np.array([r.attention_mask for r in rows], np.int32).reshape(shape),
            "segments": np.array([r.type_ids for r in rows], np.int32).reshape(shape),
        }


def _texts(columns: Mapping[str, np.ndarray]) -> list[list[str]]:
    names = ["text"] if "text" in columns else ["premise", "hypothesis"]
    return [column(columns, name).tolist() for name in names]


def _library() -> Any:
    # Set before the first use: worker threads inside a forked process would deadlock, and the
    # library says so on standard error at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    return tokenizers


def _read(folder: str) -> tuple[Any, str]:
    """(the tokenizer that transformers makes of a folder, its padding token)."""
    path = pathlib.Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"wordpiece view: tokenizer = {folder!r} is not a folder")
    _library()
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found"
    from transformers import AutoTokenizer

    try:
        fast = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError) as error:
        found = ", ".join(sorted(p.name for p in path.iterdir())) or "nothing"
        raise ValueError(f"no tokenizer in {path}, which holds {found}: {error}") from error
    if fast.pad_token is None:
        raise ValueError(f"the tokenizer in {path} has no padding token")
    return fast.backend_tokenizer, fast.pad_token


def _train(texts: list[str], vocab_size: int) -> Any:
    """A WordPiece tokenizer, the same for the same texts.

    The library's trainer numbers continuations ("##a") in the order of a hash map, which differs
    between processes, and breaks ties by number. Named as special tokens, all characters have
    their numbers before it begins; the tokenizer returned has none but the real special tokens.
    """
    library = _library()
    learner = _pipeline(library, {})
    normalise = learner.normalizer.normalize_str
    letters = sorted({letter for text in texts for letter in normalise(text)} - {" "})
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *letters, *(f"##{letter}" for letter in letters)],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    tokenizer = _pipeline(library, learner.get_vocab())
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _pipeline(library: Any, vocabulary: dict[str, int]) -> Any:
    tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    return tokenizer
