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
from PIL import Image

import codeseg  # noqa: F401  registers the system

CASES = os.environ.get("CODE_CASES", "")

WORDS = ["red fish", "leaf", "crate", "meadow", "wheel", "rocket"]


@pytest.fixture
def captioned_images(tmp_path):
    """Twelve small images with captions and their nouns, as JSON lines in a data root."""
    root = tmp_path / "data"
    root.mkdir()
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
