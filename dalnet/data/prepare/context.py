# SPDX-License-Identifier: Apache-2.0
"""PASCAL Context (Mottaghi et al., CVPR 2014) as label maps of its 59 frequent classes."""

from pathlib import Path

import numpy as np

from dalnet.errors import UsageError
from dalnet.io import read_lines, write_text

from .masks import MaskSource, MaskSummary, load_mat, write_masks

# The release numbers 459 things and stuffs; the 59 that are evaluated, in the order of labels.
FREQUENT_IDS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113),
    *(115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324),
    *(326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
_MOST_IDS = 600  # more than any release has
_SPLIT = "val"


def prepare_context(
    release: Path, voc: Path, workers: int | None = None
) -> tuple[MaskSummary, int]:
    """Write ``SegmentationClassContext/*.png`` and ``ImageSets/SegmentationContext/val.txt``.

    The split is VOC 2010's own list of images, ``ImageSets/Main/val.txt``: 5,105 for the full
    releases.

    Args:
        release: the folder ``trainval`` of the release, with a ``.mat`` an image.
        voc: the folder VOC2010.
        workers: number of processes; all cores where not given.

    Returns:
        What was written, and the length of the list.

    Raises:
        UsageError: a list or a file is missing, unreadable or something else.
    """
    hint = "name the folder VOC2010 of VOC's release"
    listed = read_lines(voc / "ImageSets" / "Main" / f"{_SPLIT}.txt", hint)
    sources = {}
    for name in listed:
        file = release / f"{name}.mat"
        if not file.is_file():
            raise UsageError("there is no such file", file, "name the folder trainval of Context")
        target = voc / "SegmentationClassContext" / f"{name}.png"
        sources[target] = MaskSource(file, file.stat().st_mtime)
    summary = write_masks(sources, read_context_mask, workers)
    # Last, so that a list never names masks that are not there.
    path = voc / "ImageSets" / "SegmentationContext" / f"{_SPLIT}.txt"
    write_text(path, "".join(f"{name}\n" for name in listed))
    return summary, len(listed)


def read_context_mask(path: Path) -> np.ndarray:
    """Read a ``.mat`` of the release: uint8 [H, W], 0 for all but the 59 frequent classes.

    Raises:
        UsageError: unreadable, or no map of ids.
    """
    again = "unpack the archive again"
    try:
        ids = np.asarray(load_mat(path)["LabelMap"])
        fits = ids.ndim == 2 and ids.size > 0 and 0 <= ids.min() <= ids.max() < _MOST_IDS
    except Exception as e:  # scipy and zlib have errors of their own for a damaged file.
        raise UsageError(f"the mask cannot be read ({e})", path, again) from e
    if not fits:
        raise UsageError(f"the mask {list(ids.shape)} is no map of Context's ids", path, again)
    table = np.zeros(_MOST_IDS, np.uint8)
    table[list(FREQUENT_IDS)] = np.arange(1, len(FREQUENT_IDS) + 1)
    return table[ids.astype(np.int64)]
