# SPDX-License-Identifier: Apache-2.0
"""Find the image that a name in a file of tags means."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from dalnet.data.class_names import plain_name
from dalnet.data.image_files import IMAGE_SUFFIXES

# Label Studio puts eight digits before the names of uploaded files.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")


def _forms(name: str) -> tuple[str, str, str, str]:
    """Return a name as path and as file, each also without suffix, in one Unicode form."""
    path = plain_name(name.replace("\\", "/").removeprefix("./"))
    file = path.rpartition("/")[2]
    stem, suffix = posixpath.splitext(file)
    if suffix.lower() not in IMAGE_SUFFIXES:  # a dot in a name is no suffix
        return path, path, file, file
    return path, path.removesuffix(suffix), file, stem


def match_names(
    names: Iterable[str], files: Sequence[str], *, uploaded: bool = True
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Find the image of each name: with or without folders and suffix, in any Unicode form.

    Args:
        names: as a file of tags gives them.
        files: the images, as POSIX paths relative to their folder.
        uploaded: whether names may have the eight digits before them that Label Studio writes.

    Returns:
        The image of each name that means exactly one; and of each other name the images that it
        may mean, none or several.
    """
    tables: list[defaultdict[str, list[str]]] = [defaultdict(list) for _ in range(4)]
    by_path, by_path_stem, by_file, by_stem = tables
    for known in files:
        for table, form in zip(tables, _forms(known), strict=True):
            table[form].append(known)

    def find(name: str) -> list[str]:
        path, path_stem, file, stem = _forms(name)
        # From the most certain to the least: the whole path, then parts of it.
        return (
            by_path.get(path)
            or by_path_stem.get(path)
            or by_path_stem.get(path_stem)
            or by_file.get(file)
            or by_stem.get(file)
            or by_stem.get(stem)
            or (by_file.get(_UPLOADED.sub("", file)) if uploaded else None)
            or []
        )

    found, open_names = {}, {}
    for name in names:
        # Spaces around a name may be part of it.
        candidates = find(name) or find(name.strip())
        if len(candidates) == 1:
            found[name] = candidates[0]
        else:
            open_names[name] = candidates
    return found, open_names
