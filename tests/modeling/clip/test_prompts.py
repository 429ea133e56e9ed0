# SPDX-License-Identifier: Apache-2.0
"""Names to prompts to embeddings, written out."""

import math

import pytest
import torch
from helpers import refused
from open_clip import SimpleTokenizer

from dalnet.modeling.clip import embed_names, prompts


class Encoder:
    """Embeds a sentence as its length and its number of the letter a, in float64."""

    def __init__(self):
        self.batches = []

    def tokenize(self, sentences):
        self.sentences = sentences
        return torch.tensor([[len(s), s.count("a")] for s in sentences], dtype=torch.float64)

    def encode_text(self, tokens):
        self.batches.append(len(tokens))
        return tokens


@pytest.fixture
def encoder():
    return Encoder()


def test_one_template(encoder):
    rows = embed_names(["cat", "a {b}"], ["a photo of {}"], encoder.tokenize, encoder.encode_text)
    assert encoder.sentences == ["a photo of cat", "a photo of a {b}"]
    expected = [[14 / math.hypot(14, 2), 2 / math.hypot(14, 2)]]
    expected += [[16 / math.hypot(16, 2), 2 / math.hypot(16, 2)]]
    torch.testing.assert_close(rows, torch.tensor(expected), atol=1e-6, rtol=0)


def test_templates_are_averaged_as_directions(encoder):
    templates = ["a {}", "{}", "many {} in a salad"]
    rows = embed_names(["cat", "dog"], templates, encoder.tokenize, encoder.encode_text)
    for row, name in zip(rows.tolist(), ["cat", "dog"], strict=True):
        total = [0.0, 0.0]
        for template in templates:
            sentence = template.format(name)
            length, count = len(sentence), sentence.count("a")
            total[0] += length / math.hypot(length, count)
            total[1] += count / math.hypot(length, count)
        assert row == pytest.approx([value / math.hypot(*total) for value in total], abs=1e-6)


def test_more_prompts_than_a_batch(encoder):
    names = [f"thing {i}" for i in range(2 * prompts._BATCH + 3)]
    rows = embed_names(names, ["{}"], encoder.tokenize, encoder.encode_text)
    assert encoder.batches == [prompts._BATCH, prompts._BATCH, 3] and len(rows) == len(names)


@pytest.mark.parametrize("template", ["a photo", "{name}", "{", "{} {}", ""])
def test_template_needs_one_place(encoder, template):
    with refused("MODEL.CLIP.TEMPLATE"):
        embed_names(["cat"], ["a {}", template], encoder.tokenize, encoder.encode_text)


@pytest.mark.parametrize("length", [16, 77])
def test_a_sentence_longer_than_the_tower_reads(length):
    """The end of it, which may be the name itself, would be cut off without a word."""

    def embed(words):
        names = ["cat", "dog " * words]
        return embed_names(
            names, ["a photo of {}"], SimpleTokenizer(context_length=length), lambda t: t.float()
        )

    room = length - 2 - 3  # start, end and "a photo of"
    assert len(embed(room)) == 2
    with refused("names", "a photo of dog dog", f"{length - 1} tokens", f"the {length - 2} that"):
        embed(room + 1)


def test_the_sentences_for_imagenet_are_clips():
    assert len(prompts.IMAGENET_TEMPLATES) == 80
    assert all(template.count("{}") == 1 for template in prompts.IMAGENET_TEMPLATES)
