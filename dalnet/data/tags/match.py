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
# Where it keeps them, whatever folder they came from.
_UPLOADS = re.compile(r"^/?data/upload/(\d+/)?")


def _forms(name: str) -> tuple[str, str, str, str]:
    """Return a name as path and as file, each also without suffix, in one Unicode form."""
    path = plain_name(name.replace("\\", "/").removeprefix("./"))
    file = path.rpartition("/")[2]
    stem, suffix = posixpath.splitext(file)
    if suffix.lower() not in IMAGE_SUFFIXES:  # a dot in a name is no suffix
        return path, path, file, file
    return path, path.removesuffix(suffix), file, stem


def _folder(path: str) -> str:
    return path.rpartition("/")[0].rstrip("/")


def _near(folder: str, candidates: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the candidates whose folder fits: one of the two paths ends with the other."""
    return [
        (own, known)
        for own, known in candidates
        if not (own and folder)
        or f"/{folder}".endswith(f"/{own}")
        or f"/{own}".endswith(f"/{folder}")
    ]


def match_names(
    names: Iterable[str], files: Sequence[str], *, uploaded: bool = True
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Find the image of each name: with or without folders and suffix, in any Unicode form.

    A name may have more or fewer folders above those of its image, or none, but no other ones.

    Args:
        names: as a file of tags gives them.
        files: the images, as POSIX paths relative to their folder.
        uploaded: whether names may have the eight digits before them that Label Studio writes.

    Returns:
        The image of each name that means exactly one; and of each other name the images that it
        may mean, none or several.
    """
    tables: list[defaultdict[str, list[tuple[str, str]]]] = [defaultdict(list) for _ in range(4)]
    by_path, by_path_stem, by_file, by_stem = tables
    for known in files:
        forms = _forms(known)
        for table, form in zip(tables, forms, strict=True):
            table[form].append((_folder(forms[0]), known))

    def find(name: str) -> list[str]:
        path, path_stem, file, stem = _forms(name)
        folder = _folder(_UPLOADS.sub("", path) if uploaded else path)
        own_file, is_uploaded = _UPLOADED.subn("", file) if uploaded else (file, 0)
        # From the most certain to the least: the whole path, then parts of it.
        candidates = (
            by_path.get(path)
            or by_path_stem.get(path)
            or by_path_stem.get(path_stem)
            or _near(folder, by_file.get(file, ()))
            or _near(folder, by_stem.get(file, ()))
            or _near(folder, by_stem.get(stem, ()))
            or (is_uploaded and by_file.get(own_file))
            or []
        )
        return [known for _, known in candidates]

    found, open_names = {}, {}
    for name in names:
        # Spaces around a name may be part of it.
        candidates = find(name) or find(name.strip())
        if len(candidates) == 1:
            found[name] = candidates[0]
        else:
            open_names[name] = candidates
    return found, open_names
