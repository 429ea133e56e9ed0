# SPDX-License-Identifier: Apache-2.0
"""Write label maps of tagged images: the network may choose only among an image's own tags."""

import contextlib
import csv
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from dalnet.data.datasets.tagged import TaggedImages
from dalnet.data.image_io import read_image, read_mask, write_mask
from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError
from dalnet.io import atomic_write, write_text
from dalnet.prediction import Predictor
from dalnet.prediction.prediction import Prediction

from .formats import WRITERS, LabeledImage, mask_names, require_text
from .manifest import Finished, Manifest

IMAGES, MASKS, CONFIDENCE, OVERLAYS = "images", "masks", "confidence", "overlays"
META_FILE, UNCERTAIN_FILE = "dataset_meta.json", "uncertain.csv"
# Limits beyond which a person should look at a label map.
_FEW_PIXELS = 0.002  # fraction of the image that has a tag's label
_MANY_PIXELS = 0.95  # fraction of the image that has one label
_LOW_CONFIDENCE = 0.7  # mean over the image
_MANY_REGIONS = 10  # connected regions for each tag
_SPECK = 0.0005  # fraction of the image; smaller regions, which a CRF leaves, do not count
# Words of the reasons of find_doubt, the surest signs of a wrong label map first: a network that
# has missed an object is often confident.
_DOUBTS = ("but hardly a pixel", "nearly the whole image", "is unsure", "it falls into")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaggedImage:
    """One image to be labeled.

    Attributes:
        path: the image.
        file: its path below the folder of the images, POSIX.
        tags: the names of the classes that it shows; empty for background only.
    """

    path: Path
    file: str
    tags: list[str]


def tagged_images(described: TaggedImages) -> tuple[list[TaggedImage], int]:
    """Return the images of a data set, held-out ones too, and how many others have no known tags.

    Raises:
        UsageError: see :meth:`TaggedImages.records`.
    """
    names = list(described.classes)
    images, unknown = [], 0
    for record in [*described.records("train"), *described.records("val")]:
        tags = [names[label] for label in record["image_labels"]]
        if not tags and record.get("unknown_labels"):
            unknown += 1
            continue
        images.append(TaggedImage(Path(record["file_name"]), record["image_id"], tags))
    return sorted(images, key=lambda image: image.file), unknown


def label_images(
    predictor: Predictor,
    images: Sequence[TaggedImage],
    output: Path,
    settings: Mapping[str, Any],
    *,
    source: str = "sem_seg",
    overlays: bool = False,
    overwrite: bool = False,
) -> int:
    """Write label maps, confidence maps and the list of uncertain images.

    If an earlier call with the same settings was interrupted, images that it has finished are not
    labeled again. ``output`` gets ``images/`` (links, or copies where the disk has none),
    ``masks/`` (PNG with a palette, 0 background, 1..C the classes), ``dataset_meta.json``,
    ``confidence/``, ``uncertain.csv`` and ``manifest.jsonl``. An image that cannot be read is left
    out and named in the log.

    Args:
        predictor: the model.
        images: each with its tags.
        output: the folder.
        settings: what else the label maps depend on, as the hash of the weights; plain values.
        source: "sem_seg" or "cam", which is used to choose among an image's tags.
        overlays: also write ``overlays/``.
        overwrite: replace label maps that were made with other settings.

    Returns:
        How many images this call has labeled.

    Raises:
        UsageError: the folder cannot be used, a tag that the model does not know, or no image
            could be labeled.
    """
    _require_known_tags(predictor.class_names, images)
    manifest = Manifest(output, {**settings, "source": source}, overwrite)
    names = mask_names([image.file for image in images])
    _remove_outdated(output, manifest, names)
    unfinished, failed = _unfinished(manifest, images, names, output), []
    try:
        for image, key in tqdm(unfinished, unit="image", disable=None):
            try:
                prediction = predictor.label(image.path, image.tags, source)
            except UsageError as error:
                failed.append(f"{image.file}: {error}")
                _leave_out(manifest, output, image, names[image.file])
            else:
                name = names[image.file]
                manifest.add(_write_result(output, image, name, key, prediction, overlays))
    finally:
        manifest.close()
    for line in failed:
        logger.warning("left out: %s", line)
    if failed and not manifest.finished:
        raise UsageError(f"none of {len(images)} images could be labeled; {failed[0]}")
    write_text(output / META_FILE, meta_content(predictor.class_names))
    finished = [manifest.finished[i.file] for i in images if i.file in manifest.finished]
    _write_uncertain(output / UNCERTAIN_FILE, finished)
    _complete(output, images, finished, predictor.class_names, overlays)
    return len(unfinished) - len(failed)


def write_formats(
    output: Path, images: Sequence[TaggedImage], class_names: Sequence[str], formats: Sequence[str]
) -> None:
    """Write the label maps of a folder in other formats, see :data:`.formats.WRITERS`.

    Raises:
        UsageError: there is no such format, a label map cannot be read, or an image has a name
            that a format cannot hold.
    """
    if unknown := set(formats) - WRITERS.keys():
        what, hint = f"there is no format {min(unknown)!r}", f"there are {', '.join(WRITERS)}"
        raise UsageError(what, "format", hint)
    names = mask_names([image.file for image in images])
    for name in formats:
        labeled = _read_labeled(output / MASKS, names, len(class_names))
        labeled = labeled if name == "yolo" else require_text(labeled)
        WRITERS[name](labeled, class_names, output)


def _read_labeled(
    masks: Path, names: Mapping[str, str], num_classes: int
) -> Iterator[LabeledImage]:
    for file, name in names.items():
        path = masks / name
        if path.is_file():
            with Image.open(path) as mask:
                size = mask.height, mask.width
            label_map = read_mask(str(path), size, num_classes, 255)
            label_map[label_map == 255] = 0  # a correction may leave pixels out, which have no form
            yield LabeledImage(file, label_map)


def _require_known_tags(class_names: Sequence[str], images: Sequence[TaggedImage]) -> None:
    for image in images:
        if unknown := set(image.tags) - {*class_names[1:]}:
            hint = f"the model knows {', '.join(class_names[1:])}"
            raise UsageError(f"the tag {min(unknown)!r} is no class", image.file, hint)


def _unfinished(
    manifest: Manifest,
    images: Sequence[TaggedImage],
    names: Mapping[str, str],
    output: Path,
) -> list[tuple[TaggedImage, str]]:
    """Return the images that have no label map of this name, tags and file, with their keys."""
    unfinished = []
    for image in images:
        try:
            key = manifest.key(image.path, image.tags)
        except OSError:
            key = ""  # of no finished image: the predictor says why it cannot be read
        name = names[image.file]
        is_finished = manifest.is_finished(image.file, key, name)
        if not (is_finished and (output / MASKS / name).is_file()):
            unfinished.append((image, key))
    return unfinished


def _complete(
    output: Path,
    images: Sequence[TaggedImage],
    finished: Sequence[Finished],
    class_names: Sequence[str],
    overlays: bool,
) -> None:
    """Write what finished images lack beside their label maps, which may have been corrected."""
    paths = {image.file: image.path for image in images}
    for entry in finished:
        path, overlay = paths[entry.file], _overlay(output, entry.mask)
        if not (output / IMAGES / entry.file).is_file():
            _link(path, output / IMAGES / entry.file)
        if overlays and not overlay.is_file():
            try:
                _draw_again(overlay, path, output / MASKS / entry.mask, class_names)
            except UsageError as error:
                logger.warning("no overlay of %s: %s", entry.file, error)


def _draw_again(overlay: Path, path: Path, mask: Path, class_names: Sequence[str]) -> None:
    image = read_image(str(path))
    labels = read_mask(str(mask), image.shape[:2], len(class_names), 255)
    labels[labels == 255] = 0
    scores = np.empty((0, *labels.shape), np.float32)
    _write_overlay(overlay, Prediction(image, labels, scores, {}, tuple(class_names)))


def _leave_out(manifest: Manifest, output: Path, image: TaggedImage, mask_name: str) -> None:
    """Remove the earlier label map of an image that fails now, unless the image can be read."""
    if not ((output / MASKS / mask_name).is_file() and _is_readable(image.path)):
        manifest.leave_out(image.file)
        _remove_results(output, mask_name)


def _is_readable(path: Path) -> bool:
    try:
        read_image(str(path))
    except UsageError:
        return False
    return True


def _write_overlay(path: Path, prediction: Prediction) -> None:
    with atomic_write(path) as unfinished:
        Image.fromarray(prediction.overlay()).save(unfinished, "JPEG", quality=90)


def _remove_outdated(output: Path, manifest: Manifest, names: Mapping[str, str]) -> None:
    """Remove the label maps of other settings, and of images whose label map is now called else.

    ``a.png`` is the label map of ``a.jpg`` until there is another image ``a.png``.
    """
    entries = (manifest.finished.get(file) for file in names)
    renamed = [e.mask for e in entries if e is not None and e.mask != names[e.file]]
    for mask_name in (*manifest.replaced, *renamed):
        _remove_results(output, mask_name)


def _remove_results(output: Path, mask_name: str) -> None:
    for path in (
        output / MASKS / mask_name,
        output / CONFIDENCE / mask_name,
        _overlay(output, mask_name),
    ):
        path.unlink(missing_ok=True)


def _overlay(output: Path, mask_name: str) -> Path:
    return output / OVERLAYS / f"{mask_name[:-4]}.jpg"


def _write_result(
    output: Path,
    image: TaggedImage,
    mask_name: str,
    key: str,
    prediction: Prediction,
    overlays: bool,
) -> Finished:
    confidence = prediction.scores.max(axis=0)
    _link(image.path, output / IMAGES / image.file)
    if overlays:
        _write_overlay(_overlay(output, mask_name), prediction)
    with atomic_write(output / CONFIDENCE / mask_name) as unfinished:
        intensities = np.round(255 * confidence).astype(np.uint8)
        Image.fromarray(intensities).save(unfinished, "PNG")
    write_mask(output / MASKS / mask_name, prediction.labels)
    mean = float(confidence.mean())
    reason = find_doubt(prediction.labels, prediction.class_names, image.tags, mean)
    return Finished(image.file, key, mask_name, round(mean, 4), reason)


def find_doubt(
    label_map: np.ndarray, class_names: Sequence[str], tags: Sequence[str], confidence: float
) -> str:
    """Return why a person should look at a label map; empty if there is no reason.

    Args:
        label_map: ``[H, W]``, 0 background, i for ``class_names[i]``.
        class_names: C + 1 names, background first.
        tags: the classes that the image shows.
        confidence: mean of the largest probability, 0..1.
    """
    fractions = np.bincount(label_map.ravel(), minlength=len(class_names)) / label_map.size
    for tag in tags:
        if fractions[class_names.index(tag)] < _FEW_PIXELS:
            return f"{tag} is tagged, but hardly a pixel is labeled with it"
    largest = int(fractions[1:].argmax()) + 1
    if fractions[largest] > _MANY_PIXELS:
        return f"nearly the whole image is labeled {class_names[largest]}"
    if confidence < _LOW_CONFIDENCE:
        return f"the network is unsure, its mean confidence is {confidence:.2f}"
    values = [class_names.index(tag) for tag in tags]
    regions = sum(_count_regions(label_map == value) for value in values)
    if regions > _MANY_REGIONS * len(tags):
        return f"it falls into {regions} regions"
    return ""


def _count_regions(region: np.ndarray) -> int:
    """Return the number of connected regions in a map, boolean ``[H, W]``, without specks."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    return int((stats[1:, cv2.CC_STAT_AREA] >= _SPECK * region.size).sum())


def _write_uncertain(path: Path, finished: Sequence[Finished]) -> None:
    """Write the images with a reason to look at them: by kind of reason, then by confidence."""

    def place(entry: Finished) -> tuple[int, float, str]:
        kind = next(i for i, words in enumerate(_DOUBTS) if words in entry.reason)
        return kind, entry.confidence, entry.file

    doubtful = sorted((entry for entry in finished if entry.reason), key=place)
    # Names of files that are no UTF-8 keep their bytes.
    with (
        atomic_write(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as f,
    ):
        writer = csv.writer(f)
        writer.writerow(["file", "mask", "confidence", "reason"])
        writer.writerows([e.file, e.mask, f"{e.confidence:.3f}", e.reason] for e in doubtful)


def meta_content(class_names: Sequence[str]) -> str:
    """Return the classes and colors as JSON, as Datumaro and other tools read them."""
    names = {str(value): name for value, name in enumerate(class_names)}
    content = {
        # The background last: Datumaro takes the order for the numbers of COCO's categories too,
        # which begin with the first class.
        "label_map": {value: names[value] for value in [*list(names)[1:], "0"]},
        "segmentation_colors": [list(color) for color in voc_palette(len(class_names))],
        "background_label": "0",
    }
    return json.dumps(content, ensure_ascii=False, indent=1)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file to another path, or copy it where the disk has no such links."""
    with contextlib.suppress(FileNotFoundError):
        there, wanted = target.stat(), source.stat()
        if (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return
    with atomic_write(target) as unfinished:
        try:
            os.link(source.resolve(), unfinished)
        except OSError:
            shutil.copy2(source, unfinished)
