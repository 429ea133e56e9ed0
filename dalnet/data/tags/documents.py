# SPDX-License-Identifier: Apache-2.0
"""Tags in JSON, JSON lines, COCO's annotations, and the exports of Label Studio and CVAT.

Boxes, masks and polygons are read as "the image shows this class", and are not used otherwise.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from dalnet.errors import UsageError

from .table import TagTable

_NAME_KEYS = ("file_name", "file", "filename", "image", "path")
_TAG_KEYS = ("tags", "labels", "classes", "tag", "label")
_SHAPES = ("choices", "rectanglelabels", "polygonlabels", "brushlabels", "keypointlabels")


def read_json(path: Path, text: str) -> TagTable:
    """Read ``{"image": ["tag", ...]}``, COCO's annotations or Label Studio's export.

    Raises:
        UsageError: no JSON, a key that occurs twice, or content of another form.
    """
    content = _parse(path, text)
    if isinstance(content, list):
        return _read_label_studio(path, content)
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        return _read_coco(path, content)
    if not isinstance(content, dict):
        hint = 'expected {"image": ["tag", ...]}, or an export of COCO or Label Studio'
        raise UsageError(f"it holds a {type(content).__name__}", path, hint)
    table = TagTable(path)
    for name, tags in content.items():
        place = f"image {name}"
        table.add(name, _tags(tags, f"{path}, {place}"), place)
    return table


def read_json_lines(path: Path, text: str) -> TagTable:
    """Read one ``{"file_name": "image", "tags": ["tag", ...]}`` a line, as Hugging Face's metadata.

    Raises:
        UsageError: a line that is no such object.
    """
    table = TagTable(path)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        content = _parse(where, line)
        keys = content if isinstance(content, dict) else {}
        name = next((keys[key] for key in _NAME_KEYS if isinstance(keys.get(key), str)), None)
        tag_key = next((key for key in _TAG_KEYS if key in keys), None)
        if name is None or tag_key is None:
            hint = 'expected {"file_name": "image", "tags": ["tag", ...]}'
            raise UsageError("no image or no tags in it", where, hint)
        table.add(name, _tags(keys[tag_key], where), f"line {number}")
    return table


def read_xml(path: Path, text: str) -> TagTable:
    """Read CVAT's export "CVAT for images".

    Raises:
        UsageError: no XML, or of another form.
    """
    try:
        # Without the declaration: the text is decoded already.
        root = fromstring(text[text.index("<") :].encode("utf-8"))
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise UsageError(f"not readable XML ({error})", path, "export it again") from error
    images = root.findall("image")
    if root.tag != "annotations" or not images:
        raise UsageError("it is no CVAT export", path, 'choose the format "CVAT for images 1.1"')
    table = TagTable(path)
    names = [(node.findtext("name") or "").strip() for node in root.iterfind("meta//label")]
    table.classes = [name for name in dict.fromkeys(names) if name]
    for node in images:
        tags = [child.get("label", "") for child in node]
        table.add(node.get("name", ""), tags, f"image {node.get('id', len(table.shown))}")
    return table


def _parse(where: Path | str, text: str) -> Any:
    def refuse_doubled(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in pairs:
            if key in content:
                raise UsageError(f"{key!r} is there twice", where, "keep one of them")
            content[key] = value
        return content

    try:
        return json.loads(text, object_pairs_hook=refuse_doubled)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not readable JSON ({error})", where, "export it again") from error


def _tags(value: Any, where: str) -> list[str] | None:
    """Return a list of tags; null says nothing about the image."""
    if value is None:
        return None
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise UsageError("its tags are no list of words", where, 'write ["tag", ...]')
    return value


def _read_coco(path: Path, content: Mapping[str, Any]) -> TagTable:
    table = TagTable(path)
    try:
        names = {one["id"]: str(one["name"]) for one in content["categories"]}
        shown: dict[Any, list[str]] = {one["id"]: [] for one in content["images"]}
        files = {one["id"]: str(one["file_name"]) for one in content["images"]}
        for one in content["annotations"]:
            if one["image_id"] not in shown or one["category_id"] not in names:
                what = f"annotation {one.get('id')} is of an unknown image or category"
                raise UsageError(what, path, "export it again")
            shown[one["image_id"]].append(names[one["category_id"]])
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"no COCO annotations ({error!r})", path, "export it again") from error
    table.classes = list(dict.fromkeys(names.values()))
    for number, tags in shown.items():
        table.add(files[number], tags, f"image {number}")
    return table


def _read_label_studio(path: Path, tasks: Sequence[Any]) -> TagTable:
    """Read the export "JSON" (or "JSON-MIN") of a labeling project with choices."""
    table = TagTable(path)
    for number, task in enumerate(tasks):
        place = f"task {number + 1}"
        task = task if isinstance(task, dict) else {}
        data = task.get("data", task)
        image = data.get("image") if isinstance(data, dict) else None
        if not isinstance(image, str):
            hint = 'the task needs "image"; choose the export "JSON"'
            raise UsageError("no image in it", f"{path}, {place}", hint)
        if "data" in task:
            tags = _task_tags(task.get("annotations") or [])
        else:
            value = task.get("choice", task.get("choices"))
            value = value.get("choices") if isinstance(value, dict) else value
            tags = _tags(value, f"{path}, {place}")
        table.add(_file_of_url(image), tags, place)
    return table


def _task_tags(annotations: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Return the labels of all that was submitted; None where nothing was."""
    submitted = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
    if not submitted:
        return None
    values = [r.get("value", {}) for a in submitted for r in a.get("result") or ()]
    return [str(tag) for value in values for key in _SHAPES for tag in value.get(key) or ()]


def _file_of_url(address: str) -> str:
    """Return the file that Label Studio's address of an image names."""
    parts = urlparse(address)
    inside = parse_qs(parts.query).get("d")
    return inside[0] if inside else unquote(parts.path)
