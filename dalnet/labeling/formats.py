# SPDX-License-Identifier: Apache-2.0
"""Write label maps in the formats that annotation and training tools read.

Polygons follow the outline of each connected region, the largest first; holes in it are lost, which
run lengths keep, unless another class fills them, whose polygon comes later and lies above.
tests/labeling/test_read_back.py reads each format by a program that it is made for.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import cv2
import numpy as np
import yaml
from pycocotools import mask as rle

from dalnet.errors import UsageError
from dalnet.io import atomic_write, write_text

_MIN_AREA = 4.0  # pixels; smaller polygons are dropped
_TOLERANCE = 1.0  # pixels that a simplified outline may be off


@dataclass(frozen=True)
class LabeledImage:
    """One image with its label map.

    Attributes:
        file: its path below the folder of the images, POSIX.
        label_map: uint8 ``[H, W]``, 0 background, 1..C the classes.
    """

    file: str
    label_map: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.label_map.shape[1], self.label_map.shape[0]

    def polygons(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the class, 1..C, and the outline of each region, the largest first.

        An outline is float32 ``[P, 2]``, x and y, where pixel i reaches from i to i + 1.
        """
        found: list[tuple[int, np.ndarray]] = []
        for value in np.unique(self.label_map[self.label_map > 0]).tolist():
            region = (self.label_map == value).astype(np.uint8)
            # OpenCV's outline runs through the centers of pixels, which makes regions half a pixel
            # too small on each side; at twice the size that is a quarter.
            region = cv2.resize(region, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
            outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            for outline in outlines:
                points = cv2.approxPolyDP(outline, 2 * _TOLERANCE, True)[:, 0]
                points = (points.astype(np.float32) + 0.5) / 2
                if len(points) > 2 and cv2.contourArea(points) >= _MIN_AREA:
                    found.append((value, points))
        # Readers draw later ones above earlier ones.
        yield from sorted(found, key=lambda one: cv2.contourArea(one[1]), reverse=True)


_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

Writer = Callable[[Iterable[LabeledImage], Sequence[str], Path], None]


def write_coco(images: Iterable[LabeledImage], class_names: Sequence[str], folder: Path) -> None:
    """Write ``annotations/instances_default.json``: run lengths of each class of each image.

    Args:
        images: in the order of their ids, 1 on.
        class_names: C + 1 names, background first; class i has the category id i.
        folder: where the file goes.

    Raises:
        UsageError: it cannot be written.
    """
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for number, image in enumerate(images, start=1):
        width, height = image.size
        one = {"id": number, "file_name": image.file, "width": width, "height": height}
        content["images"].append(one)
        for value in np.unique(image.label_map[image.label_map > 0]).tolist():
            region = rle.encode(np.asfortranarray(image.label_map == value, dtype=np.uint8))
            annotation = {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": value,
                "segmentation": {**region, "counts": region["counts"].decode("ascii")},
                "bbox": rle.toBbox(region).tolist(),
                "area": int(rle.area(region)),
                "iscrowd": 0,  # trainers leave out those with 1
            }
            content["annotations"].append(annotation)
    content["categories"] = _categories(class_names)
    _write_json(folder / "annotations/instances_default.json", content)


def write_coco_polygons(
    images: Iterable[LabeledImage], class_names: Sequence[str], folder: Path
) -> None:
    """Write ``annotations/instances_polygons.json``, each region; as :func:`write_coco`."""
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for number, image in enumerate(images, start=1):
        width, height = image.size
        one = {"id": number, "file_name": image.file, "width": width, "height": height}
        content["images"].append(one)
        for value, points in image.polygons():
            corner, end = points.min(axis=0), points.max(axis=0)
            annotation = {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": value,
                "segmentation": [points.flatten().tolist()],
                "bbox": [*corner.tolist(), *(end - corner).tolist()],
                "area": cv2.contourArea(points),
                "iscrowd": 0,
            }
            content["annotations"].append(annotation)
    content["categories"] = _categories(class_names)
    _write_json(folder / "annotations/instances_polygons.json", content)


def write_yolo(images: Iterable[LabeledImage], class_names: Sequence[str], folder: Path) -> None:
    """Write ``labels/NAME.txt``, a polygon a line, and ``data.yaml``; as :func:`write_coco`.

    A line is the class, counted from 0 without background, and x y pairs in 0..1. Of an image in a
    folder that is called ``images`` too the labels lie in ``labels`` beside that folder.

    Raises:
        UsageError: it cannot be written, or two images differ in their suffix alone, so that one
            file would be that of both.
    """
    owners: dict[Path, str] = {}
    for image in images:
        lines = []
        for value, points in image.polygons():
            relative = points / np.array(image.size)
            numbers = " ".join(f"{number:.6f}" for number in relative.flatten())
            lines.append(f"{value - 1} {numbers}\n")
        path = folder / _yolo_file(image.file)
        if owners.setdefault(path, image.file) != image.file:
            what = f"it would hold the labels of {owners[path]} and {image.file}"
            raise UsageError(what, path, "rename one of the images, or choose another form")
        write_text(path, "".join(lines))
    # Without "path", which Ultralytics does not take for relative to this file.
    content = {"train": "images", "val": "images", "names": dict(enumerate(class_names[1:]))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(folder / "data.yaml", text)


def _yolo_file(file: str) -> PurePosixPath:
    """Return where Ultralytics looks for the labels of ``images/FILE``.

    In the path of an image it calls the last folder ``images``, whichever that is, ``labels``.
    """
    path = PurePosixPath("images", file).with_suffix(".txt")
    last = max(place for place, part in enumerate(path.parts[:-1]) if part == "images")
    return PurePosixPath(*path.parts[:last], "labels", *path.parts[last + 1 :])


def write_label_studio(
    images: Iterable[LabeledImage], class_names: Sequence[str], folder: Path
) -> None:
    """Write ``label_studio.json``, tasks with polygons, and ``label_studio.xml``, the interface.

    The tasks name images as Label Studio's local storage does; as :func:`write_coco`.
    """

    def regions(image: LabeledImage) -> Iterator[tuple[int, dict[str, Any]]]:
        for value, points in image.polygons():
            yield value, {"points": (points * 100 / np.array(image.size)).round(4).tolist()}

    _write_label_studio(images, class_names, folder / "label_studio", "Polygon", regions)


def write_label_studio_brush(
    images: Iterable[LabeledImage], class_names: Sequence[str], folder: Path
) -> None:
    """Write ``label_studio_brush.json`` and ``.xml``: every pixel of each class, with holes."""

    def regions(image: LabeledImage) -> Iterator[tuple[int, dict[str, Any]]]:
        for value in np.unique(image.label_map[image.label_map > 0]).tolist():
            yield value, {"format": "rle", "rle": encode_brush(image.label_map == value)}

    _write_label_studio(images, class_names, folder / "label_studio_brush", "Brush", regions)


def encode_brush(region: np.ndarray) -> list[int]:
    """Return a region, boolean ``[H, W]``, as Label Studio's brush keeps it.

    These are bytes 0..255 of a stream of bits: the number of values in 32 bits, the bits of a value
    less 1 in 5, and four lengths of lengths, less 1, in 4 each. Then each run: the bit 1, which of
    the four lengths in 2 bits, the number of values less 1 in so many, and the value in 8. There
    are four values a pixel, red, green, blue and opacity: all 255 in the region, else 0.
    """
    flat = region.ravel()
    ends = [*(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    sizes = (3, 4, 8, 16)
    bits = [f"{4 * flat.size:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in sizes)]
    for start, end in pairwise([0, *ends]):
        rest = 4 * (end - start)
        while rest:
            count = min(rest, 2 ** sizes[-1])
            which = next(i for i, size in enumerate(sizes) if count <= 2**size)
            bits.append(f"1{which:02b}{count - 1:0{sizes[which]}b}{255 * flat[start]:08b}")
            rest -= count
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _write_label_studio(
    images: Iterable[LabeledImage],
    class_names: Sequence[str],
    path: Path,
    tool: str,
    regions: Callable[[LabeledImage], Iterable[tuple[int, dict[str, Any]]]],
) -> None:
    """Write tasks with predictions, and the interface, whose tool is "Polygon" or "Brush"."""
    kind, tasks = f"{tool.lower()}labels", []
    for image in images:
        width, height = image.size
        result = [
            {
                "id": f"region{number}",
                "type": kind,
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "value": {**shape, kind: [class_names[value]]},
            }
            for number, (value, shape) in enumerate(regions(image))
        ]
        address = f"/data/local-files/?d=images/{quote(image.file)}"
        predictions = [{"model_version": "dalnet", "result": result}]
        tasks.append({"data": {"image": address}, "predictions": predictions})
    _write_json(path.with_suffix(".json"), tasks)
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    labels = ElementTree.SubElement(view, f"{tool}Labels", name="label", toName="image")
    for name in class_names[1:]:
        ElementTree.SubElement(labels, "Label", value=name)
    # Pasted into a form as text, where a declaration of the encoding is refused.
    _write_xml(path.with_suffix(".xml"), view, declaration=False)


def write_cvat(images: Iterable[LabeledImage], class_names: Sequence[str], folder: Path) -> None:
    """Write ``cvat.xml``, the format "CVAT for images 1.1" with polygons; as :func:`write_coco`."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    # Datumaro asks for a task, which an export of CVAT is always of.
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    ElementTree.SubElement(task, "name").text = "dalnet"
    ElementTree.SubElement(task, "mode").text = "annotation"
    labels = ElementTree.SubElement(task, "labels")
    for name in class_names[1:]:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "attributes")
    for number, image in enumerate(images):
        width, height = (str(side) for side in image.size)
        node = ElementTree.SubElement(
            root, "image", id=str(number), name=image.file, width=width, height=height
        )
        for value, points in image.polygons():
            text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points.tolist())
            ElementTree.SubElement(
                node, "polygon", label=class_names[value], points=text, occluded="0", z_order="0"
            )
    _write_xml(folder / "cvat.xml", root)


WRITERS: dict[str, Writer] = {
    "coco": write_coco,
    "coco-polygons": write_coco_polygons,
    "yolo": write_yolo,
    "label-studio": write_label_studio,
    "label-studio-brush": write_label_studio_brush,
    "cvat": write_cvat,
}


def require_text(images: Iterable[LabeledImage]) -> Iterator[LabeledImage]:
    """Yield the images, whose names have to be text that JSON and XML can hold.

    Raises:
        UsageError: a name of bytes that are no UTF-8, or with a control character.
    """
    for image in images:
        if _NO_TEXT.search(image.file):
            hint = "rename the image, or choose yolo"
            raise UsageError("its name is no text that JSON and XML can hold", image.file, hint)
        yield image


def mask_names(files: Sequence[str]) -> dict[str, str]:
    """Return the name of each image's PNG: without its suffix, unless another is called alike."""
    names = {file: str(PurePosixPath(file).with_suffix("")) for file in files}
    while True:
        counts = Counter(name.casefold() for name in names.values())
        longer = {f: f if counts[n.casefold()] > 1 else n for f, n in names.items()}
        if longer == names:
            return {file: f"{name}.png" for file, name in names.items()}
        names = longer  # a.jpg of a.jpg may be that of a.jpg.png too


def _categories(class_names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": i, "name": name} for i, name in enumerate(class_names) if i]


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False))


def _write_xml(path: Path, root: ElementTree.Element, declaration: bool = True) -> None:
    with atomic_write(path) as unfinished:
        tree = ElementTree.ElementTree(root)
        tree.write(unfinished, encoding="utf-8", xml_declaration=declaration)
