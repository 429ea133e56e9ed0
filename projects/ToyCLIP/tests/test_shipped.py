# SPDX-License-Identifier: Apache-2.0
"""The weights that come with the package, and the text embeddings that come with dalnet."""

import pytest
import torch

from dalnet.data.datasets.toy import TOY_CLASSES
from dalnet.modeling.clip import load_clip
from dalnet.modeling.clip.embedding_files import read_class_embeddings
from dalnet_toyclip.evaluate import embed_words, evaluate
from dalnet_toyclip.files import load_small
from dalnet_toyclip.handler import WEIGHTS

NAMES = [*TOY_CLASSES, "background"]


def test_configs_may_name_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("DALNET_CACHE", str(tmp_path))
    assert WEIGHTS.stat().st_size < 4_200_000
    clip = load_clip("ToyCLIP", "toyclip://toyclip.safetensors")
    assert clip.image_size == 96
    texts = clip.encode_text(clip.tokenize([f"a photo of {name}." for name in NAMES]))
    texts = torch.nn.functional.normalize(texts, dim=1)
    torch.testing.assert_close(texts, embed_words(load_small(), NAMES), atol=1e-5, rtol=0)


def test_dalnet_has_the_embeddings_of_these_weights():
    shipped = read_class_embeddings("dalnet://toy_texts.safetensors", [[name] for name in NAMES])
    texts = embed_words(load_small(), NAMES)
    torch.testing.assert_close(shipped, texts.detach(), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_weights_know_the_toy_world():
    result = evaluate(load_small(), 100)
    least = {"color": 95, "ground": 95, "class of single": 70, "class of masked": 60, "patches": 30}
    for name, percent in least.items():
        [value] = [v for task, v in result.items() if task.startswith(name)]
        assert value >= percent, name
