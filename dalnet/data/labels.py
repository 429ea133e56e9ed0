# SPDX-License-Identifier: Apache-2.0
"""Read image-level labels: of each class, that an image shows it, does not, or that it is unknown.

A record of a data set has ``image_labels``, the sorted indices of the classes that the image shows.
Where it is unknown of some classes whether the image shows them, the record also has
``unknown_labels``, the sorted indices of these classes.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dalnet.documents import parse_xml
from dalnet.errors import UsageError, printable
from dalnet.io import read_bytes

from .class_names import plain_name
from .tags import TagTable, match_names, read_tags

TAGS_FILES = ("image_tags.json", "image_tags.csv")
TAGS_FILE = TAGS_FILES[0]
_NAMED_IN_LOG = 20

logger = logging.getLogger(__name__)
Record = dict[str, Any]


class ImageLabels(NamedTuple):
    """Sorted indices of the classes that an image shows, and of those that it may show or not."""

    shown: list[int]
    unknown: list[int]

    def as_fields(self) -> Record:
        """Return the labels as fields of a record."""
        fields: Record = {"image_labels": self.shown}
        return fields | {"unknown_labels": self.unknown} if self.unknown else fields


def has_labels(record: Mapping[str, Any]) -> bool:
    """Return whether a record names classes that its image shows, or says that it shows none.

    Where no class is named and some are unknown, nothing can be measured with its labels.
    """
    return bool(record["image_labels"]) or not record.get("unknown_labels")


def is_known(record: Mapping[str, Any], num_classes: int) -> bool:
    """Return whether anything is known of an image: without it, training leaves the image out."""
    return len(record.get("unknown_labels", ())) < num_classes


def read_image_labels(
    root: Path, files: Sequence[str], listed: Sequence[str], classes: Sequence[str]
) -> dict[str, ImageLabels]:
    """Read the classes that each image shows from a VOC-layout tree.

    The source is ``Annotations/*.xml`` (every object, difficult ones too) or, where the tree has
    none, ``image_tags.json`` or ``.csv`` (see :func:`dalnet.data.tags.read_tags`). An image without
    objects or tags shows no class; of an image that the source does not name, nothing is known.

    Args:
        root: folder that holds ``ImageSets``.
        files: names of all images in ``root/JPEGImages``.
        listed: names of the images to look up.
        classes: foreground class names; a label is an index into them.

    Returns:
        The labels of each listed image by its name.

    Raises:
        UsageError: no source of labels or two, a malformed one, a name in it that means no image
            or several, or a class that is not in ``classes``.
    """
    index = LabelIndex(classes)
    annotations = root / "Annotations"
    tags = [root / name for name in TAGS_FILES if (root / name).is_file()]
    xml_files = {
        plain_name(path.stem): path
        for path in (sorted(annotations.iterdir()) if annotations.is_dir() else ())
        if path.suffix.lower() == ".xml"
    }
    if xml_files:
        if tags:
            logger.warning("%s is not read, since %s has annotations.", tags[0], annotations)
        paths = {file: xml_files.get(plain_name(os.path.splitext(file)[0])) for file in listed}
        return {
            file: index.labels(_names_in_xml(path) if path else None, path)
            for file, path in paths.items()
        }
    if len(tags) != 1:
        raise UsageError(
            "image-level labels in two files"
            if tags
            else f"no image-level labels: expected Annotations/*.xml, {' or '.join(TAGS_FILES)}",
            where=root,
            hint="move one of them away"
            if tags
            else "dalnet prepare labels makes a file of tags from a cls_labels*.npy file",
        )
    table = read_tags(tags[0])
    names = names_by_file(table, files)
    return {file: index.labels_in_table(table, names.get(file)) for file in listed}


class LabelIndex:
    """Finds the indices of classes by their names, whatever the Unicode form of a name."""

    def __init__(self, classes: Sequence[str], synonyms: Mapping[str, str] | None = None) -> None:
        """Number the classes in their order; ``synonyms`` maps other words to a class."""
        self.numbers = {plain_name(name): number for number, name in enumerate(classes)}
        self._synonyms = {
            plain_name(word): plain_name(name) for word, name in (synonyms or {}).items()
        }

    def labels(
        self, names: Sequence[str] | None, where: object, unknown: Iterable[str] = ()
    ) -> ImageLabels:
        """Return the labels of an image that shows the classes ``names``.

        Args:
            names: class names or synonyms; None where nothing is known of the image.
            where: source of the names, for a message.
            unknown: classes for which it is unknown whether the image shows them.

        Raises:
            UsageError: a name that is neither a class nor a synonym.
        """
        if names is None:
            return ImageLabels([], sorted(self.numbers.values()))
        shown = self._find(names, where)
        # A synonym may be unknown where its class is shown.
        return ImageLabels(shown, [n for n in self._find(unknown, where) if n not in shown])

    def labels_in_table(self, table: TagTable, name: str | None) -> ImageLabels:
        """Return the labels of the image that a table lists as ``name``.

        ``name`` is None for an image that the table does not list.
        """
        if name is None:
            return self.labels(None, table.path)
        # Where a table declares its tags, classes that it does not declare are unknown.
        tags = {plain_name(tag) for tag in table.classes}
        declared = {self._synonyms.get(tag, tag) for tag in tags} or self.numbers.keys()
        unknown = [*table.unknown.get(name, ()), *(self.numbers.keys() - declared)]
        return self.labels(table.shown[name], f"{table.path}, {table.places[name]}", unknown)

    def _find(self, names: Iterable[str], where: object) -> list[int]:
        labels = set()
        for name in names:
            label = self.numbers.get(self._synonyms.get(plain_name(name), plain_name(name)))
            if label is None:
                known = ", ".join(self.numbers)
                hint = f"correct it, or make it a class (known: {known})"
                raise UsageError(f"unknown class {name!r}", where, hint)
            labels.add(label)
        return sorted(labels)


def names_by_file(table: TagTable, files: Sequence[str]) -> dict[str, str]:
    """Return for each image the name by which a file of tags lists it.

    Args:
        table: the file of tags.
        files: all images, as POSIX paths relative to their folder.

    Raises:
        UsageError: a name matches no image or several, or two names match the same image and have
            different tags.
    """
    found, unclear = match_names(table.shown, files)
    for name, candidates in unclear.items():
        meant = f"{' or '.join(candidates)}" if candidates else "no image"
        what = f"{name!r} means {meant} ({len(unclear)} of {len(table.shown)} names are unclear)"
        hint = "write file names, and take images that are not there off the file"
        raise UsageError(what, f"{table.path}, {table.places[name]}", hint)
    names: dict[str, str] = {}
    for name, file in found.items():
        other = names.setdefault(file, name)
        if _content(table, name) != _content(table, other):
            what = f"{other!r} and {name!r} mean {file} and differ"
            raise UsageError(what, f"{table.path}, {table.places[name]}", "keep one of them")
    return names


def _content(table: TagTable, name: str) -> tuple[list[str] | None, list[str] | None]:
    """Return the sorted tags of a name and its unknown ones; None where nothing is known."""
    shown = table.shown[name]
    return None if shown is None else sorted(shown), table.unknown.get(name)


def _names_in_xml(path: Path) -> list[str]:
    """Return the names of the objects in an annotation in VOC's format."""
    hint = "expected VOC's <annotation> of <object>s with a <name>, best in UTF-8"
    root = parse_xml(read_bytes(path, hint), path, hint)
    names = [(node.findtext("name") or "").strip() for node in root.iterfind("object")]
    # Without their name space; other tools put objects elsewhere in the tree.
    tags = [node.tag.rpartition("}")[2].lower() for node in root.iter()]
    if root.tag != "annotation" or not all(names) or tags.count("object") != len(names):
        raise UsageError("not a VOC annotation", path, hint)
    return names


def filter_unlabeled(dicts: list[Record], num_classes: int, policy: str) -> list[Record]:
    """Return the records without those of images of which nothing is known.

    Nothing can be learned from them. Images that are known to show no class stay, as negative
    examples of every class.

    Args:
        dicts: records with ``image_id`` and ``image_labels``.
        num_classes: C, without the background.
        policy: ``"skip"`` leaves such images out and names them in the log; ``"refuse"`` raises.

    Returns:
        The records of which something is known.

    Raises:
        UsageError: an image of which nothing is known under ``"refuse"``, or no image that shows
            a class.
    """

    unlabeled = [str(record["image_id"]) for record in dicts if not is_known(record, num_classes)]
    rest = len(unlabeled) - _NAMED_IN_LOG
    names = ", ".join(unlabeled[:_NAMED_IN_LOG]) + (f" and {rest} more" if rest > 0 else "")
    what = f"{len(unlabeled)} of {len(dicts)} training images without a label"
    if unlabeled and policy == "refuse":
        hint = 'label them, take them off the list, or let this key "skip" them'
        raise UsageError(f"{what}: {names}", "DATASETS.UNLABELED_IMAGES", hint)
    labeled = [record for record in dicts if is_known(record, num_classes)]
    if not any(record["image_labels"] for record in labeled):
        hint = "train on a split with image-level labels"
        raise UsageError(f"no image shows a class; {what}", "DATASETS.TRAIN", hint)
    if unlabeled:
        logger.warning("skipped %s: %s", what, printable(names))
    return labeled


def warn_of_unlearnable(dicts: Sequence[Record], class_names: Sequence[str]) -> None:
    """Log a warning about classes that cannot be learned: shown by all images, or by none.

    Args:
        dicts: the records of the training images.
        class_names: the C foreground classes.
    """
    shown = Counter(label for record in dicts for label in record["image_labels"])
    unknown = Counter(label for record in dicts for label in record.get("unknown_labels", ()))
    nowhere = [name for label, name in enumerate(class_names) if not shown[label]]
    everywhere = [
        name
        for label, name in enumerate(class_names)
        if shown[label] and shown[label] + unknown[label] == len(dicts)
    ]
    if everywhere:
        logger.warning(
            "no training image is known to be without %s: a class is learned from images with and "
            "without it; add images that show none of the classes, tagged with [].",
            ", ".join(everywhere),
        )
    if nowhere:
        logger.warning("no training image shows %s.", ", ".join(nowhere))


def warn_of_unlabeled(split: str, dicts: Sequence[Mapping[str, Any]]) -> None:
    """Log a warning about records without image-level labels, for which no CAM can be scored."""
    unlabeled = sum(not has_labels(record) for record in dicts)
    if unlabeled:
        logger.warning(
            "%d of %d images of %s have no image-level label: CAMs and pseudo labels are not "
            "scored on them.",
            unlabeled,
            len(dicts),
            split,
        )
