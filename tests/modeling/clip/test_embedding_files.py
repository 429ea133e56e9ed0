# SPDX-License-Identifier: Apache-2.0
"""Ready embeddings: the right row for each class, or a sentence with the file and the class."""

import json

import numpy as np
import pytest
import torch
from helpers import refused
from safetensors.torch import save_file

from dalnet.modeling.clip.embedding_files import read_class_embeddings

NAMES = ["background", "cat", "dining table", "diningtable", "Hütte"]
CLASSES = [("diningtable", "dining table"), ("kitty", "cat"), ("Hütte", "hut"), ("background",)]
ROWS = [3, 1, 4, 0]


def rows(dtype=np.float32):
    return (3 * np.random.default_rng(0).standard_normal((5, 6))).astype(dtype)


@pytest.fixture
def save(tmp_path):
    """Writes rows and names in either format, and returns the path."""

    def write(suffix, embeddings, names=NAMES, **metadata):
        path = tmp_path / f"texts.v1.{suffix}"
        if suffix == "npy":
            np.save(path, embeddings)
            path.with_suffix(".txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        else:
            metadata = {"names": json.dumps(names), **metadata}
            save_file({"embeddings": torch.from_numpy(embeddings)}, path, metadata)
        return str(path)

    return write


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_are_matched_by_class_then_by_word(save, suffix, dtype):
    embeddings = rows(dtype)
    found = read_class_embeddings(save(suffix, embeddings), CLASSES)
    expected = embeddings[ROWS].astype(np.float64)
    expected /= np.sqrt((expected**2).sum(axis=1, keepdims=True))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
@pytest.mark.parametrize(
    "names, named",
    [
        (["background", "cat", "dining table", "diningtable", "hat"], "'Hütte' or 'hut'"),
        (["background", "cat", "Hütte", "diningtable", "diningtable"], "'diningtable'"),
        (["ground", "cat", "Hütte", "diningtable", "dining table"], "'background'"),
        ([*NAMES, "horse"], "6 names"),
        (NAMES[:-1], "4 names"),
    ],
)
def test_missing_doubled_or_uncounted_names(save, suffix, names, named):
    with refused(f"texts.v1.{suffix}", named):
        read_class_embeddings(save(suffix, rows(), names), CLASSES)


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_rows_without_a_direction(save, suffix, value):
    embeddings = rows()
    embeddings[1] = value
    path = save(suffix, embeddings)
    with refused(f"texts.v1.{suffix}", "'cat'"):
        read_class_embeddings(path, CLASSES)
    read_class_embeddings(path, CLASSES[2:])  # nobody asks for that row


def test_doubled_names_that_no_class_bears_do_no_harm(save):
    path = save("npy", rows(), ["background", "cat", "rest", "rest", "Hütte"])
    assert read_class_embeddings(path, CLASSES[1:]).shape == (3, 6)


def test_windows_text_files(save):
    path = save("npy", rows())
    text = "\r\n".join(NAMES).encode("utf-8-sig")
    with open(path.replace(".npy", ".txt"), "wb") as stream:
        stream.write(text)
    assert read_class_embeddings(path, CLASSES).shape == (4, 6)


@pytest.mark.parametrize(
    "harm, where",
    [
        ("no list", "texts.v1.txt"),
        ("latin", "texts.v1.txt"),
        ("cut", "texts.v1.npy"),
        ("cube", "texts.v1.npy"),
        ("suffix", "MODEL.CLIP.WEIGHTS"),
        ("absent", "MODEL.CLIP.WEIGHTS"),
    ],
)
def test_unreadable_arrays(save, tmp_path, harm, where):
    path = tmp_path / "texts.v1.npy"
    save("npy", np.ones((5, 2, 3)) if harm == "cube" else rows())
    if harm == "no list":
        path.with_suffix(".txt").unlink()
    elif harm == "latin":
        path.with_suffix(".txt").write_text("\n".join(NAMES), encoding="latin-1")
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif harm == "suffix":
        path = path.rename(path.with_suffix(".npz"))
    elif harm == "absent":
        path.unlink()
    with refused(where):
        read_class_embeddings(str(path), CLASSES)


def test_pickles_are_not_run(save, tmp_path):
    class Mark:
        def __reduce__(self):
            return (tmp_path.joinpath("mark").touch, ())

    with refused("texts.v1.npy"):
        read_class_embeddings(save("npy", np.array([Mark()] * 5)), CLASSES)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("harm", ["key", "no metadata", "no json", "no list", "numbers"])
def test_unreadable_safetensors(tmp_path, harm):
    names = {"no json": "cat dog", "no list": "5", "numbers": "[1, 2, 3, 4, 5]"}
    metadata = {"names": names.get(harm, json.dumps(NAMES))} if harm != "no metadata" else None
    tensors = {"rows" if harm == "key" else "embeddings": torch.from_numpy(rows())}
    save_file(tensors, tmp_path / "texts.safetensors", metadata)
    with refused("texts.safetensors"):
        read_class_embeddings(str(tmp_path / "texts.safetensors"), CLASSES)
