# SPDX-License-Identifier: Apache-2.0
"""Files of words and phrases: those that come with the package, and what is wrong with others."""

import pytest
from helpers import refused

from clims.texts import read_texts
from dalnet.data.datasets.coco import COCO_CLASSES
from dalnet.data.datasets.toy import TOY_CLASSES
from dalnet.data.datasets.toy.background import GROUNDS
from dalnet.data.datasets.voc import VOC_CLASSES


def test_voc_as_published():
    texts = read_texts("voc", VOC_CLASSES)
    other = {name: word for name, word in texts.words.items() if name != word}
    assert list(texts.words) == list(VOC_CLASSES)
    assert other == {
        "diningtable": "dining table",
        "person": "player",
        "pottedplant": "potted plant",
        "tvmonitor": "tv monitor",
    }
    assert texts.background == (
        ["tree", "river", "sea", "lake", "water", "railway", "railroad", "track", "stone", "rocks"]
    )
    assert texts.related["train"] == ["railroad", "railway", "branches", "tree"]
    assert texts.related["boat"] == ["river", "water", "lake", "sea", "building"]
    assert texts.weights == {"chair": 3, "diningtable": 3, "sofa": 3}


def test_coco_as_published():
    texts = read_texts("coco", COCO_CLASSES)
    assert list(texts.words) == list(COCO_CLASSES)
    assert {n: w for n, w in texts.words.items() if n != w} == {"person": "player"}
    assert len(texts.background) == len({*texts.background}) == 88
    assert texts.background[:2] == ["street sign", "mountain"] and texts.background[-1] == "park"


def test_the_toy_set():
    texts = read_texts("toy", TOY_CLASSES)
    assert set(texts.words) == set(TOY_CLASSES) and set(texts.background) == set(GROUNDS)


@pytest.fixture
def write(tmp_path):
    def to_disk(text):
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / "mine.yaml")

    return to_disk


def test_a_file_of_ones_own(write):
    path = write("words:\n  猫: cat\n  dog: hound\n  horse: horse\nbackground: [sofa]\nrelated:\n")
    texts = read_texts(path, ["dog", "猫"])
    assert texts.words["猫"] == "cat" and texts.background == ["sofa"] and texts.related == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("words: {cat: cat}", ["'dog'", "no word"]),
        ("words: {cat: pet, dog: ' Pet'}", ["'cat'", "'dog'", "the same word"]),
        ("words: {cat: cat, dog: hound}\nbackground: [sofa, Hound]", ["'Hound'", "also a class"]),
        ("words: {cat: cat, dog: hound}\nbackground: [dog]", ["'dog'", "also a class"]),
        ("words: {cat: cat, dog: hound}\nrelated: {cat: [cat]}", ["'cat'", "also a class"]),
        ('words: {cat: cat, dog: hound}\nbackground: [" DOG "]', ["' DOG '", "also a class"]),
        ("words: {cat: cat, dog: hound}\nbackground: [a sofa, A  sofa]", ["'a sofa'", "2 times"]),
        ("words: {cat: cat, dog: hound}\nrelated: {cat: [mat, mat]}", ["'mat'", "2 times"]),
        ("words: {cat: cat, dog: hound}\nphrases: [sofa]", ["'phrases'", "background"]),
        ("words: {cat: cat, no: hound}", ["False", "quotes"]),
        ("words: {cat: cat, dog: 12}", ["12", "quotes"]),
        ("words: {cat: cat, dog: hound}\nbackground: [sofa, ' ']", ["' '", "quotes"]),
        ("words: {cat: cat, dog: hound}\nbackground: sofa", ["'background' is no list"]),
        ("words: {cat: cat, dog: hound}\nrelated: [sofa]", ["'related'"]),
        ("words: {cat: cat, dog: hound}\nweights: {cat: many}", ["'weights'"]),
        *(
            (f"words: {{cat: cat, dog: hound}}\nweights: {{cat: {number}}}", ["above 0"])
            for number in ("0", "-3", ".nan", ".inf", "true")
        ),
        ("words: {cat: cat, dog: hound}\nweights: {cats: 3}", ["'weights' has 'cats'"]),
        ("words: {cat: cat, dog: hound}\nrelated: {cats: [mat]}", ["'related' has 'cats'"]),
        ("words: [cat, dog]", ["below 'words'"]),
        ("- cat\n", ["below 'words'"]),
    ],
)
def test_what_is_wrong_with_a_file(write, text, words):
    with refused("mine.yaml", *words):
        read_texts(write(text), ["cat", "dog"])


@pytest.mark.parametrize("text", ["words: {cat: [", "words: \x00"])
def test_what_is_no_yaml(write, text):
    with refused("MODEL.CLIMS.TEXTS", "mine.yaml", "voc"):
        read_texts(write(text), ["cat"])


def test_what_is_no_file(tmp_path):
    with refused("MODEL.CLIMS.TEXTS", "vocc", "coco, toy, voc"):
        read_texts("vocc", VOC_CLASSES)
