# SPDX-License-Identifier: Apache-2.0
"""Image-level labels: reading them from a VOC-layout tree, and images that have none."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dalnet.errors import UsageError

TAGS_FILE = "image_tags.json"
_TAGS_CONTENT = 'expected {"image id": ["class name", ...]}'
_NAMED_IN_LOG = 20

logger = logging.getLogger(__name__)


def read_image_labels(
    root: Path, image_ids: Sequence[str], classes: Sequence[str]
) -> dict[str, list[int]]:
    """Read the classes that each image shows from a VOC-layout tree.

    The source is ``Annotations/*.xml`` (every object, difficult ones too) or, where the tree has
    no such folder, ``image_tags.json`` = ``{"image id": ["class name", ...]}``.

    Args:
        root: folder that holds ``ImageSets``.
        image_ids: images to look up.
        classes: foreground class names; a label is an index into them.

    Returns:
        For each id its sorted labels; empty where the source says nothing about the image.

    Raises:
        UsageError: no source of labels, a malformed one, or a class that is not in ``classes``.
    """
    index = {name: label for label, name in enumerate(classes)}
    annotations, tags_file = root / "Annotations", root / TAGS_FILE
    if annotations.is_dir():
        if tags_file.is_file():
            logger.warning("%s is not read, since %s is there.", tags_file, annotations)
        paths = {image_id: annotations / f"{image_id}.xml" for image_id in image_ids}
        return {i: _to_labels(_names_in_xml(path), index, path) for i, path in paths.items()}
    if not tags_file.is_file():
        raise UsageError(
            f"no image-level labels: expected Annotations/*.xml or {TAGS_FILE}",
            where=root,
            hint="dalnet prepare labels makes the latter from a cls_labels*.npy file",
        )
    tags = _read_tags(tags_file)
    return {i: _to_labels(tags.get(i, ()), index, f"{tags_file}, image {i}") for i in image_ids}


def _names_in_xml(path: Path) -> list[str]:
    try:
        tree = ElementTree.parse(path)
    except FileNotFoundError:
        return []
    # The last two: encodings that the parser cannot read (GB 2312, say) or does not know.
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as e:
        raise UsageError(f"not a readable VOC annotation ({e})", path, "restore it") from e
    return [(node.findtext("name") or "").strip() for node in tree.iterfind("object")]


def _read_tags(path: Path) -> dict[str, list[str]]:
    try:
        tags = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UsageError(f"not readable JSON ({e})", path, _TAGS_CONTENT) from e
    if not isinstance(tags, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in tags.values()
    ):
        raise UsageError("it does not hold image-level labels", path, _TAGS_CONTENT)
    return tags


def _to_labels(names: Sequence[str], index: Mapping[str, int], where: Path | str) -> list[int]:
    for name in names:
        if name not in index:
            known = ", ".join(index)
            hint = f"correct it, or register the data set with that class (known: {known})"
            raise UsageError(f"unknown class {name!r}", where, hint)
    return sorted({index[name] for name in names})


def filter_unlabeled(dicts: list[dict[str, Any]], policy: str) -> list[dict[str, Any]]:
    """Leave out the images without a label, which cannot supervise anything.

    Args:
        dicts: data set dicts with ``image_id`` and ``image_labels``.
        policy: ``"skip"`` names them in the log and drops them; ``"refuse"`` raises.

    Returns:
        The dicts whose ``image_labels`` are not empty.

    Raises:
        UsageError: an unlabeled image under ``"refuse"``, or none labeled.
    """
    labeled = [record for record in dicts if record["image_labels"]]
    unlabeled = [str(record["image_id"]) for record in dicts if not record["image_labels"]]
    if not unlabeled:
        return labeled
    rest = len(unlabeled) - _NAMED_IN_LOG
    names = ", ".join(unlabeled[:_NAMED_IN_LOG]) + (f" and {rest} more" if rest > 0 else "")
    if policy == "refuse" or not labeled:
        raise UsageError(
            f"{len(unlabeled)} of {len(dicts)} training images have no label: {names}",
            where="DATASETS.UNLABELED_IMAGES" if policy == "refuse" else "DATASETS.TRAIN",
            hint='label images, take them off the list, or let the policy "skip" them',
        )
    logger.warning("skipped %d image(s) without a label: %s", len(unlabeled), names)
    return labeled


def warn_of_unlabeled(split: str, dicts: Sequence[Mapping[str, Any]]) -> None:
    """Say in the log on how many data set dicts of a split only segmentation is scored."""
    unlabeled = sum(not record["image_labels"] for record in dicts)
    if unlabeled:
        logger.warning(
            "%d of %d images of %s have no image-level label: CAMs and pseudo labels are not "
            "scored on them.",
            unlabeled,
            len(dicts),
            split,
        )
