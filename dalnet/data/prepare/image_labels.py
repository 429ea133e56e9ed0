# SPDX-License-Identifier: Apache-2.0
"""The community's ``cls_labels*.npy`` (a pickled dictionary) as ``image_tags.json``."""

import json
import os
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from dalnet.data.image_files import IMAGE_SUFFIXES
from dalnet.errors import UsageError
from dalnet.io import atomic_write

_CONTENT = "expected a dictionary image id -> multi-hot vector, saved with numpy.save"


def convert_image_labels(source: Path, target: Path, classes: Sequence[str]) -> int:
    """Write ``{"image id": ["class name", ...]}`` from a file of multi-hot vectors.

    Folders and suffixes of the file's keys are taken off; a vector of zeros shows no class.

    Args:
        source: ``.npy`` file that holds a dictionary image id -> vector [C] of 0 and 1.
        target: the ``image_tags.json`` to write.
        classes: the C class names in the order of the vectors.

    Returns:
        Number of images.

    Raises:
        UsageError: ``source`` is not such a file, holds anything but arrays, numbers and text, or
            names an image twice.
    """
    tags: dict[str, list[str]] = {}
    for image_id, vector in read_label_file(source).items():
        values = np.asarray(vector)
        if values.shape not in ((len(classes),), (1, len(classes))) or set(values.flat) - {0, 1}:
            what = f"image {image_id} has no vector of {len(classes)} zeros and ones"
            hint = "choose the class list that the file was made for"
            raise UsageError(f"{what} (its shape is {values.shape})", source, hint)
        stem = _file_stem(image_id)
        if stem in tags:
            raise UsageError(f"image {stem} is there twice", source, "keep one of them")
        tags[stem] = [classes[i] for i in np.flatnonzero(values).tolist()]
    with atomic_write(target) as temporary:
        temporary.write_text(json.dumps(tags, indent=0, ensure_ascii=False), encoding="utf-8")
    return len(tags)


def read_label_file(path: Path) -> dict[Any, Any]:
    """Read the pickled dictionary of a ``.npy`` file without executing anything it names.

    Raises:
        UsageError: unreadable, or the pickle asks for more than numpy's arrays.
    """
    try:
        with open(path, "rb") as file:
            npy_format.read_magic(file)
            # Version 1 of the format, as of every header shorter than 64 KiB.
            npy_format.read_array_header_1_0(file)
            content = _ArrayUnpickler(file, encoding="latin1").load().item()
    except Exception as e:  # A hostile pickle may raise anything.
        raise UsageError(f"not a file of image-level labels ({e})", path, _CONTENT) from e
    if not isinstance(content, dict):
        raise UsageError(f"it holds a {type(content).__name__}", path, _CONTENT)
    return content


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays of numpy and refuses everything else."""

    known = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("_codecs", "encode"),  # protocol 2, which old numpy wrote, stores bytes as text
    }

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        # numpy 2 names its new place, which numpy 1 need not have; both have the old one.
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, no array of numpy")
        return super().find_class(module, name)


def _file_stem(image_id: Any) -> str:  # noqa: ANN401
    file = str(image_id).replace("\\", "/").rpartition("/")[2]
    stem, suffix = os.path.splitext(file)
    stem = stem if suffix.lower() in IMAGE_SUFFIXES else file
    # IRN writes VOC's 2007_000032 as the number 2007000032.
    return f"{stem[:4]}_{stem[4:]}" if re.fullmatch(r"20\d{8}", stem) else stem
