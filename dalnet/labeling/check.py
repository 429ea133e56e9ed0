# SPDX-License-Identifier: Apache-2.0
"""Finds what is wrong with tagged images before a training starts."""

import difflib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from dalnet.data.class_names import plain_name
from dalnet.data.datasets.catalog import refuse_other_words
from dalnet.data.datasets.tagged import classes_of, match_masks, read_tag_table
from dalnet.data.image_files import find_images
from dalnet.data.image_io import exif_orientation, open_image, read_mask, to_rgb
from dalnet.data.tags import TagTable, match_names
from dalnet.errors import UsageError

from .mask_values import read_mask_values

_THUMBNAIL = 128  # pixels of the longer side
_RARE = 0.02  # fraction of the images below which a class is rare
_FEW_IMAGES = 20  # of a class
_ALIKE = 0.85  # ratio of equal letters above which two tags look like one
_NAMED = 5  # examples in a message


@dataclass(frozen=True)
class Note:
    """One finding.

    Attributes:
        level: "error", which a training cannot start with; "warning"; or "note".
        text: one sentence.
    """

    level: str
    text: str


@dataclass
class Findings:
    """What was found out about a folder of tagged images.

    Attributes:
        files: the images, POSIX paths below the folder.
        tags: of each image, None where nothing is known.
        classes: names, in the order of labels.
        sizes: (width, height) of each readable image, upright.
        notes: the errors first.
        thumbnails: small RGB images by file, of some images of each class.
        masked: images that a mask belongs to.
    """

    files: list[str]
    tags: dict[str, list[str] | None]
    classes: list[str]
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    thumbnails: dict[str, Image.Image] = field(default_factory=dict)
    masked: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Return how many images show each class."""
        shown = Counter(tag for tags in self.tags.values() for tag in tags or ())
        return {name: shown[name] for name in self.classes}

    @property
    def can_start(self) -> bool:
        """Return whether a training can start."""
        return not any(note.level == "error" for note in self.notes)

    def add(self, level: str, text: str, examples: Sequence[str] = ()) -> None:
        """Add a note; ``examples`` are counted, and the first of them named."""
        if examples:
            more = f" and {len(examples) - _NAMED} more" if len(examples) > _NAMED else ""
            text = f"{text}: {', '.join(examples[:_NAMED])}{more}"
        self.notes.append(Note(level, text))


def check_images(
    images: Path,
    tags: Path | None,
    *,
    classes: Sequence[str] = (),
    synonyms: Mapping[str, str] | None = None,
    masks: Path | None = None,
    untagged: str = "unknown",
    thumbnails: int = 6,
) -> Findings:
    """Look at every image, its tags and its mask.

    Args:
        images: folder, searched with its sub-folders.
        tags: the file of tags; None takes the sub-folders for classes.
        classes: names in the order of labels; by default all tags.
        synonyms: the class that another tag means.
        masks: folder of label maps; they are opened.
        untagged: what an image without a tag shows, "unknown" or "none" of the classes.
        thumbnails: at most as many images of each class are kept small.

    Raises:
        UsageError: the folder or the file of tags cannot be read at all.
    """
    if not images.is_dir():
        raise UsageError(f"{images} is no folder", "images", "name an existing one")
    files = find_images(images)
    if not files:
        raise UsageError("there is no image in it", images, "name the folder of the images")
    table = read_tag_table(images, tags, files)
    findings = Findings(files, {}, list(map(plain_name, classes or classes_of(table))))
    meant = {plain_name(tag): plain_name(name) for tag, name in (synonyms or {}).items()}
    _match_tags(findings, table, meant)
    _take_untagged(findings, untagged)
    _check_tags(findings)
    _look_at_images(findings, images, thumbnails)
    if masks:
        _check_masks(findings, masks)
    order = ("error", "warning", "note")
    findings.notes.sort(key=lambda note: order.index(note.level))
    return findings


def _match_tags(findings: Findings, table: TagTable, synonyms: Mapping[str, str]) -> None:
    """Give each image its tags, and note names and tags that fit nothing."""
    found, open_names = match_names(table.shown, findings.files)
    missing = [name for name, candidates in open_names.items() if not candidates]
    ambiguous = [name for name, candidates in open_names.items() if candidates]
    if missing:
        findings.add("error", f"{len(missing)} tagged names mean no image", missing)
    if ambiguous:
        findings.add("error", f"{len(ambiguous)} names mean several images", ambiguous)
    doubled = [file for file, times in Counter(found.values()).items() if times > 1]
    if doubled:
        findings.add("error", f"{len(doubled)} images are named twice", doubled)
    unknown: Counter[str] = Counter()
    for name, file in found.items():
        shown = table.shown[name]
        if shown is not None:
            shown = list(dict.fromkeys(synonyms.get(tag, tag) for tag in map(plain_name, shown)))
            unknown.update(tag for tag in shown if tag not in findings.classes)
            shown = [tag for tag in shown if tag in findings.classes]
        findings.tags[file] = shown
    if unknown:
        named = [f"{tag} ({times})" for tag, times in unknown.most_common()]
        findings.add("error", f"{len(unknown)} tags are no classes", named)


def _take_untagged(findings: Findings, untagged: str) -> None:
    """Take images without a tag as showing no class, or note that they are left out."""
    silent = [file for file in findings.files if findings.tags.get(file) is None]
    if untagged == "none":
        findings.tags |= {file: [] for file in silent}
    elif len(silent) == len(findings.files):
        findings.add("error", "no image has a tag")
    elif silent:
        text = f"{len(silent)} of {len(findings.files)} images have no known tags and are left out"
        findings.add("warning", text, silent)


def _check_tags(findings: Findings) -> None:
    """Note classes that cannot be learned, or not well, from these tags."""
    known = [set(tags) for tags in findings.tags.values() if tags is not None]
    counts = findings.counts
    empty = [file for file, tags in findings.tags.items() if tags == []]
    if empty:
        # Exports of annotation tools do not tell them from those that nobody has looked at.
        text = f"{len(empty)} of {len(findings.files)} images are taken to show none of the classes"
        findings.add("note", text, empty)
    for name in counts:
        try:
            refuse_other_words([name], name)
        except UsageError as error:
            findings.add("error", str(error))
        words = name.split()
        if len(words) > 1 and counts.keys() >= {*words}:
            findings.add("warning", f"the tag {name!r} is of other tags; write cat;dog for two")
    for name, count in counts.items():
        if not count:
            findings.add("error", f"no image shows {name}")
        elif count == len(known):
            text = f"every image shows {name}: nothing tells it apart from the background"
            findings.add("warning", f"{text}; add images without it")
        elif count < _FEW_IMAGES or count < _RARE * len(known):
            findings.add("warning", f"only {count} images show {name}")
    for first, second in combinations([name for name in counts if counts[name]], 2):
        both = sum({first, second} <= tags for tags in known)
        if both and both == counts[first] == counts[second]:
            text = f"{first} and {second} are never apart: nothing tells one from the other"
            findings.add("warning", text)
    for first, second in combinations(findings.classes, 2):
        alike = difflib.SequenceMatcher(None, first.casefold(), second.casefold()).ratio()
        if alike > _ALIKE or first.casefold().rstrip("s") == second.casefold().rstrip("s"):
            findings.add("warning", f"the tags {first!r} and {second!r} look like one")


def _look_at_images(findings: Findings, images: Path, thumbnails: int) -> None:
    """Open every image: note what is odd about it, keep sizes and thumbnails."""
    damaged, turned, several, hashes = [], [], [], defaultdict(list)
    kept: Counter[str] = Counter()
    for file in tqdm(findings.files, desc="images", unit="image", disable=None):
        try:
            with open_image(str(images / file), "image") as opened:
                if exif_orientation(opened) > 1:
                    turned.append(file)
                # What a camera's MPO has beside its first image is another view of it.
                if getattr(opened, "is_animated", False) and opened.format != "MPO":
                    several.append(file)
                pixels = to_rgb(opened, file)
        except UsageError as error:
            damaged.append(f"{file} ({error.what})")
            continue
        image = Image.fromarray(pixels)
        findings.sizes[file] = image.size
        hashes[str(imagehash.phash(image))].append(file)
        wanted = [name for name in findings.tags.get(file) or () if kept[name] < thumbnails]
        if wanted:
            kept.update(wanted)
            image.thumbnail((_THUMBNAIL, _THUMBNAIL))
            findings.thumbnails[file] = image
    if damaged:
        text = f"{len(damaged)} images cannot be read; restore, convert or remove them"
        findings.add("error", text, damaged)
    if several:
        text = f"{len(several)} files hold several images, of which the first is used"
        findings.add("warning", text, several)
    if turned:
        text = f"{len(turned)} images are turned by EXIF; masks must fit the upright images"
        findings.add("note", text, turned)
    _note_duplicates(findings, hashes)


def _note_duplicates(findings: Findings, hashes: Mapping[str, Sequence[str]]) -> None:
    groups = [files for files in hashes.values() if len(files) > 1]
    if not groups:
        return
    findings.add(
        "note", f"{len(groups)} groups of images look alike", [" = ".join(g) for g in groups]
    )
    clashing = []
    for group in groups:
        known = (findings.tags.get(file) for file in group)
        if len({tuple(sorted(tags)) for tags in known if tags is not None}) > 1:
            clashing.append(" / ".join(group))
    if clashing:
        findings.add("warning", f"{len(clashing)} of them have different tags", clashing)


def _check_masks(findings: Findings, masks: Path) -> None:
    """Note masks that do not fit their image, and classes that tags and masks disagree on."""
    found, unused = match_masks(masks, findings.files)
    findings.masked = list(found)
    if not found:
        findings.add("error", f"no PNG in {masks} is called like an image")
    if unused:
        findings.add("warning", f"{len(unused)} masks are called like no image", unused)
    values = read_mask_values(masks, findings.classes)
    table = np.arange(256)
    if values is not None:
        table = np.full(256, 256)
        table[list(values)] = list(values.values())
    wrong, without_pixel, without_tag = [], Counter[str](), Counter[str]()
    for file, path in tqdm(found.items(), desc="masks", unit="mask", disable=None):
        name = path.relative_to(masks).as_posix()
        if file not in findings.sizes:
            continue
        width, height = findings.sizes[file]
        try:
            known = len(findings.classes) + 1 if values is None else None
            found_values = np.unique(read_mask(str(path), (height, width), known))
        except UsageError as error:
            wrong.append(f"{name} ({error.what})")
            continue
        labels = table[found_values]
        if 256 in labels:
            wrong.append(f"{name} (the value {found_values[labels == 256][0]} means no class)")
            continue
        shown = {findings.classes[label - 1] for label in labels if 0 < label < 255}
        tags = findings.tags.get(file)
        without_pixel.update(set(tags or ()) - shown)
        without_tag.update(shown - set(tags or ()) if tags is not None else ())
    if wrong:
        findings.add("error", f"{len(wrong)} masks do not fit", wrong)
    for counter, text in (
        (without_pixel, "is tagged in images whose mask has no pixel of it"),
        (without_tag, "is in masks of images that are not tagged with it"),
    ):
        for name, count in counter.items():
            findings.add("warning", f"{name} {text} ({count})")
