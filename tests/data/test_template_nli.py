"""Templates: each pair is what its group says it is, and no pair is in two splits."""

import re

import numpy as np
import pytest

from fairkd_jax.data.sets import template_nli
from fairkd_jax.data.sets.template_nli import HEURISTICS, TEMPLATES, WORDS, TemplateNli


def tokens(sentence):
    return re.findall(r"[a-z]+", sentence.lower())


def holds(premise, hypothesis):
    """(all words occur, they occur in a row)."""
    p, h = tokens(premise), tokens(hypothesis)
    return set(h) <= set(p), any(p[i : i + len(h)] == h for i in range(len(p)))


def pairs(split):
    return list(zip(split.columns["premise"].tolist(), split.columns["hypothesis"].tolist()))


def test_there_are_ten_templates_and_more_of_each_kind_and_many_words():
    assert set(TEMPLATES) == {
        (kind, label)
        for kind in (*HEURISTICS, "no_overlap")
        for label in ("entailment", "non-entailment")
    }
    assert min(len(set(templates)) for templates in TEMPLATES.values()) >= 10
    assert len(WORDS["n"]) + len(WORDS["t"]) + len(WORDS["i"]) >= 60


def test_no_word_has_two_classes():
    flat = [
        (w, kind)
        for kind, pool in WORDS.items()
        for item in pool
        for w in ((item,) if isinstance(item, str) else item)
    ]
    assert len({w for w, _ in flat}) == len(flat)


def test_each_pair_shows_its_heuristic():
    hans = TemplateNli(eval=1200).load("hans")
    for (premise, hypothesis), kind in zip(pairs(hans), hans.columns["attribute"]):
        name = hans.info.attribute_names[kind]
        wanted = (True, name != "lexical_overlap")
        assert holds(premise, hypothesis) == wanted, (name, premise, hypothesis)
    for split in ("train", "test"):
        loaded = TemplateNli().load(split)
        for pair, attribute in zip(pairs(loaded), loaded.columns["attribute"]):
            assert holds(*pair)[0] == (attribute == 0), pair


def test_splits_share_no_pair_and_repeat_none():
    loaded = [pairs(TemplateNli().load(s)) for s in TemplateNli.splits]
    assert len(set().union(*loaded)) == sum(map(len, loaded)) == 4000 + 800 + 800 + 798


def test_labels_are_those_of_the_templates_and_noise_moves_the_share_asked_for():
    def template_label(premise, hypothesis, label):
        """Does some template of this label make the pair?"""
        for (_, meant), templates in TEMPLATES.items():
            if meant == label:
                for template in templates:
                    if matches(template, premise, hypothesis):
                        return True
        return False

    def matches(template, premise, hypothesis):
        left, right = template.split(" => ")
        slots = {}
        for pattern, sentence in ((left, premise), (right, hypothesis)):
            regex, group = "", 0
            for part in re.split(r"(\{\w\d\})", pattern):
                if not re.fullmatch(r"\{\w\d\}", part):
                    regex += re.escape(part)
                    continue
                kind, second = part[1].lower(), part[1].isupper()
                words = [w if isinstance(w, str) else w[second] for w in WORDS[kind]]
                regex += f"({'|'.join(words)})"
                group += 1
            found = re.fullmatch(regex + r"\.", sentence[0].lower() + sentence[1:])
            if not found:
                return False
            names = re.findall(r"\{(\w\d)\}", pattern)
            for name, word in zip(names, found.groups()):
                if slots.setdefault(name, word) != word:
                    return False
        return True

    clean = TemplateNli(train=200).load("train")
    noisy = TemplateNli(train=200, label_noise=0.25).load("train")
    for loaded, wrong in ((clean, 0), (noisy, 0.25)):
        names = [loaded.info.label_names[y] for y in loaded.columns["label"]]
        right = [template_label(*pair, name) for pair, name in zip(pairs(loaded), names)]
        assert abs(1 - np.mean(right) - wrong) < 0.02
        assert tuple(loaded.counts()) == (95, 5, 5, 95)


def test_the_hans_split_has_attributes_of_its_own():
    hans = TemplateNli().load("hans")
    assert hans.info.attribute_names == HEURISTICS
    assert hans.info.aligned == ((True,) * 3, (False,) * 3)
    assert tuple(hans.counts()) == (133,) * 6


def test_running_out_of_pairs_is_an_error():
    rng = template_nli.random.Random(0)
    seen = set()
    with pytest.raises(ValueError, match=r"no more pairs .* for split 'val'"):
        for _ in range(300):
            template_nli.fresh("{j1} {p1} slept => {p1} slept", "val", seen, rng)
