"""Tokenizers and image settings as others write them: read as they would be, or refused clearly."""

import json

import numpy as np
import pytest

from fairkd_jax.data import subwords
from fairkd_jax.data.device import decoded_view
from fairkd_jax.data.sets.colored_digits import ColoredDigits
from fairkd_jax.data.views.image import Image
from fairkd_jax.data.views.unigram import Unigram
from fairkd_jax.data.views.wordpiece import Wordpiece
from fairkd_jax.types import Inputs
from tests.data.test_text import files, lower_casing_unigram, pairs

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "café",
    "cafe",
    "Big",
    "big",
    "我",
    "们",
]
CONFIG = "tokenizer_config"
ADDED = {"content": "<n>", "lstrip": False, "rstrip": False, "single_word": False}
VOCABULARY = {"wordpiece": "vocab.txt", "unigram": "spiece.model"}


def words(lowercase=True, pair=None, vocabulary=WORDS):
    """A tokenizer of word pieces, with a post-processor where `pair` is given."""
    library = subwords.library()
    model = library.models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    made = library.Tokenizer(model)
    made.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens([w for w in vocabulary if w.startswith("[")])
    if pair:
        made.post_processor = library.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return made


def encoded(folder, text, view=Wordpiece):
    split = pairs([text], ["a"])
    encoder = view(tokenizer=str(folder), length=16).fit(split)
    row = encoder.encode({"text": np.array([text])})
    return [encoder.tokenizer.id_to_token(i) for i in row["tokens"][0][row["mask"][0] > 0]][1:-1]


@pytest.mark.parametrize(
    ("settings", "text", "want"),
    [
        ({CONFIG: {}}, "a café 我们", ["a", "cafe", "我", "们"]),
        ({CONFIG: {"strip_accents": False}}, "a café", ["a", "café"]),
        ({CONFIG: {"strip_accents": True, "do_lower_case": False}}, "café Big", ["cafe", "Big"]),
        ({CONFIG: {"tokenize_chinese_chars": False}}, "a a 我们", ["a", "a", "[UNK]"]),
        ({"added_tokens": {"<n>": 12}}, "a <n>", ["a", "<n>"]),
        ({CONFIG: {"added_tokens_decoder": {"12": ADDED}}}, "a <n>", ["a", "<n>"]),
        ({"special_tokens_map": {"additional_special_tokens": ["<n>"]}}, "a <n>", ["a", "<n>"]),
        ({CONFIG: {"extra_special_tokens": ["<n>"]}}, "a <n>", ["a", "<n>"]),
    ],
)
def test_settings_beside_a_tokenizer_are_those_of_transformers(settings, text, want, tmp_path):
    import transformers

    folder = files(tmp_path / "t", words(), **settings)
    assert encoded(folder, text) == want
    theirs = transformers.BertTokenizer.from_pretrained(folder)
    assert theirs.tokenize(text) == want


@pytest.mark.parametrize(
    ("key", "value"),
    [("padding_side", "left"), ("truncation_side", "left"), ("sp_model_kwargs", {"alpha": 0.1})],
)
def test_settings_that_are_not_there_are_refused(key, value, tmp_path):
    folder = files(tmp_path / "t", words(), tokenizer_config={key: value})
    with pytest.raises(ValueError, match=rf"tokenizer_config.json says {key} = .*only .* is there"):
        encoded(folder, "a")


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("[CLS] $A [SEP] $B:1 [SEP]:1", None),
        ("[CLS] $A [SEP] [SEP] $B [SEP]", r"\[SEP\]:0 \[SEP\]:0"),  # as RoBERTa and MPNet
        ("[CLS] $A [SEP] $B [SEP]", r"a:0 \[SEP\]:0 of .* makes .* a:1 \[SEP\]:1"),
    ],
)
def test_pairs_are_put_together_as_the_folder_says(pair, told, tmp_path):
    folder = files(tmp_path / "t", words(pair=pair))
    if told is None:
        assert encoded(folder, "a big") == ["a", "big"]
        return
    with pytest.raises(ValueError, match=told):
        encoded(folder, "a")


@pytest.mark.parametrize(("view", "other"), [(Wordpiece, "spiece.model"), (Unigram, "vocab.txt")])
def test_the_vocabulary_of_another_family_is_refused(view, other, tmp_path):
    (tmp_path / other).write_text("\n".join(WORDS))
    with pytest.raises(ValueError, match=rf"holds {other}: expected tokenizer.json or"):
        encoded(tmp_path, "a", view)


def test_a_vocabulary_of_other_words_is_refused(tmp_path, caplog):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    with pytest.raises(ValueError, match=r"90.9% of the tokens .* unknown .*, of 12 tokens"):
        encoded(tmp_path, "nine words that are not in the vocabulary we gave")
    encoded(tmp_path, "a big big a big big surprise")
    assert "12.5% of the tokens of 1 training rows are unknown" in caplog.text


def test_what_is_unknown_must_be_the_unknown_token(tmp_path):
    library = subwords.library()
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁a", -1.0)]  # as LLaMA numbers them
    made = library.Tokenizer(library.models.Unigram(pieces, unk_id=2))
    made.add_special_tokens(["<pad>"])
    with pytest.raises(ValueError, match="gives '</s>' for what it does not know, but names '<unk"):
        encoded(files(tmp_path / "t", made), "a", Unigram)


def test_a_cased_vocabulary_that_is_lower_cased_is_told(tmp_path, caplog):
    vocabulary = [*WORDS, "The", "Paris"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    assert encoded(tmp_path, "big a") == ["big", "a"]
    assert "3 of its 9 words have capitals (Big, Paris, The)" in caplog.text
    assert '"do_lower_case": false' in caplog.text
    caplog.clear()
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert encoded(tmp_path, "Paris Big a") == ["Paris", "Big", "a"]
    assert not caplog.text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "page of HTML"),
        (b"", "empty: fetch it again"),
    ],
)
@pytest.mark.parametrize("name", [*subwords.READ, "vocab.txt"])
def test_tokenizer_files_that_are_something_else(name, content, told, tmp_path):
    if name != "vocab.txt":
        files(tmp_path, words())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is no .*{told}"):
        encoded(tmp_path, "a")


@pytest.mark.parametrize("content", ["{}", '{"model": {"type": "WordPiece"}}'])
def test_a_tokenizer_that_is_cut_is_named(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=rf"the tokenizer in {tmp_path} cannot be read: "):
        encoded(tmp_path, "a")


def test_a_tokenizer_replaced_in_place_is_read_anew(tmp_path):
    assert encoded(files(tmp_path, words()), "a Big") == ["a", "big"]
    assert encoded(files(tmp_path, words(lowercase=False)), "a Big") == ["a", "Big"]
    files(tmp_path / "u", lower_casing_unigram())
    encoder = Unigram(tokenizer=str(tmp_path / "u"), label_words=("cat", "the s"))
    encoder = encoder.fit(pairs(["the cat", "The s"], ["the", "cat"]))
    assert Unigram().options_for(tmp_path / "u", encoder) == {}


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SAID = {"image_mean": IMAGENET["mean"], "image_std": IMAGENET["std"]}
TIMM = {"architecture": "resnet18", "pretrained_cfg": IMAGENET}
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.mark.parametrize(
    ("name", "said", "want"),
    [
        ("preprocessor_config", SAID, IMAGENET),
        ("preprocessor_config", SAID | {"do_rescale": True, "rescale_factor": 1 / 255}, IMAGENET),
        ("preprocessor_config", {"do_normalize": False}, {"mean": (0.0,), "std": (1.0,)}),
        (
            "preprocessor_config",
            {"do_normalize": False, "rescale_factor": 1 / 127.5},
            {"mean": (0.0,), "std": (0.5,)},
        ),
        (
            "preprocessor_config",
            {"do_rescale": False, "image_mean": 127.5, "image_std": 51},
            {"mean": (0.5,), "std": (0.2,)},
        ),
        ("preprocessor_config", {"image_processor_type": "ViTImageProcessorFast"}, HALF),
        ("config", TIMM, IMAGENET),
        ("config", {"mean": 0.5, "std": [0.25]}, {"mean": (0.5,), "std": (0.25,)}),
        ("config", {"model_type": "vit"}, None),
        ("preprocessor_config", {"image_processor_type": "BitImageProcessor"}, None),
    ],
)
def test_images_are_normalised_as_the_weights_expect(name, said, want, tmp_path):
    train = ColoredDigits().load("train")
    (tmp_path / f"{name}.json").write_text(json.dumps(said))
    view = Image(mean=(0.1,), std=(0.9,))
    assert view.options_for(tmp_path, view.fit(train)) == want
    if want is not None:
        view = Image(**want)
        assert view.options_for(tmp_path, view.fit(train)) == {}


def test_image_settings_that_are_not_there_are_refused(tmp_path):
    encoder = Image().fit(ColoredDigits().load("train"))
    (tmp_path / "preprocessor_config.json").write_text('{"do_flip_channel_order": true}')
    with pytest.raises(ValueError, match=r"preprocessor_config.json says do_flip_channel_order"):
        Image().options_for(tmp_path, encoder)


def test_exported_settings_of_images_are_those_of_transformers(tmp_path):
    from transformers import ViTImageProcessor

    train = ColoredDigits().load("train")
    encoder = Image(**IMAGENET).fit(train)
    encoder.save(tmp_path)
    assert Image().options_for(tmp_path, encoder) == {}
    processor = ViTImageProcessor.from_pretrained(str(tmp_path))
    images = train.columns["image"][:4]
    theirs = processor(list(images), return_tensors="np")["pixel_values"]
    inputs = Inputs(encoder.encode({"image": images}), "", encoder.scaling)
    got = decoded_view(inputs)["pixels"]
    np.testing.assert_allclose(theirs.transpose(0, 2, 3, 1), got, atol=1e-5)
