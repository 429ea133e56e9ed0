# SPDX-License-Identifier: Apache-2.0
"""Captions: they say what the image shows, and are known to fit whatever they fit."""

import numpy as np
import pytest

from dalnet.modeling.clip.prompts import IMAGENET_TEMPLATES
from dalnet_toyclip.captions import ANY, PROMPT, Caption, draw_caption, find_fits
from dalnet_toyclip.images import ToyImage
from dalnet_toyclip.vocabulary import OTHER_WORD, num_rows, tokenize
from dalnet_toyclip.words import ATTRIBUTE_WORDS, CLASS_WORDS, EMPTY_WORDS, GROUND_WORDS

GOLDFISH, RED_STAR = (0, 8, 6, 0), (-1, 2, 3, 2)
PLAIN = np.zeros((96, 96, 3), np.uint8)
IMAGES = [
    ToyImage(PLAIN, (GOLDFISH, RED_STAR), 1),
    ToyImage(PLAIN, (RED_STAR,), 2),
    ToyImage(PLAIN, (GOLDFISH,), -1),
    ToyImage(PLAIN, (), 1),
]


def many_captions(image, count=300):
    return [draw_caption(np.random.default_rng(seed), image) for seed in range(count)]


@pytest.mark.parametrize("image", IMAGES)
def test_a_caption_says_what_its_fields_say(image):
    for caption in many_captions(image):
        groups = []
        for number, *attributes in caption.objects:
            groups += [CLASS_WORDS[number]] if number != ANY else []
            pairs = zip(ATTRIBUTE_WORDS, attributes, strict=True)
            groups += [words[value] for words, value in pairs if value != ANY]
        groups += [GROUND_WORDS[caption.ground]] if caption.ground != ANY else []
        groups += [EMPTY_WORDS] if caption.empty else []
        assert groups and all(any(w in caption.text for w in words) for words in groups)


@pytest.mark.parametrize("image", IMAGES)
def test_a_caption_fits_its_image(image):
    assert find_fits(many_captions(image), [image]).all()


def test_captions_are_varied():
    captions = many_captions(IMAGES[0], 1000)
    texts = [caption.text for caption in captions]
    assert 450 < sum(text.endswith(".") for text in texts) < 550
    assert 300 < sum("photo" in text for text in texts) < 500
    assert {len(caption.objects) for caption in captions} == {0, 1, 2}
    assert {caption.ground for caption in captions} == {ANY, 1}
    assert all(any(w in text for text in texts) for w in (*CLASS_WORDS[0], *GROUND_WORDS[1]))
    empty = many_captions(IMAGES[3])
    assert 100 < sum(caption.empty for caption in empty) < 200


def test_which_images_a_caption_fits():
    captions = [
        Caption("goldfish", ((0, ANY, ANY, ANY),)),
        Caption("red thing", ((ANY, ANY, ANY, 2),)),
        Caption("goldfish and red thing", ((0, ANY, ANY, ANY), (ANY, ANY, ANY, 2))),
        Caption("orange star", ((ANY, 2, ANY, 0),)),  # there is none in the first: no mixture
        Caption("meadow", ground=1),
        Caption("red thing on a meadow", ((ANY, ANY, ANY, 2),), ground=1),
        Caption("background", empty=True),
    ]
    assert find_fits(captions, IMAGES).astype(int).tolist() == [
        [1, 0, 1, 0],
        [1, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
    ]


def test_every_word_of_a_caption_has_a_row_of_its_own():
    assert len(IMAGENET_TEMPLATES) == 80 and num_rows() < 400
    rows = tokenize([c.text for image in IMAGES for c in many_captions(image)])
    ends = rows.argmax(dim=1)
    assert (rows.gather(1, ends[:, None]) == num_rows() - 1).all()
    assert all((row[: end + 1] != OTHER_WORD).all() for row, end in zip(rows, ends, strict=True))
    known, unknown = tokenize([PROMPT.replace("{}", word) for word in ("moon", "zebra")])
    assert (known == OTHER_WORD).sum() == 0 and (unknown == OTHER_WORD).sum() == 1
