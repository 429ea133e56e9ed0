# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
import pytest
import torch
from helpers import refused
from PIL import Image
from torchvision.transforms import v2

from codeseg.caption_files import Captioned
from codeseg.captions import clip_tokenizer, pseudo_word_labels
from codeseg.mapper import CaptionMapper, noun_tokens
from dalnet.modeling.clip.prompts import IMAGENET_TEMPLATES

CAPTION = "a red fish and a leaf on a crate"
NOUNS = ["fish", "leaf", "crate"]


@pytest.fixture
def mapper():
    return CaptionMapper(v2.Resize((8, 8)), num_nouns=2, context_tokens=16)


@pytest.fixture
def content():
    stream = io.BytesIO()
    pixels = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def test_record(mapper, content):
    record = mapper(Captioned(content, CAPTION, tuple(NOUNS), "x"), NOUNS)
    selected = record["nouns"]
    assert len({*selected} & {*NOUNS}) == 2
    assert record["image"].shape == (3, 8, 8)
    assert record["image"].dtype == torch.uint8
    assert record["word_labels"].tolist() == pseudo_word_labels(CAPTION, NOUNS, selected)
    assert torch.equal(record["caption_tokens"], clip_tokenizer()([CAPTION])[0])
    assert torch.equal(record["noun_tokens"], noun_tokens(selected, 16))
    assert record["noun_tokens"].shape == (2, 61)
    for tokens, noun in zip(record["prompt_tokens"], selected, strict=True):
        sentences = clip_tokenizer()([t.replace("{}", noun) for t in IMAGENET_TEMPLATES])
        assert (sentences == tokens).all(dim=1).any()


def test_a_file_and_its_content_are_the_same(mapper, content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    path = str(tmp_path / "a.png")
    first = mapper(Captioned(content, CAPTION, None, "x"), NOUNS)
    second = mapper(Captioned(path, CAPTION, None, path), NOUNS)
    assert torch.equal(first["image"], second["image"])


def test_all_nouns_are_drawn(mapper, content):
    sample = Captioned(content, CAPTION, None, "x")
    np.random.seed(0)
    drawn = {tuple(mapper(sample, NOUNS)["nouns"]) for _ in range(60)}
    assert len(drawn) == 6


@pytest.mark.parametrize("image", [b"no image", "/nowhere/a.png"])
def test_a_broken_image(mapper, image):
    name = image if isinstance(image, str) else "shard, 7"
    with refused(name):
        mapper(Captioned(image, CAPTION, None, name), NOUNS)


def test_published_noun_tokens(published):
    import json

    names = json.loads(str(published.raw("F9__names")))
    tokens = noun_tokens(names, 16)
    assert torch.equal(tokens[:, 1:], published("F9__ids_after_sos"))
