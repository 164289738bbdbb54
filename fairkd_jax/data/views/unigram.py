"""Text as pieces of a unigram language model: from a folder, or trained on the training split.

Unigram pieces (arXiv 1804.10959) as T5 reads them (arXiv 1910.10683): a pair is one text, `a b
</s>`, and the labels are words. All rows are padded to one length, so a net is compiled once.
"""

import dataclasses
import importlib.metadata
import io
import pathlib
from typing import Any, ClassVar

from fairkd_jax.data import subwords, text
from fairkd_jax.data.dataset import Encoder, Split, View

KIND = subwords.Kind(
    model="Unigram",
    vocabulary="spiece.model",
    special={"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    single="$A {eos_token}",
    pair="$A $B:1 {eos_token}:1",  # T5's own would end both texts
    reader="T5Tokenizer",
    own_pair=True,
)
SPECIAL = tuple(KIND.special.values())


@dataclasses.dataclass(frozen=True)
class Unigram(View):
    """Token numbers of "premise" and "hypothesis", or of "text", and of the label words."""

    tokenizer: str = ""  # folder of tokenizer files or hub name, read by transformers; "": train
    vocab_size: int = 8192  # of a tokenizer trained here: at most, unless characters exceed it
    length: int = 64  # longer pairs lose tokens from the end of the longer text
    prompt: str = ""  # "mnli hypothesis: {hypothesis} premise: {premise}"; "": the texts alone
    label_words: tuple[str, ...] = ()  # one a label, in its order; (): the names of the labels

    places: ClassVar[tuple[str, ...]] = ("tokenizer",)

    def __post_init__(self):
        text.parse_prompt(self.prompt)

    def fit(self, train: Split) -> text.TextEncoder:
        """Raises ValueError for label words that are not one a label, or that read alike."""
        names = train.info.label_names
        words = self.label_words or names
        if len(words) != len(names):
            raise ValueError(f"unigram view: label_words = {words} for labels {names}")
        prompt = text.parse_prompt(self.prompt)
        text.texts({k: v[:1] for k, v in train.columns.items()}, prompt)  # are they there?
        if self.tokenizer:
            tokens = subwords.read(self.tokenizer, KIND)
        else:
            targets = [words[label] for label in train.columns["label"]]  # T5 writes these
            key = [train.key, prompt, words, self.vocab_size, _version()]
            tokens = subwords.trained(
                KIND,
                key,
                lambda: _train([*text.every_text(train, prompt), *targets], self.vocab_size),
            )
        label_tokens = tuple(tuple(tokens.tokenizer.encode(word).ids) for word in words)
        if len(set(label_tokens)) < len(words):
            raise ValueError(f"unigram view: labels {words} read alike, as tokens {label_tokens}")
        encoder = text.TextEncoder(tokens, prompt, self.length, label_tokens=label_tokens)
        encoder.check_known(train)
        return encoder

    def reads(self) -> dict[str, pathlib.Path]:
        return subwords.files_in(self.tokenizer, KIND) if self.tokenizer else {}

    def options_for(self, folder: pathlib.Path, encoder: Encoder) -> dict[str, Any] | None:
        return subwords.options_for(folder, KIND, encoder.facts["identity"])


def _version() -> str:
    return importlib.metadata.version("sentencepiece")


def _train(texts: list[str], vocab_size: int) -> Any:
    """A Unigram tokenizer, the same for the same texts.

    The pieces are learnt by `sentencepiece`, the library of the method's authors: the scores of the
    trainer in `tokenizers` differ between processes, and with them the numbers of its pieces.
    """
    import sentencepiece

    library = subwords.library()
    tokenizer = library.Tokenizer(library.models.Unigram())
    tokenizer.normalizer = library.normalizers.Sequence(
        [library.normalizers.NFKC(), library.normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(
        [library.pre_tokenizers.WhitespaceSplit(), library.pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = library.decoders.Metaspace()
    normal = [tokenizer.normalizer.normalize_str(t) for t in texts]
    letters = {letter for t in normal for letter in t}
    learnt = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(normal),
        model_writer=learnt,
        vocab_size=max(vocab_size, len(letters) + len(SPECIAL) + 1),  # and the mark of a space
        hard_vocab_limit=False,  # fewer where the texts have fewer
        character_coverage=1.0,
        normalization_rule_name="identity",
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},  # as T5 numbers them
        max_sentence_length=2**20,  # longer ones would be left out
        num_threads=1,  # sums in one order
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=learnt.getvalue())
    numbers = range(model.get_piece_size())
    # Few digits: a tokenizer that was written and read again is then the same, bit for bit.
    pieces = [(model.id_to_piece(i), round(model.get_score(i), 4)) for i in numbers]
    tokenizer.model = library.models.Unigram(pieces, unk_id=SPECIAL.index("<unk>"))
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer
