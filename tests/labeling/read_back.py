# SPDX-License-Identifier: Apache-2.0
"""Read a folder of ``dalnet label`` by the programs that its formats are made for.

    .venv-readers/bin/python tests/labeling/read_back.py READER FOLDER OUT.npz

Writes for each image, by its name without suffix, a label map whose values are places in the array
"names". Has to run where Datumaro and label-studio-sdk are, whose pins do not allow DALNet's.
"""

import json
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageDraw


def read_datumaro(folder, form):
    """Label maps as Datumaro has them."""
    import datumaro
    from datumaro.components.annotation import AnnotationType

    dataset = datumaro.Dataset.import_from(str(folder), form)
    labels = [label.name for label in dataset.categories()[AnnotationType.label]]
    names = ["background", *(name for name in labels if name != "background")]
    maps = {}
    for item in dataset:
        if item.media is None:
            continue
        label_map = np.zeros(item.media.size, np.uint8)
        for annotation in item.annotations:
            value = names.index(labels[annotation.label])
            if annotation.type == AnnotationType.mask:
                label_map[annotation.image > 0] = value
            elif annotation.type == AnnotationType.polygon:
                paint(label_map, np.reshape(annotation.points, (-1, 2)), value)
        assert item.media.data.shape[:2] == label_map.shape
        maps[item.id] = label_map
    return names, maps


def read_label_studio(folder, stem):
    """Predictions that label-studio-sdk finds valid for the interface beside them."""
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface((folder / f"{stem}.xml").read_text(encoding="utf-8"))
    interface.validate()
    control = interface.get_control("label")
    names = ["background", *control.labels]
    maps = {}
    for task in json.loads((folder / f"{stem}.json").read_text(encoding="utf-8")):
        file = unquote(task["data"]["image"].split("?d=images/")[1])
        assert interface.validate_task({"data": task["data"]})
        with Image.open(folder / "images" / file) as image:
            label_map = np.zeros((image.height, image.width), np.uint8)
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        for region in prediction["result"]:
            height, width = region["original_height"], region["original_width"]
            assert (height, width) == label_map.shape
            value = region["value"]
            (name,) = value[region["type"]]
            if "rle" in value:
                pixels = decode_rle(value["rle"]).reshape(height, width, 4)
                label_map[pixels[..., 3] > 0] = names.index(name)
            else:
                points = np.array(value["points"]) * (width, height) / 100
                paint(label_map, points, names.index(name))
        maps[str(Path(file).with_suffix(""))] = label_map
    return names, maps


def paint(label_map, points, value):
    """Fill a polygon whose pixel i reaches from i to i + 1."""
    canvas = Image.new("L", label_map.shape[::-1])
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in np.round(points - 0.5)], fill=1)
    label_map[np.array(canvas) > 0] = value


READERS = {
    "datumaro masks": lambda folder: read_datumaro(folder, "common_semantic_segmentation"),
    "datumaro coco": lambda folder: read_datumaro(folder, "coco_instances"),
    "datumaro cvat": lambda folder: read_datumaro(folder, "cvat"),
    "label studio": lambda folder: read_label_studio(folder, "label_studio"),
    "label studio brush": lambda folder: read_label_studio(folder, "label_studio_brush"),
}

if __name__ == "__main__":
    reader, source, target = sys.argv[1:]
    names, maps = READERS[reader](Path(source))
    np.savez(target, names=np.array(names), **maps)
