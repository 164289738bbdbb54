"""Words, and the attributes that are computed from them, in any script."""

import re
import unicodedata

import pytest

from fairkd_jax.data.shortcuts import negates, overlaps, words

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The dog's 2 bones_here, don't!", "the dog s 2 bones here don t"),
        ("Der Bär fraß süße Äpfel.", "der bär frass süsse äpfel"),
        ("Мужчина спит на скамейке.", "мужчина спит на скамейке"),
        ("ο άνδρας ΚΟΙΜΑΤΑΙ", "ο άνδρασ κοιμαται"),
        ("हिन्दी में पुस्तकें", "हिन्दी में पुस्तकें"),
        ("الرجل نائم", "الرجل نائم"),
        ("남자가 잔다.", "남자가 잔다"),
        ("男人在睡觉。", "男 人 在 睡 觉"),
        ("彼はパンを3つ食べた。", "彼 は パ ン を 3 つ 食 べ た"),
        ("ผู้ชายนอน", "ผู้ ช า ย น อ น"),
        ("Ｔｗｏ ﬁsh 🐟", "two fish"),
        ("... 👍 —", ""),
    ],
)
def test_words_are_those_of_the_script(text, found):
    assert words(text) == unicodedata.normalize("NFKC", found).split()
    assert words(unicodedata.normalize("NFD", text)) == words(text)  # accents may come apart


def test_words_of_ascii_are_those_of_the_paper():
    text = "".join(map(chr, range(128))) * 2 + " it's A_b 10-year\told"
    assert words(text) == re.findall(r"[a-z0-9]+", text.lower())
    assert words(text + " é")[:-1] == words(text)  # the rule for all scripts agrees


@pytest.mark.parametrize(
    ("premise", "hypothesis", "holds"),
    [
        ("A man sleeps on a bench.", "a MAN sleeps", True),
        ("A man sleeps on a bench.", "A man is awake.", False),
        ("男人在长椅上睡觉。", "男人睡觉。", True),
        ("男人在长椅上睡觉。", "女人醒了。", False),
        ("Мужчина спит на скамейке.", "Мужчина спит.", True),
        ("Мужчина спит на скамейке.", "Женщина бежит.", False),
        ("A man sleeps.", "...", False),
        ("...", "...", False),
    ],
)
def test_overlap_tells_pairs_apart_in_any_script(premise, hypothesis, holds):
    assert overlaps(premise, hypothesis) == holds


def test_negation_is_told_by_english_words():
    assert negates("", "Nobody runs.") and negates("", "It's NO café.")
    assert not negates("No.", "A nobleman knows nothingness.")
