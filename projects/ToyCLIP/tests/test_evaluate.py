# SPDX-License-Identifier: Apache-2.0
"""Zero-shot figures and cosines of a stub that knows everything, and of one that knows nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dalnet.data.image_io import read_mask
from dalnet_toyclip import cosines, evaluate
from dalnet_toyclip.cosines import Cosines, measure_cosines
from dalnet_toyclip.images import ToyImage
from dalnet_toyclip.toy_clip import PATCH
from dalnet_toyclip.words import ATTRIBUTE_WORDS, CLASS_WORDS, EMPTY_WORDS, GROUND_WORDS

GROUPS = (CLASS_WORDS, *ATTRIBUTE_WORDS, GROUND_WORDS, (EMPTY_WORDS,))
WORDS = [words[0] for group in GROUPS for words in group]


def code(words):
    return torch.tensor([float(word in words) for word in WORDS])


class Knowing(nn.Module):
    """Has the words of what is shown for features of images, and the words of sentences."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def encode_sentences(self, sentences):
        texts = [sentence.removesuffix(".") for sentence in sentences]
        rows = [code([w for w in WORDS if f" {w} " in f"{text} "]) for text in texts]
        return F.normalize(torch.stack(rows), dim=1)

    def tell(self, images):
        return F.normalize(torch.stack([code(shown_words(image)) for image in images]), dim=1)

    def encode_patches(self, images):
        texts = self.encode_sentences([f" {words[0]}." for words in (EMPTY_WORDS, *CLASS_WORDS)])
        labels = torch.from_numpy(self.masks.pop()[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH])
        return texts[labels.long()].permute(2, 0, 1)[None]


def shown_words(image):
    words = [GROUND_WORDS[image.ground][0]] if image.ground >= 0 else []
    for number, *attributes in image.objects:
        words += [CLASS_WORDS[number][0]] if number >= 0 else []
        words += [w[v][0] for w, v in zip(ATTRIBUTE_WORDS, attributes, strict=True)]
    return words


@pytest.fixture
def knowing(monkeypatch):
    model = Knowing()

    def read_and_tell(*args):
        model.masks.append(read_mask(*args))
        return model.masks[-1]

    monkeypatch.setattr(evaluate, "read_mask", read_and_tell)
    for module in (evaluate, cosines):
        monkeypatch.setattr(module, "embed_images", lambda model, images: model.tell(images))
    return model


def test_all_is_named_right_by_who_knows(knowing):
    result = evaluate.evaluate(knowing, 60)
    patches = result.pop("patches on toy_val (mIoU)")
    assert 60 < patches < 90, "whole patches do not follow outlines"
    assert set(result.values()) == {100.0} and len(result) == 7


def test_nothing_is_named_right_by_who_does_not(knowing, monkeypatch):
    monkeypatch.setattr(
        knowing, "tell", lambda images: F.normalize(torch.randn(len(images), len(WORDS)))
    )
    result = evaluate.evaluate(knowing, 300)
    result.pop("patches on toy_val (mIoU)")
    for task, percent in result.items():
        number = int(task.rsplit("(")[-1].removesuffix(")"))
        assert abs(percent - 100 / number) < 16


def test_cosines_of_who_knows(knowing):
    result = measure_cosines(knowing, 60)
    for kind, pairs in result.items():
        assert pairs.other.max() == 0 and pairs.fitting.min() > 0.2, kind
    patches = result["patches of toy_val, class or background"]
    assert (patches.fitting == 1).all() and len(patches.other) == 10 * len(patches.fitting)


def test_summary():
    pairs = Cosines(torch.tensor([0.5, 0.7]), torch.tensor([0.0, 0.2, 0.1]))
    assert pairs.summary() == pytest.approx((0.6, 0.1414, 0.1, 0.1, 0.35), abs=1e-4)


def test_image_without_objects_is_not_of_a_class():
    assert cosines._classes(ToyImage(None, ((-1, 0, 0, 0), (3, 7, 0, 3)), 0)) == {-1, 3}
