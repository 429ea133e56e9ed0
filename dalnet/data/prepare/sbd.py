# SPDX-License-Identifier: Apache-2.0
"""The SBD annotations (Hariharan et al., ICCV 2011) as VOC's ``train_aug`` split."""

from pathlib import Path

import numpy as np

from dalnet.data.datasets.catalog import IGNORE_LABEL
from dalnet.data.datasets.voc import VOC_CLASSES
from dalnet.data.image_io import read_mask
from dalnet.errors import UsageError
from dalnet.io import read_lines, write_text

from .masks import MaskSource, MaskSummary, load_mat, write_masks

_SPLITS = ("train", "val")
_AGAIN = "unpack the archive again"


def prepare_sbd(sbd: Path, voc: Path, workers: int | None = None) -> tuple[MaskSummary, int]:
    """Write ``SegmentationClassAug/*.png`` and ``ImageSets/Segmentation/train_aug.txt``.

    The list is SBD's train and val and VOC's train without VOC's val: 10,582 images for the full
    releases. Where VOC has an official mask, that one is taken.

    Args:
        sbd: SBD's folder ``dataset`` with ``cls/*.mat``, ``train.txt`` and ``val.txt``.
        voc: the folder VOC2012.
        workers: number of processes; all cores where not given.

    Returns:
        What was written, and the length of the list.

    Raises:
        UsageError: a list or a mask is missing, unreadable or of other classes.
    """
    official = {split: _read_ids(voc / "ImageSets" / "Segmentation", split) for split in _SPLITS}
    extra = set().union(*(_read_ids(sbd, split) for split in _SPLITS))
    listed = sorted((extra | official["train"]) - official["val"])

    target = voc / "SegmentationClassAug"
    files = {target / f"{i}.png": sbd / "cls" / f"{i}.mat" for i in sorted(extra)}
    for image_id in sorted(set().union(*official.values())):
        files[target / f"{image_id}.png"] = voc / "SegmentationClass" / f"{image_id}.png"
    sources = {
        target: MaskSource(file, file.stat().st_mtime if file.exists() else 0.0)
        for target, file in files.items()
    }
    summary = write_masks(sources, read_source_mask, workers)

    # Last, so that a list never names masks that are not there.
    path = voc / "ImageSets" / "Segmentation" / "train_aug.txt"
    write_text(path, "".join(f"{image_id}\n" for image_id in listed))
    return summary, len(listed)


def read_source_mask(path: Path) -> np.ndarray:
    """Read an SBD ``.mat`` or an official VOC ``.png``: uint8 [H, W], 0..20 and 255.

    Raises:
        UsageError: missing, unreadable, or with other values.
    """
    if path.suffix != ".mat":
        return read_mask(str(path), num_classes=len(VOC_CLASSES) + 1)
    try:
        mask = np.asarray(load_mat(path, simplify_cells=True)["GTcls"]["Segmentation"])
        wrong = np.setdiff1d(mask, [*range(len(VOC_CLASSES) + 1), IGNORE_LABEL])
    except Exception as e:  # scipy and zlib have errors of their own for a damaged file.
        raise UsageError(f"the mask cannot be read ({e})", path, _AGAIN) from e
    if wrong.size or mask.ndim != 2:
        expected = f"[H, W] of 0..{len(VOC_CLASSES)} and {IGNORE_LABEL}"
        what = f"the mask is {list(mask.shape)} with the values {wrong[:3].tolist()}"
        raise UsageError(f"{what}, not {expected}", path, _AGAIN)
    return mask.astype(np.uint8)


def _read_ids(folder: Path, split: str) -> set[str]:
    hint = "name the folder VOC2012 of VOC's release and the folder dataset of SBD's benchmark.tgz"
    return set(read_lines(folder / f"{split}.txt", hint))
