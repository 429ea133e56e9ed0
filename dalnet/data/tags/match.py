# SPDX-License-Identifier: Apache-2.0
"""Which image a name in a file of tags means."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from dalnet.data.image_files import IMAGE_SUFFIXES

# Label Studio puts eight digits before the names of uploaded files.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")


def _path(name: str) -> str:
    """Return a path with slashes, in one Unicode form."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def _without_suffix(name: str) -> str:
    """Return the path without the suffix of an image; a dot in a name is no suffix."""
    path = PurePosixPath(_path(name))
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else str(path)


def _file(name: str) -> str:
    return PurePosixPath(_path(name)).name


def _stem(name: str) -> str:
    return _file(_without_suffix(name))


def match_names(
    names: Iterable[str], files: Sequence[str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Find the image of each name: with or without folders and suffix, in any Unicode form.

    Args:
        names: as a file of tags gives them.
        files: the images, as POSIX paths relative to their folder.

    Returns:
        The image of each name that means exactly one; and of each other name the images that it
        may mean, none or several.
    """
    tables: list[dict[str, list[str]]] = []
    for form in (_path, _without_suffix, _file, _stem):
        table = defaultdict(list)
        for file in files:
            table[form(file)].append(file)
        tables.append(dict(table))
    by_path, by_path_stem, by_file, by_stem = tables
    found, open_names = {}, {}
    for name in names:
        plain = _path(name)
        # From the most certain to the least: the whole path, then parts of it.
        candidates = (
            by_path.get(plain)
            or by_path_stem.get(_without_suffix(name))
            or by_file.get(_file(name))
            or by_stem.get(_stem(name))
            or by_file.get(_UPLOADED.sub("", _file(name)))
            or []
        )
        if len(candidates) == 1:
            found[name] = candidates[0]
        else:
            open_names[name] = candidates
    return found, open_names
