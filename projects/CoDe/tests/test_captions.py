# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from open_clip import SimpleTokenizer

from codeseg.captions import pseudo_word_labels


def words_of(caption, labels):
    """The tokens of a caption, as text, with their labels."""
    tokenizer = SimpleTokenizer()
    ids = tokenizer([caption])[0].tolist()
    texts = [tokenizer.decoder[i].removesuffix("</w>") for i in ids]
    return [(text, label) for text, label in zip(texts, labels, strict=True) if label != -1]


def transcribed(caption, nouns, selected):
    """The specification, written down step by step."""
    tokenizer = SimpleTokenizer()
    ids = tokenizer([caption])[0].numpy()
    result = np.full(77, -1)

    def write(noun, value):
        pattern = np.array(tokenizer.encode(noun))
        for place in range(77):
            window = ids[place : place + len(pattern)]
            if len(window) == len(pattern) and (window == pattern).all():
                result[place : place + len(pattern)] = value

    for noun in nouns:
        write(noun, 0)
    for i in range(len(selected)):
        write(selected[i], i + 1)
    return result.tolist()


def test_every_occurrence_whatever_its_case():
    caption = "A Dog and a cat see a dog on grass"
    labels = pseudo_word_labels(caption, ["Dog", "cat", "dog", "grass"], ["Dog", "cat"])
    assert len(labels) == 77
    assert all(type(label) is int for label in labels)
    # Start, a, dog, and, a, cat, see, a, dog, on, grass.
    assert labels[:11] == [-1, -1, 1, -1, -1, 2, -1, -1, 1, -1, 0]
    assert set(labels[11:]) == {-1}


def test_selected_nouns_are_numbered_in_their_order():
    labels = pseudo_word_labels("a cat sees a dog", ["cat", "dog"], ["dog", "cat"])
    assert words_of("a cat sees a dog", labels) == [("cat", 2), ("dog", 1)]


def test_all_tokens_of_a_noun():
    caption = "three skateboarders and a photobomber"
    labels = pseudo_word_labels(caption, ["skateboarders", "photobomber"], ["photobomber"])
    named = words_of(caption, labels)
    assert "".join(text for text, label in named if label == 0) == "skateboarders"
    assert "".join(text for text, label in named if label == 1) == "photobomber"
    assert len(named) > 2


def test_what_is_cut_off_has_no_label():
    caption = "dog " * 80 + "cat"
    labels = pseudo_word_labels(caption, ["dog", "cat"], ["cat"])
    # The last token is the end of text.
    assert labels == [-1, *[0] * 75, -1]


def test_a_noun_that_the_tokens_do_not_show():
    # NLTK cuts "cannot" in two and writes quotes in its own way.
    assert set(pseudo_word_labels("she cannot", ["not", "``"], ["not", "``"])) == {-1}


@pytest.mark.parametrize("noun", ["", " "])
def test_a_noun_without_tokens(noun):
    assert pseudo_word_labels("a dog", [noun, "dog"], [noun, "dog"])[2] == 2


@pytest.mark.parametrize(
    ("caption", "nouns", "selected"),
    [
        ("Two Dogs, one dog; DOGS!", ["Dogs", "dog", "DOGS"], ["dog", "Dogs"]),
        ("traffic light under a light", ["traffic light", "light"], ["light", "traffic light"]),
        (
            "caf\u00e9 &amp; t\u00e9l\u00e9viseur",
            ["caf\u00e9", "t\u00e9l\u00e9viseur"],
            ["t\u00e9l\u00e9viseur"],
        ),
        ("<PERSON> at a wedding " * 20, ["PERSON", "wedding"], ["wedding", "PERSON"]),
        ("", ["dog"], ["dog"]),
    ],
)
def test_as_transcribed(caption, nouns, selected):
    labels = pseudo_word_labels(caption, nouns, selected)
    assert labels == transcribed(caption, nouns, selected)
