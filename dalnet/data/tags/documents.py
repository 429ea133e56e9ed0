# SPDX-License-Identifier: Apache-2.0
"""Tags in JSON, JSON lines, COCO, and the exports of Label Studio, CVAT and Create ML.

Boxes, masks and polygons are read as "the image shows this class", and are not used otherwise.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from dalnet.data.image_files import IMAGE_SUFFIXES
from dalnet.documents import parse_json, parse_xml
from dalnet.errors import UsageError

from .table import TagTable

_NAME_KEYS = ("file_name", "file", "filename", "image", "path")
_EXPECTED = 'expected {"image": ["tag", ...]}, or an export of COCO, Label Studio or Create ML'
_TAG_KEYS = ("tags", "labels", "classes", "tag", "label")
# What Label Studio's JSON-MIN says of a task itself; other keys are of its data or its labels.
_MINIMAL_KEYS = {"id", "image", "annotator", "annotation_id", "created_at", "updated_at"}
_MINIMAL_KEYS |= {"lead_time", "agreement"}
_BUCKETS = {"s3", "gs", "azure-blob"}  # schemes of its cloud storages
_CHOICE_KEYS = {"choice", "choices"}  # as Label Studio's templates call their labels


def read_json(path: Path, text: str) -> TagTable:
    """Read ``{"image": ["tag", ...]}``, COCO's annotations, Label Studio's or Create ML's export.

    Raises:
        UsageError: no JSON, a key that occurs twice, or content of another form.
    """
    content = parse_json(text, path, "export it again")
    if isinstance(content, list):
        return _read_image_list(path, content)
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        return _read_coco(path, content)
    if not isinstance(content, dict):
        raise UsageError(f"it holds a {type(content).__name__}", path, _EXPECTED)
    table = TagTable(path)
    for name, tags in content.items():
        place = f"image {name}"
        table.add(name, _tags(tags, f"{path}, {place}", _EXPECTED), place)
    return table


def read_json_lines(path: Path, text: str) -> TagTable:
    """Read one ``{"file_name": "image", "tags": ["tag", ...]}`` a line, as Hugging Face's metadata.

    Raises:
        UsageError: a line that is no such object.
    """
    table = TagTable(path)
    for number, line in enumerate(re.split(r"\r\n?|\n", text), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        content = parse_json(line, where, "export it again")
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
    root = parse_xml(text, path, "export it again")
    images = root.findall("image")
    if root.tag != "annotations" or not images:
        raise UsageError("it is no CVAT export", path, 'choose the format "CVAT for images 1.1"')
    table = TagTable(path)
    # Those with a parent are the points of a skeleton, which the skeleton's own label stands for.
    labels = [node for node in root.iterfind("meta//label") if node.find("parent") is None]
    names = [(node.findtext("name") or "").strip() for node in labels]
    table.classes = [name for name in dict.fromkeys(names) if name]
    for node in images:
        tags = [child.get("label", "") for child in node]
        table.add(node.get("name", ""), tags, f"image {node.get('id', len(table.shown))}")
    return table


def _tags(value: Any, where: str, hint: str = 'write ["tag", ...]') -> list[str] | None:
    """Return a list of tags; null says nothing about the image."""
    if value is None:
        return None
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise UsageError("its tags are no list of words", where, hint)
    return value


def _read_coco(path: Path, content: Mapping[str, Any]) -> TagTable:
    table = TagTable(path)
    try:
        names = _by_id(path, content["categories"], "name")
        files = _by_id(path, content["images"], "file_name")
        shown: dict[Any, list[str]] = {number: [] for number in files}
        for one in content["annotations"]:
            if one["image_id"] not in shown or one["category_id"] not in names:
                what = f"annotation {one.get('id')} is of an unknown image or category"
                raise UsageError(what, path, "export it again")
            shown[one["image_id"]].append(names[one["category_id"]])
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"no COCO annotations ({error!r})", path, "export it again") from error
    used = {tag for tags in shown.values() for tag in tags}
    # Roboflow puts a category before the classes, of which no image is annotated. That a class is
    # its own category above, as COCO's person, makes it no such one.
    pairs = [(one.get("supercategory"), str(one["name"])) for one in content["categories"]]
    groups = {above for above, name in pairs if isinstance(above, str) and above != name} - used
    table.classes = [name for name in dict.fromkeys(names.values()) if name not in groups]
    for number, tags in shown.items():
        table.add(files[number], tags, f"image {number}")
    return table


def _by_id(path: Path, entries: Sequence[Mapping[str, Any]], key: str) -> dict[Any, str]:
    """Return what each entry has under ``key``, by id.

    Raises:
        UsageError: two that differ have one id, so that annotations could be of either.
    """
    found: dict[Any, str] = {}
    for one in entries:
        value = str(one[key])
        if found.setdefault(one["id"], value) != value:
            what = f"{found[one['id']]!r} and {value!r} have the id {one['id']!r}"
            raise UsageError(what, path, "give each an id of its own, or export it again")
    return found


def _read_image_list(path: Path, tasks: Sequence[Any]) -> TagTable:
    """Read a list of images: Label Studio's export "JSON" or "JSON-MIN", or Create ML's JSON.

    What several annotators say of a task is joined.
    """
    keys = _label_keys(path, [task for task in tasks if isinstance(task, dict)])
    read: dict[tuple[str, str], tuple[list[str] | None, str]] = {}
    for number, task in enumerate(tasks):
        where = f"{path}, task {number + 1}"
        task = task if isinstance(task, dict) else {}
        try:
            image = _image_of(task.get("data", task))
            if "data" in task:
                tags = _task_tags(task.get("annotations") or [])
            elif _is_create_ml(task):
                tags = [box["label"] for box in task["annotations"]]
            else:
                tags = _minimal_tags(task, keys, where)
        except (AttributeError, TypeError, ValueError) as error:
            what = f"no task of Label Studio ({error})"
            raise UsageError(what, where, "export it again") from error
        if image is None:
            hint = 'its data needs one file name or address of an image, best under "image"'
            raise UsageError("no image in it", where, hint)
        # "JSON-MIN" repeats a task for each of its annotators.
        key = image, str(task.get("id", number))
        earlier, place = read.get(key, (None, f"task {number + 1}"))
        read[key] = tags if earlier is None else [*earlier, *(tags or ())], place
    table = TagTable(path)
    for (image, _), (tags, place) in read.items():
        table.add(image, tags, place)
    return table


def _image_of(data: Mapping[str, Any]) -> str | None:
    """Return the file that a task is about: under "image", or the only one that its data names."""
    if isinstance(data.get("image"), str):
        return _file_of_url(data["image"])
    files = [_file_of_url(value) for value in data.values() if isinstance(value, str)]
    images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    return images[0] if len(images) == 1 else None


def _is_create_ml(task: Mapping[str, Any]) -> bool:
    """Return whether an entry is one of Create ML: an image with boxes that have a label."""
    boxes = task.get("annotations")
    return isinstance(boxes, list) and all(
        isinstance(box, dict) and isinstance(box.get("label"), str) for box in boxes
    )


def _task_tags(annotations: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Return the labels of all that was submitted; None where nothing was."""
    submitted = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
    if not submitted:
        return None
    results = [result for a in submitted for result in a.get("result") or ()]
    return [tag for result in results for tag in _labels_of(result.get("value", {}))]


def _label_keys(path: Path, tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys under which tasks of the export "JSON-MIN" hold labels as plain words.

    One label is a word under the name of its control, several are ``{"choices": [...]}`` there;
    words of the task's data look the same.

    Raises:
        UsageError: any of several keys may be that of the labels.
    """
    known, words, has_regions = set(_CHOICE_KEYS), set(), False
    for task in tasks:
        if "data" in task:
            continue
        for key, value in task.items():
            parts = value if isinstance(value, list) else [value]
            regions = [part for part in parts if isinstance(part, dict)]
            has_regions = has_regions or bool(regions)
            if any("choices" in region for region in regions):
                known.add(key)
            if key not in _MINIMAL_KEYS and any(map(_may_be_label, parts)):
                words.add(key)
    doubtful = sorted(words - known)
    if len(doubtful) > 1 or (doubtful and (has_regions or words & known)):
        named = ", ".join(map(repr, sorted(words)))
        what = f"the words under {named} may be labels or other data"
        raise UsageError(what, path, 'choose the export "JSON", or take the other keys away')
    return sorted(known | words)


def _may_be_label(value: object) -> bool:
    """Return whether a value may be a label: text that is no file name and no address."""
    return isinstance(value, str) and not (
        not value.strip()
        or "://" in value
        or value.startswith("/")
        or value.lower().endswith(IMAGE_SUFFIXES)
    )


def _minimal_tags(task: Mapping[str, Any], keys: Sequence[str], where: str) -> list[str] | None:
    """Return the labels in a task of the export "JSON-MIN"; None where nobody has labeled it."""
    words: list[str] = []
    regions: list[Mapping[str, Any]] = []
    for key, value in task.items():
        parts = value if isinstance(value, list) else [value]
        regions += [part for part in parts if isinstance(part, dict)]
        if key in keys and value is not None:
            words += _tags([part for part in parts if not isinstance(part, dict)], where) or []
    if "annotation_id" in task:  # surer: data may be dictionaries too, and an answer may be empty
        is_labeled = task["annotation_id"] is not None
    else:
        is_labeled = bool(regions) or any(task.get(key) is not None for key in keys)
    return [*words, *(t for region in regions for t in _labels_of(region))] if is_labeled else None


def _labels_of(value: Mapping[str, Any]) -> Iterator[str]:
    """Yield the labels of one result: of a shape of any kind, of choices, or of a taxonomy."""
    for key, content in value.items():
        labels = [content] if isinstance(content, str) else content or ()
        if key == "taxonomy":  # each label with those that it is below
            yield from (str(path[-1] if isinstance(path, list) else path) for path in labels)
        elif key == "choices" or key.endswith("labels"):
            yield from map(str, labels)


def _file_of_url(address: str) -> str:
    """Return the file that Label Studio's address of an image names."""
    scheme, _, place = address.partition("://")
    if scheme in _BUCKETS:  # whose files are named as they are, with # and %
        return place.partition("/")[2]
    parts = urlparse(address)
    query = parse_qs(parts.query)
    inside = query.get("d") or query.get("filepath")  # local storage, or uploads in a cloud
    return inside[0] if inside else unquote(parts.path)
