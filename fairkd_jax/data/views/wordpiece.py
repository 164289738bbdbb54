"""Text as word pieces: a tokenizer from a folder, or one trained on the training split.

WordPiece as BERT reads it (arXiv 1810.04805): lower-cased if trained here, greedy longest match,
`[CLS] a [SEP] b [SEP]`. All rows are padded to one length, so a net is compiled once.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from fairkd_jax.data import subwords, text
from fairkd_jax.data.dataset import Encoder, Split, View

KIND = subwords.Kind(
    model="WordPiece",
    vocabulary="vocab.txt",
    special={
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    single="{cls_token} $A {sep_token}",
    pair="{cls_token} $A {sep_token} $B:1 {sep_token}:1",
    reader="BertTokenizer",
    rebuilds=("do_lower_case", "strip_accents", "tokenize_chinese_chars"),
    arrays=("input_ids", "token_type_ids", "attention_mask"),
)
SPECIAL = tuple(KIND.special.values())


@dataclasses.dataclass(frozen=True)
class Wordpiece(View):
    """Token numbers of "premise" and "hypothesis", or of "text"."""

    tokenizer: str = ""  # folder of tokenizer files or hub name, read by transformers; "": train
    vocab_size: int = 8192  # of a tokenizer trained here: at most, unless characters exceed it
    length: int = 64  # longer pairs lose tokens from the end of the longer text
    prompt: str = ""  # "premise: {premise} hypothesis: {hypothesis}"; "": the texts as they are

    places: ClassVar[tuple[str, ...]] = ("tokenizer",)

    def __post_init__(self):
        text.parse_prompt(self.prompt)

    def fit(self, train: Split) -> text.TextEncoder:
        prompt = text.parse_prompt(self.prompt)
        text.texts({k: v[:1] for k, v in train.columns.items()}, prompt)  # are they there?
        if self.tokenizer:
            tokens = subwords.read(self.tokenizer, KIND)
        else:
            key = [train.key, prompt, self.vocab_size]
            tokens = subwords.trained(
                KIND, key, lambda: _train(lambda: text.every_text(train, prompt), self.vocab_size)
            )
        encoder = text.TextEncoder(tokens, prompt, self.length)
        encoder.check_known(train)
        return encoder

    def reads(self) -> dict[str, pathlib.Path]:
        return subwords.files_in(self.tokenizer, KIND) if self.tokenizer else {}

    def options_for(self, folder: pathlib.Path, encoder: Encoder) -> dict[str, Any] | None:
        return subwords.options_for(folder, KIND, encoder.facts["identity"])


def _train(texts: Callable[[], Iterable[str]], vocab_size: int) -> Any:
    """A WordPiece tokenizer, the same for the same texts.

    The library's trainer numbers continuations ("##a") in the order of a hash map, which differs
    between processes, and breaks ties by number. Named as special tokens, all characters have
    their numbers before it begins; the tokenizer returned has none but the real special tokens.
    """
    library = subwords.library()
    learner = _pipeline(library, {})
    normalise = learner.normalizer.normalize_str
    letters = sorted({letter for some in texts() for letter in normalise(some)} - {" "})
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *letters, *(f"##{letter}" for letter in letters)],
        show_progress=False,
    )
    learner.train_from_iterator(texts(), trainer)
    tokenizer = _pipeline(library, learner.get_vocab())
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def _pipeline(library: Any, vocabulary: dict[str, int]) -> Any:
    tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    return tokenizer
