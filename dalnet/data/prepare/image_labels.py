# SPDX-License-Identifier: Apache-2.0
"""The community's ``cls_labels*.npy`` (a pickled dictionary) as ``image_tags.json``."""

import json
import math
import os
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.lib import format as npy_format

from dalnet.data.image_files import IMAGE_SUFFIXES
from dalnet.errors import UsageError
from dalnet.io import atomic_write, require_file

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
        if vector.shape not in ((len(classes),), (1, len(classes))) or set(vector.flat) - {0, 1}:
            what = f"image {image_id} has no vector of {len(classes)} zeros and ones"
            hint = "choose the class list that the file was made for"
            raise UsageError(f"{what} (its shape is {vector.shape})", source, hint)
        stem = _file_stem(image_id)
        if stem in tags:
            raise UsageError(f"image {stem} is there twice", source, "keep one of them")
        tags[stem] = [classes[i] for i in np.flatnonzero(vector).tolist()]
    with atomic_write(target) as temporary:
        text = json.dumps(tags, indent=0, ensure_ascii=False)
        # Halves of characters become JSON's own escapes.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return len(tags)


def read_label_file(path: Path) -> dict[str | int, np.ndarray]:
    """Read the pickled dictionary of a ``.npy`` file without executing anything it names.

    What is no array and no list of numbers becomes an empty array.

    Raises:
        UsageError: unreadable, or the pickle asks for more than numpy's arrays.
    """
    require_file(path)
    try:
        with open(path, "rb") as file:
            npy_format.read_magic(file)
            # Version 1 of the format, as of every header shorter than 64 KiB.
            npy_format.read_array_header_1_0(file)
            content = _ArrayUnpickler(file, encoding="latin1").load().array.item()
    except Exception as e:  # A hostile pickle may raise anything.
        raise UsageError(f"not a file of image-level labels ({e})", path, _CONTENT) from e
    if not isinstance(content, dict):
        raise UsageError(f"it holds a {type(content).__name__}", path, _CONTENT)
    if odd := next((key for key in content if not isinstance(key, str | int | np.integer)), None):
        raise UsageError(f"it has a {type(odd).__name__} in place of an image id", path, _CONTENT)
    return {key: _as_vector(value) for key, value in content.items()}


class _Type:
    """Stands for ``numpy.dtype`` in a pickle: plain numbers, text and objects, without fields.

    The real one takes any state from a pickle, and arrays of it would read memory that is not
    theirs.
    """

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"[biufSU]\d+|[?O]|O8", code):
            raise pickle.UnpicklingError(f"it asks for arrays of the type {code!r}")
        self._code, self._order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it asks for arrays of a type with fields")
        self._order = state[1].replace("|", "=")

    def decode(self, shape: tuple[int, ...], data: Any) -> np.ndarray:
        """Return an array; its content is a list where it holds objects, else bytes."""
        if "O" not in self._code:
            order = "" if self._code == "?" else self._order
            return np.frombuffer(data, np.dtype(order + self._code)).reshape(shape)
        array = np.empty(len(data), object)
        array[:] = data
        return array.reshape(shape)


class _Array:
    """Stands for ``numpy.ndarray`` in a pickle."""

    array = np.empty((0,))

    def __init__(self, *_: object) -> None:
        """Take what numpy's own function takes to make an empty array."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, type_, is_fortran, data = state
        if len(data) < math.prod(shape):  # before room is made for them
            raise pickle.UnpicklingError(f"it has {len(data)} bytes for an array {list(shape)}")
        array = type_.decode(shape[::-1] if is_fortran else shape, data)
        self.array = array.T if is_fortran else array


class _ArrayUnpickler(pickle._Unpickler):
    """Unpickles arrays of numpy as :class:`_Array`, and refuses everything else.

    It is the one in Python: that in C makes room for any number of objects that a pickle claims.
    """

    known: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy.core.multiarray", "scalar"): lambda type_, data: type_.decode((), data)[()],
        # Protocol 2, which old numpy wrote, stores bytes as text.
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        # numpy 2 names its new place.
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, no array of numpy")
        return self.known[module, name]


def _as_vector(value: object) -> np.ndarray:
    """Return an array of numbers of what a file holds for an image: an array, or a list of numbers.

    Lists that hold others many times over would fill the memory; of those there is nothing.
    """
    value = value.array if isinstance(value, _Array) else value
    is_list = isinstance(value, list) and all(isinstance(v, int | float) for v in value)
    if is_list or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf"):
        return np.asarray(value)
    return np.empty((0,))


def _file_stem(image_id: str | int) -> str:
    file = str(image_id).replace("\\", "/").rpartition("/")[2]
    stem, suffix = os.path.splitext(file)
    stem = stem if suffix.lower() in IMAGE_SUFFIXES else file
    # IRN writes VOC's 2007_000032 as the number 2007000032; a text of ten digits is a name.
    is_number = not isinstance(image_id, str) and re.fullmatch(r"20\d{8}", stem)
    return f"{stem[:4]}_{stem[4:]}" if is_number else stem
