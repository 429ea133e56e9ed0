# SPDX-License-Identifier: Apache-2.0
"""Register a folder of images with a file of tags as data sets, described by a small YAML file.

::

    images: /data/pets                  # folder; sub-folders too
    tags: /data/pets.csv                # or null: each sub-folder is a class
    classes: {cat: cat, dog: dog}       # words for the text prompts, in the order of labels
    synonyms: {puppy: dog}              # tags that mean a class
    masks: /data/pet_masks              # or null; evaluation alone opens them
    corrections: /data/corrected        # or null; masks that replace pseudo labels in training
    held_out: [a.jpg, sub/b.jpg]        # images of the val split
    untagged: unknown                   # or none: images without tags show none of the classes

A config names the file as ``DATASETS.DESCRIPTION``; the splits are then the data sets
``tagged_train`` and ``tagged_val``.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from dalnet.data.class_names import plain_name
from dalnet.data.image_files import find_images, walk_files
from dalnet.data.labels import ImageLabels, LabelIndex, names_by_file
from dalnet.data.tags import TagTable, match_names, read_folder_tags, read_tags
from dalnet.documents import read_yaml
from dalnet.errors import UsageError
from dalnet.io import write_text

from .catalog import register

CORRECTED_MASK = "corrected_mask"  # key of a record: mask to use instead of a pseudo label
SPLITS = {"tagged_train": "train", "tagged_val": "val"}  # split of each data set
_UNTAGGED = ("unknown", "none")


@dataclass(frozen=True)
class TaggedImages:
    """The content of the YAML file, see the module; its paths are absolute."""

    images: Path
    tags: Path | None
    classes: Mapping[str, str]
    synonyms: Mapping[str, str] = field(default_factory=dict)
    masks: Path | None = None
    corrections: Path | None = None
    held_out: Sequence[str] = ()
    untagged: str = "unknown"

    def records(self, split: str) -> list[dict[str, Any]]:
        """Return the records of a split; no image and no mask is opened.

        Args:
            split: "train" or "val".

        Returns:
            One dict an image: ``file_name``, ``image_id`` (its path below the folder),
            ``image_labels`` (sorted indices of the classes that it shows) and, where they exist,
            ``unknown_labels`` (sorted indices of which nothing is known), ``sem_seg_file_name``
            and, in training, ``corrected_mask``.

        Raises:
            UsageError: folders that do not exist, files that cannot be read, tags that name no
                image or no class.
        """
        for key in ("images", "masks", "corrections"):
            folder = getattr(self, key)
            if folder and not folder.is_dir():
                hint = f"restore it, or correct {key} in the description"
                raise UsageError("it is no folder", folder, hint)
        files = find_images(self.images)
        if not files:
            raise UsageError("there is no image in it", self.images, "name another folder")
        table = read_tag_table(self.images, self.tags, files)
        names = names_by_file(table, files)
        index = LabelIndex(list(self.classes), self.synonyms)
        held_out = set(self.held_out)
        if missing := held_out - set(files):
            raise UsageError(f"there is no image {min(missing)}", self.images, "correct held_out")
        masks = match_masks(self.masks, files).by_image if self.masks else {}
        corrected = match_masks(self.corrections, files).by_image if self.corrections else {}
        if self.corrections and not corrected:
            hint = "name the masks after their images"
            raise UsageError("no mask in it belongs to an image", self.corrections, hint)
        records = []
        for file in files:
            if (file in held_out) != (split == "val"):
                continue
            labels = index.labels_in_table(table, names.get(file))
            if self.untagged == "none" and (file not in names or table.shown[names[file]] is None):
                labels = ImageLabels([], [])
            record = {
                "file_name": str(self.images / file),
                "image_id": file,
                **labels.as_fields(),
            }
            if file in masks:
                record["sem_seg_file_name"] = str(masks[file])
            if file in corrected and split == "train":
                record[CORRECTED_MASK] = str(corrected[file])
            records.append(record)
        return records

    def save(self, path: Path) -> None:
        """Write the YAML file.

        Raises:
            UsageError: it cannot be written.
        """
        content = asdict(self) | {"held_out": list(self.held_out)}
        for key in ("images", "tags", "masks", "corrections"):
            content[key] = content[key] and str(content[key])
        write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    @classmethod
    def load(cls, path: Path) -> "TaggedImages":
        """Read the YAML file.

        Raises:
            UsageError: unreadable, or of another form.
        """
        hint = "write images, tags and classes"
        content = read_yaml(path, hint)
        try:
            if not isinstance(content, dict):
                raise TypeError(f"it is a {type(content).__name__}")
            if unknown := content.keys() - {part.name for part in fields(cls)}:
                raise ValueError(f"there is no key {sorted(map(str, unknown))[0]!r}")
            untagged = content.get("untagged", "unknown")
            if untagged not in _UNTAGGED:
                raise ValueError(f"untagged is {untagged!r}, not {' or '.join(_UNTAGGED)}")
            return cls(
                images=Path(content["images"]),
                tags=Path(content["tags"]) if content.get("tags") else None,
                classes=_read_classes(content["classes"]),
                masks=Path(content["masks"]) if content.get("masks") else None,
                corrections=Path(content["corrections"]) if content.get("corrections") else None,
                synonyms=_read_words("synonyms", content.get("synonyms") or {}),
                held_out=_read_list("held_out", content.get("held_out") or []),
                untagged=untagged,
            )
        except KeyError as error:
            raise UsageError(f"it has no key {error}", path, hint) from error
        except (TypeError, ValueError) as error:
            what = f"it describes no tagged images ({error})"
            raise UsageError(what, path, hint) from error


def _read_classes(content: Any) -> dict[str, str]:
    """Return the prompt words of each class, by default its name."""
    if isinstance(content, list):
        names = _read_list("classes", content)
        return dict(zip(names, names, strict=True))
    if isinstance(content, dict):
        content = {n: n if words is None else words for n, words in content.items()}
    return _read_words("classes", content)


def _read_words(key: str, content: Any) -> dict[str, str]:
    """Return a mapping of text to text, or raise ``TypeError``."""
    if not isinstance(content, dict):
        raise TypeError(f"{key} is no mapping but {content!r}")
    _read_list(key, [*content, *content.values()])
    return content


def _read_list(key: str, content: Any) -> tuple[str, ...]:
    """Return a list of text as a tuple, or raise ``TypeError``."""
    if not isinstance(content, list):
        raise TypeError(f"{key} is no list but {content!r}")
    for word in content:
        if not isinstance(word, str):  # YAML reads no as False and 007 as 7
            raise TypeError(f"{word!r} in {key} needs quotes")
    return tuple(content)


def read_tag_table(images: Path, tags: Path | None, files: Sequence[str]) -> TagTable:
    """Read a file of tags, or take the sub-folders of ``images`` for the classes.

    Raises:
        UsageError: see :func:`dalnet.data.tags.read_tags` and ``read_folder_tags``.
    """
    return read_tags(tags) if tags else read_folder_tags(images, files)


def classes_of(table: TagTable) -> list[str]:
    """Return the classes of a file of tags: as it declares them, else sorted by name.

    Names are in one Unicode form, so that each is one class however it is written.
    """
    listed = {tag for tags in table.shown.values() for tag in tags or ()}
    return list(dict.fromkeys(map(plain_name, [*table.classes, *sorted(listed)])))


def register_tagged(path: Path) -> None:
    """Register the data sets ``tagged_train`` and ``tagged_val`` of a YAML file.

    Raises:
        UsageError: the file cannot be used.
    """
    described = TaggedImages.load(path)
    words = list(described.classes.values())
    for name, split in SPLITS.items():
        register(name, partial(described.records, split), list(described.classes), words)


class MatchedMasks(NamedTuple):
    """The masks of a folder by image, and the names of those that match no image."""

    by_image: dict[str, Path]
    unused: list[str]


def match_masks(folder: Path, files: Sequence[str]) -> MatchedMasks:
    """Return the mask (PNG) of each image that has one.

    A mask matches an image of the same path or, if there is none, of the same name with more or
    fewer folders above it, both without suffix.

    Args:
        folder: of the masks; sub-folders too.
        files: the images, as POSIX paths relative to their folder.

    Raises:
        UsageError: a mask that matches several images, or a folder that cannot be read.
    """
    masks = {
        path.relative_to(folder).as_posix(): path
        for path in walk_files(folder)
        if path.suffix.lower() == ".png"
    }
    found, _ = match_names(files, list(masks), uploaded=False)
    images: dict[str, list[str]] = defaultdict(list)
    for file, name in found.items():
        images[name].append(file)
    by_image = {}
    for name, candidates in images.items():
        if len(candidates) > 1:
            # An image of the same path goes before images of the same name in other folders.
            path = PurePosixPath(name).with_suffix("")
            own = [
                f
                for f in candidates
                if path in (PurePosixPath(f).with_suffix(""), PurePosixPath(f))
            ]
            candidates = own or candidates
        if len(candidates) > 1:
            what = f"{name} may be the mask of {' or '.join(sorted(candidates))}"
            raise UsageError(what, folder, "name masks as dalnet label does: sub/a.jpg.png")
        by_image[candidates[0]] = masks[name]
    return MatchedMasks(by_image, sorted(masks.keys() - images.keys()))
