# SPDX-License-Identifier: Apache-2.0
"""Pack label maps as PASCAL VOC's test server takes them."""

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from dalnet.errors import UsageError
from dalnet.io import atomic_write

from .predictions import read_predictions

# comp6: segmentation by methods that have seen data beyond VOC's own, as a pre-trained encoder.
VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


def write_voc_archive(
    predictions: Path, records: Sequence[dict[str, Any]], classes: Sequence[str], output: Path
) -> None:
    """Pack the label maps of a split.

    Args:
        predictions: folder of one measurement of a dump.
        records: all images of the split.
        classes: VOC's 20, in its order.
        output: the archive, ``.tar`` or compressed ``.tgz``, ``.tar.gz``.

    Raises:
        UsageError: another suffix, or see :func:`dalnet.export.predictions.read_predictions`.
    """
    name = output.name.lower()
    if not name.endswith((".tar", ".tgz", ".tar.gz")):
        hint = "name it .tar, .tgz or .tar.gz"
        raise UsageError("the archive has another suffix", where=output, hint=hint)
    mode: Literal["w", "w:gz"] = "w" if name.endswith(".tar") else "w:gz"
    with (
        atomic_write(output) as unfinished,
        tarfile.open(unfinished, mode, format=tarfile.USTAR_FORMAT) as archive,
    ):
        for file, *_ in read_predictions(predictions, records, classes):
            archive.add(file, f"{VOC_FOLDER}/{file.name}", filter=_make_anonymous)


def _make_anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    # The archive is then the same whoever packs it, and when.
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
