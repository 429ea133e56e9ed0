# SPDX-License-Identifier: Apache-2.0
"""Find the image that a name in a file of tags means."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from dalnet.data.class_names import plain_name
from dalnet.data.image_files import IMAGE_SUFFIXES

# Label Studio puts eight digits before the names of uploaded files, and eight others before those
# of files that an export has fetched.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
_FETCHED = re.compile(r"^[0-9a-f]{8}__(?=.)")
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


def _as_uploaded(file: str) -> str:
    """Return the name Label Studio gives an uploaded file: letters, digits, ``-``, ``_``, ``.``."""
    return re.sub(r"[^-\w.]", "", file.strip().replace(" ", "_"))


def _own_names(file: str) -> list[str]:
    """Return the names that uploading gave a file which Label Studio now calls ``file``, if any."""
    fetched = _FETCHED.sub("", file)
    names = dict.fromkeys((fetched, _UPLOADED.sub("", fetched)))
    # An export of COCO has names as they stand in addresses.
    return [_as_uploaded(plain_name(unquote(name))) for name in names if name != file]


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
        uploaded: whether names may be those that Label Studio gives uploaded or fetched files:
            with eight digits before them, without signs as brackets, and with ``_`` for spaces.

    Returns:
        The image of each name that means exactly one; and of each other name the images that it
        may mean, none or several.
    """
    tables: list[defaultdict[str, list[tuple[str, str]]]] = [defaultdict(list) for _ in range(4)]
    by_path, by_path_stem, by_file, by_stem = tables
    by_upload: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for known in files:
        forms = _forms(known)
        for table, form in zip(tables, forms, strict=True):
            table[form].append((_folder(forms[0]), known))
        by_upload[_as_uploaded(forms[2])].append((_folder(forms[0]), known))

    def find(name: str) -> list[str]:
        path, path_stem, file, stem = _forms(name)
        folder = _folder(_UPLOADS.sub("", path) if uploaded else path)
        own_names = _own_names(file) if uploaded else []
        # From the most certain to the least: the whole path, then parts of it.
        candidates = (
            by_path.get(path)
            or by_path_stem.get(path)
            or by_path_stem.get(path_stem)
            or _near(folder, by_file.get(file, ()))
            or _near(folder, by_stem.get(file, ()))
            or _near(folder, by_stem.get(stem, ()))
            or next((by_upload[own] for own in own_names if own in by_upload), [])
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
