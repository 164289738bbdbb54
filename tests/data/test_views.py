"""Views: pixels, word pieces and unigram pieces as nets read them."""

import hashlib
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from fairkd_jax.data.dataset import Info, draws, make_split
from fairkd_jax.data.device import decoded
from fairkd_jax.data.sets.colored_digits import ColoredDigits
from fairkd_jax.data.sets.template_nli import TemplateNli
from fairkd_jax.data.views.image import Image
from fairkd_jax.data.views.unigram import Unigram
from fairkd_jax.data.views.wordpiece import Wordpiece
from fairkd_jax.registry import UnknownName
from fairkd_jax.types import Inputs

pytestmark = pytest.mark.quick


INFO = Info(("no", "yes"), ("a",), ((True,), (True,)), "none", "made here")


def texts(**columns):
    n = len(next(iter(columns.values())))
    arrays = {k: np.array(v) for k, v in columns.items()}
    return make_split(INFO, np.arange(n) % 2, np.zeros(n, int), **arrays)


def on_device(encoder, columns):
    """The pixels that nets see."""
    inputs = Inputs(encoder.encode(columns), "", encoder.scaling)
    assert inputs["pixels"].dtype == np.uint8
    found = jax.jit(decoded)({"views": {"image": inputs}})
    again = decoded(found)["views"]["image"]["pixels"]
    np.testing.assert_array_equal(again, found["views"]["image"]["pixels"])
    return np.asarray(again)


def test_pixels_are_normalised_on_the_device():
    train = ColoredDigits().load("train")
    encoder = Image().fit(train)
    pixels = on_device(encoder, train.columns)
    assert pixels.dtype == np.float32
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert {k: encoder.facts[k] for k in ("height", "width", "channels")} == {
        "height": 16,
        "width": 16,
        "channels": 3,
    }
    assert encoder.facts["identity"] != Image(mean=(0.4,)).fit(train).facts["identity"]
    measured = on_device(Image(mean=(), std=()).fit(train), train.columns)
    measured = measured.reshape(-1, 3)[:, :2].astype(np.float64)  # blue is always 0
    np.testing.assert_allclose(measured.mean(0), 0, atol=1e-5)  # constants have 6 digits
    np.testing.assert_allclose(measured.std(0), 1, atol=1e-5)


def test_an_image_view_refuses_what_it_was_not_fitted_to():
    train = ColoredDigits().load("train")
    with pytest.raises(ValueError, match=r"\(8, 8, 3\).*\(16, 16, 3\)"):
        Image().fit(train).encode(ColoredDigits(image_size=8).load("test").columns)
    with pytest.raises(ValueError, match=r"float32.*uint8"):
        Image().fit(train).encode({"image": train.columns["image"].astype(np.float32)})
    with pytest.raises(UnknownName, match="image"):
        Image().fit(TemplateNli(train=40, eval=8).load("train"))
    with pytest.raises(ValueError, match="3 channels"):
        Image(mean=(0.1, 0.2)).fit(train)
    with pytest.raises(ValueError, match="std"):
        Image(std=(0.0,)).fit(train)


def test_pairs_have_segments_masks_and_one_length():
    split = texts(premise=["the cat sat", "a " * 90], hypothesis=["The CAT!", "the cat sat"])
    encoder = Wordpiece(length=16).fit(split)
    arrays = encoder.encode(split.columns)
    tokens, mask, segments = (arrays[k] for k in ("tokens", "mask", "segments"))
    assert all(a.shape == (2, 16) and a.dtype == np.int32 for a in arrays.values())
    vocabulary = {i: t for t, i in encoder.tokenizer.get_vocab().items()}
    assert [vocabulary[i] for i in tokens[0]][:9] == (
        ["[CLS]", "the", "cat", "sat", "[SEP]", "the", "cat", "!", "[SEP]"]
    )
    assert mask[0].tolist() == [1] * 9 + [0] * 7
    assert segments[0].tolist() == [0] * 5 + [1] * 4 + [0] * 7
    # the longer text lost its tail, the shorter is whole
    assert [vocabulary[i] for i in tokens[1]][-5:] == ["[SEP]", "the", "cat", "sat", "[SEP]"]
    assert mask[1].all() and tokens.max() < encoder.facts["vocab_size"]


def test_single_texts_and_unseen_characters():
    split = texts(text=["abc abc", "ab"])
    encoder = Wordpiece(length=8).fit(split)
    arrays = encoder.encode({"text": np.array(["ba", "z"])})
    vocabulary = {i: t for t, i in encoder.tokenizer.get_vocab().items()}
    assert [vocabulary[i] for i in arrays["tokens"][0][:4]] == ["[CLS]", "b", "##a", "[SEP]"]
    assert vocabulary[arrays["tokens"][1][1]] == "[UNK]"
    assert not arrays["segments"].any()
    with pytest.raises(UnknownName, match="premise"):
        Wordpiece().fit(ColoredDigits().load("train"))
    with pytest.raises(ValueError, match="length = 4"):
        Wordpiece(length=4).fit(split)


def test_the_same_data_give_the_same_vocabulary_in_every_process():
    """The library numbers continuations by hash map order; the view must not."""
    program = (
        "from fairkd_jax.data.sets.template_nli import TemplateNli\n"
        "from fairkd_jax.data.views.wordpiece import Wordpiece\n"
        "import os\n"
        "encoder = Wordpiece(vocab_size=300).fit(TemplateNli(train=400).load('train'))\n"
        "if os.fork() == 0: os._exit(0)\n"  # the library would complain here
        "os.wait()\n"
        "print(encoder.facts['identity'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    # From 3.12 on Python itself says that forks and threads do not go together.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", program]
    done = [
        subprocess.run(command, capture_output=True, text=True, env=environment) for _ in range(2)
    ]
    assert [d.stderr for d in done] == ["", ""]
    here = Wordpiece(vocab_size=300).fit(TemplateNli(train=400).load("train")).facts["identity"]
    assert [d.stdout.strip() for d in done] == [here, here]


def test_a_tokenizer_folder_is_read_by_transformers(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "!"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    split = texts(premise=["The cats sat"], hypothesis=["the dog!"])
    encoder = Wordpiece(tokenizer=str(tmp_path), length=12).fit(split)
    arrays = encoder.encode(split.columns)
    assert arrays["tokens"][0].tolist() == [2, 5, 6, 7, 8, 3, 5, 1, 9, 3, 0, 0]
    assert arrays["segments"][0].tolist() == [0] * 6 + [1] * 4 + [0] * 2
    assert encoder.facts["vocab_size"] == 10
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Wordpiece(tokenizer=str(tmp_path / "nowhere")).fit(split)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds nothing"):
        Wordpiece(tokenizer=str(tmp_path / "empty")).fit(split)


def test_importing_the_room_imports_no_tokenizer_library():
    program = (
        "import sys\n"
        "from fairkd_jax.data import pipeline\n"
        "from fairkd_jax.data.views import wordpiece, unigram, image\n"
        "from fairkd_jax.data.sets import colored_digits\n"
        "print({'tokenizers', 'transformers', 'sklearn', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_word_pieces_trained_here_stay_what_they_were():
    """Published results were made with these numbers."""
    split = TemplateNli(train=400).load("train")
    tokens = Wordpiece(vocab_size=300).fit(split).encode(split.columns)["tokens"]
    assert tokens.shape == (400, 64) and tokens.dtype == np.int32
    assert hashlib.sha256(tokens.tobytes()).hexdigest()[:16] == "8b8fb1546b9503b1"


def test_unigram_reads_a_pair_as_one_text():
    split = texts(premise=["the cat sat.", "a " * 90], hypothesis=["The CAT!", "the cat sat."])
    encoder = Unigram(length=24).fit(split)
    arrays = encoder.encode(split.columns)
    tokens, mask, segments = (arrays[k] for k in ("tokens", "mask", "segments"))
    assert all(a.shape == (2, 24) and a.dtype == np.int32 for a in arrays.values())
    assert [encoder.tokenizer.token_to_id(t) for t in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
    pieces = {i: t for t, i in encoder.tokenizer.get_vocab().items()}
    read = [pieces[i] for i in tokens[0][mask[0] > 0]]
    assert "".join(read) == "▁the▁cat▁sat.▁the▁cat!</s>"
    assert "." in read and "!" in read  # punctuation stands alone
    first = sum(t != "<pad>" for t in encoder.tokenizer.encode("the cat sat.").tokens) - 1
    assert segments[0].tolist() == [0] * first + [1] * (len(read) - first) + [0] * (24 - len(read))
    assert (tokens == 1).sum(1).tolist() == [1, 1] and tokens[1, -1] == 1
    assert "".join(pieces[i] for i in tokens[1]).endswith("▁the▁cat▁sat.</s>")
    assert mask[1].all() and tokens.max() < encoder.facts["vocab_size"]
    joined = encoder.encode({"text": np.array(["The cat sat. the cat!"])})
    np.testing.assert_array_equal(joined["tokens"][0], tokens[0])
    unseen = encoder.encode({"text": np.array(["the ж"])})["tokens"][0]
    assert 2 in unseen
    with pytest.raises(ValueError, match="length = 2"):
        Unigram(length=2).fit(split)


def test_unigram_knows_the_words_of_the_labels():
    split = texts(text=["abc abc", "ab"])
    encoder = Unigram().fit(split)
    pieces = {i: t for t, i in encoder.tokenizer.get_vocab().items()}
    read = ["".join(pieces[i] for i in word) for word in encoder.facts["label_tokens"]]
    assert read == ["▁no</s>", "▁yes</s>"]  # of letters that the texts lack
    encoder = Unigram(label_words=("False", "Quite true")).fit(split)
    pieces = {i: t for t, i in encoder.tokenizer.get_vocab().items()}
    read = ["".join(pieces[i] for i in word) for word in encoder.facts["label_tokens"]]
    assert read == ["▁false</s>", "▁quite▁true</s>"]
    with pytest.raises(ValueError, match=r"label_words = \('yes',\) for labels \('no', 'yes'\)"):
        Unigram(label_words=("yes",)).fit(split)
    with pytest.raises(ValueError, match="read alike"):
        Unigram(label_words=("yes", "YES")).fit(split)


def moved(image, crop, down, right, mirrored):
    """Black borders, a window of the old size, mirrored or not: bytes in, bytes out."""
    height, width, _ = image.shape
    framed = np.pad(image, ((crop, crop), (crop, crop), (0, 0)))
    window = framed[down : down + height, right : right + width]
    return window[:, ::-1] if mirrored else window


@pytest.mark.parametrize("crop, flip", [(2, True), (3, False), (0, True)])
def test_crop_and_flip_move_bytes(crop, flip):
    images = np.random.default_rng(0).integers(0, 256, (800, 5, 7, 3)).astype(np.uint8)
    split = make_split(INFO, np.arange(800) % 2, np.zeros(800, int), image=images)
    encoder = Image(mean=(0.3, 0.4, 0.5), crop=crop, flip=flip).fit(split)
    assert encoder.facts == Image(mean=(0.3, 0.4, 0.5)).fit(split).facts
    ids = np.arange(800) + 7
    found = encoder.augment(encoder.encode({"image": images}), ids, 3, 11)["pixels"]
    drawn = draws(3, 11, ids, 3)
    seen = set()
    for image, got, (y, x, side) in zip(images, found, drawn):
        place = int(y * (2 * crop + 1)), int(x * (2 * crop + 1)), flip and side < 0.5
        seen.add(place)
        want = moved(image, crop, *place)
        np.testing.assert_array_equal(got, encoder.encode({"image": want[None]})["pixels"][0])
    assert len(seen) == (2 * crop + 1) ** 2 * (1 + flip)  # every place is drawn


def test_draws_are_even_and_of_seed_step_and_id_alone():
    ids = np.arange(3000)
    drawn = draws(1, 2, ids, 3)
    np.testing.assert_array_equal(draws(1, 2, ids[::-7], 3), drawn[::-7])
    np.testing.assert_array_equal(draws(1, 2, ids, 1), drawn[:, :1])
    for other in (draws(2, 2, ids, 3), draws(1, 3, ids, 3), np.roll(drawn, 1, axis=0)):
        assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 0.05
    histogram = np.histogram(drawn, 10, (0, 1))[0]
    assert abs(histogram - drawn.size / 10).max() < 5 * np.sqrt(drawn.size / 10)


def test_an_image_view_draws_nothing_unless_it_is_told_to():
    assert not Image().changes_inputs
    assert Image(crop=1).changes_inputs and Image(flip=True).changes_inputs
    split = ColoredDigits(image_size=8).load("train")
    with pytest.raises(ValueError, match="crop = -1"):
        Image(crop=-1).fit(split)
