# SPDX-License-Identifier: Apache-2.0
"""CODE_CASES names an ``.npz`` of figures of the published code, which is not part of the
repository; without it the tests that compare with these are skipped."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import codeseg  # noqa: F401  registers the system

CASES = os.environ.get("CODE_CASES", "")

WORDS = ["red fish", "leaf", "crate", "meadow", "wheel", "rocket"]


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory):
    """A CLIP of random weights: images of 32 pixels in patches of 8, embeddings of 64 numbers."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=3, width=64, head_width=64, patch_size=8, image_size=32)
    text = CLIPTextCfg(context_length=77, width=64, heads=1, layers=2)
    model = CLIP(64, vision, text, quick_gelu=True)
    for name, parameter in model.named_parameters():
        if "ln_" not in name and "token_embedding" not in name:
            nn.init.normal_(parameter, std=0.15)
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


@pytest.fixture
def code_cfg(tiny_cfg, clip_file, captioned_images):
    """The whole method on the CPU with the random CLIP, for three words."""
    tiny_cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "CoDe", "MODEL.CLIP.NAME", "ViT-B-16-quickgelu"),
            *("MODEL.CLIP.WEIGHTS", str(clip_file), "DATASETS.TRAIN", (), "DATASETS.TEST", ()),
            *("MODEL.CLASS_NAMES", ("background", "red fish", "leaf", "crate")),
            *("MODEL.PROMPT_NAMES", ("red fish", "leaf", "crate")),
            *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4, "MODEL.CODE.SCORES.REFINEMENT_STEPS", 2),
            *("MODEL.CODE.CAPTIONS.FILES", ("captions.jsonl",), "MODEL.CODE.UNFREEZE_ITER", 2),
            *("SOLVER.IMS_PER_BATCH", 4, "SOLVER.HEAD_LR_MULTIPLIER", 1.0, "SEED", 0),
            *("INPUT.MULTI_CROP.LOCAL_VIEWS", 0),
        ]
    )
    return tiny_cfg


@pytest.fixture
def captioned_images(tmp_path, monkeypatch):
    """Twelve small images with captions and their nouns, as JSON lines in the data root."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    rng = np.random.default_rng(0)
    lines = []
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(root / f"{i}.png")
        first, second = WORDS[i % 6], WORDS[(i + 1 + i // 6) % 6]
        line = {"image": f"{i}.png", "caption": f"a {first} beside a {second}, number {i}"}
        lines.append({**line, "nouns": [first.split()[-1], second.split()[-1]]})
    path = root / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


@pytest.fixture
def published():
    """Figures of the published code by name, as tensors that may want a gradient."""
    if not os.path.isfile(CASES):
        pytest.skip("CODE_CASES names no file")
    with np.load(CASES) as arrays:
        values = {name: arrays[name] for name in arrays.files}

    def get(name, grad=False):
        return torch.from_numpy(values[name].copy()).requires_grad_(grad)

    get.raw = values.__getitem__
    return get


@pytest.fixture
def write_tar():
    """A function that writes files, by name, into a tar file."""

    def write(path, members):
        with tarfile.open(path, "w") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write
