# SPDX-License-Identifier: Apache-2.0
"""Hostile texts: tags, lists, annotations, descriptions and records of runs."""

import json
import os
from functools import partial

from PIL import Image

from clims.texts import read_texts
from codeseg.caption_files import read_captions
from dalnet.checkpoint import find_checkpoint
from dalnet.checkpoint.history import LAST, newest_good, read_saved
from dalnet.config import load_config
from dalnet.data.datasets.coco import load_coco
from dalnet.data.datasets.custom import read_classes
from dalnet.data.datasets.tagged import TaggedImages
from dalnet.data.datasets.voc_layout import load_voc_layout
from dalnet.data.prepare.coco_masks import prepare_coco
from dalnet.data.prepare.color_masks import read_label_map
from dalnet.data.tags import read_tags
from dalnet.engine.run_record import read_record
from dalnet.evaluation.results import read_results
from dalnet.labeling.manifest import Manifest
from dalnet.labeling.mask_values import read_mask_values
from dalnet.labeling.tagged_training import read_class_words
from dalnet.report.run import read_metrics
from dalnet.sweep import read_sweep

from .case import HARMLESS, LEFT_OUT, Case
from .hostile_images import device, fifo

DEEP = "[" * 30_000
HUGE = "9" * 100_000
_ENTITIES = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
LAUGHS = f'<!DOCTYPE a [<!ENTITY a0 "ha">{_ENTITIES}]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
DEFINED = '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">'
_ALIASES = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
ALIASES = f"a0: &a0 [x, x]\n{_ALIASES}"
RUNS_CODE = "!!python/object/apply:os.system ['touch ran']\n"


def text_case(name, file, content, read, expect=None):
    """Return a case of one text; ``content`` is text, bytes, JSON, or makes the file."""

    def make(folder):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / "coco" / "val2014").mkdir(parents=True)
        if callable(content):
            content(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return Case(name, make, read, **({} if expect is None else {"expect": expect}))


def holes(path):
    """A text of 2 GB of zeros, which take no room on the disk."""
    path.touch()
    os.truncate(path, 1 << 31)


def tags(name, file, content, expect=None):
    return text_case(f"{file}: {name}", file, content, read_tags, expect)


def cvat(before, label="cat"):
    image = f'<image id="0" name="a.jpg"><tag label="{label}"/></image>'
    return f"{before}<annotations>{image}</annotations>"


def coco(**changes):
    """COCO's annotations of one image with one object, changed."""
    image = {"id": 1, "file_name": "a.jpg", "height": 12, "width": 16}
    one = {"id": 1, "image_id": 1, "category_id": 1, "area": 4, "iscrowd": 0}
    one["segmentation"] = [[0, 0, 4, 0, 4, 4]]
    for key in changes:
        (image if key in image else one)[key] = changes[key]
    return {"images": [image], "annotations": [one], "categories": [{"id": 1, "name": "person"}]}


def coco_case(name, content, expect=None, read=None):
    def prepare(path):
        return prepare_coco(path.parents[1], "val", workers=1)

    file = "coco/annotations/instances_val2014.json"
    return text_case(f"COCO: {name}", file, content, read or prepare, expect)


def load_images(path):
    return load_coco(path.parents[1], "val")


def listed(*lines):
    """Writes a folder of VOC's layout with a list of these lines."""

    def make(path):
        root = path.parents[2]
        (root / "JPEGImages").mkdir()
        Image.new("RGB", (16, 12)).save(root / "JPEGImages" / "a.jpg")
        (root / "image_tags.json").write_text('{"a": ["cat"]}')
        path.write_bytes(b"\n".join(lines))

    return make


def list_case(name, *lines, expect=None):
    file = "voc/ImageSets/Segmentation/train.txt"
    read = lambda path: load_voc_layout(path.parents[2], "train", ["cat"])  # noqa: E731
    return text_case(f"list: {name}", file, listed(*lines), read, expect)


def annotated(content):
    """Writes a folder of VOC's layout with one annotation."""

    def make(path):
        listed(b"a")(path.parents[1] / "ImageSets/Segmentation/train.txt")
        path.write_text(content)

    return make


def annotation_case(name, content):
    """Return a case of one annotation; ``content`` is text, or makes the file."""

    def make(folder):
        lists = folder / "voc/ImageSets/Segmentation/train.txt"
        lists.parent.mkdir(parents=True)
        listed(b"a")(lists)
        path = folder / "voc/Annotations/a.xml"
        path.parent.mkdir()
        content(path) if callable(content) else path.write_text(content)
        return path.parents[1]

    read = lambda root: load_voc_layout(root, "train", ["cat"])  # noqa: E731
    return Case(f"annotation: {name}", make, read)


def yaml_cases(kind, file, read):
    """Return what every reader of YAML has to answer."""
    contents = {
        "runs code": RUNS_CODE,
        "aliases of aliases": ALIASES,
        "deeply nested": DEEP,
        "a pipe": fifo,
        "bytes that are no text": b"\xff\xfe\xfa",
        "a list": "- a\n- b\n",
        "a control character": "a: \x00",
        "a word for yes or no": "a: !!bool perhaps",
        "an integer of nothing": "a: !!int ''",
        "a time that is none": "a: !!timestamp then",
        "a number of many parts": f"a: 1{':59' * 2000}.5",
        "an integer of a million digits": f"a: 0x{'f' * 1_000_000}",
        "a million lists": f"[{'[],' * 1_000_000}]",
    }
    return [text_case(f"{kind}: {name}", file, content, read) for name, content in contents.items()]


def json_cases(kind, file, read):
    """Return what every reader of JSON has to answer."""
    contents = {
        "deeply nested": DEEP,
        "a huge integer": f'{{"starts": {HUGE}}}',
        "NaN": "NaN",
        "bytes that are no text": b'{"a": "\xff\xfa"}',
        "a list of nothing": "[null]",
        "a text": '"starts"',
    }
    return [text_case(f"{kind}: {name}", file, content, read) for name, content in contents.items()]


def last_cases():
    """Return what may stand in place of the name of the newest checkpoint."""
    contents = {
        "a path upwards": "../../other.pth",
        "an absolute path": "/etc/passwd",
        "a name of 100,000 letters": "x" * 100_000,
        "NUL": "model\0.pth",
        "bytes that are no text": b"\xff\xfa",
    }
    readers = {"resume": newest_good, "predict": find_checkpoint}
    return [
        text_case(f"last checkpoint, to {verb}: {name}", LAST, content, partial(read_folder, read))
        for name, content in contents.items()
        for verb, read in readers.items()
    ]


def read_run(path):
    return read_record(path.parent)


def read_folder(read, path):
    return read(path.parent)


TAGS = [
    tags("deeply nested", "t.json", f'{{"a.jpg": {DEEP}'),
    tags("a key twice", "t.json", '{"a.jpg": ["cat"], "a.jpg": ["dog"]}'),
    tags("NaN as a tag", "t.json", '{"a.jpg": NaN}'),
    tags("a huge integer", "t.json", f'{{"a.jpg": [{HUGE}]}}'),
    tags("a lone surrogate as a tag", "t.json", '{"a.jpg": ["\\ud800"]}'),
    tags("a line break in a tag", "t.json", '{"a.jpg": ["cat\\ndog"]}'),
    tags("NUL in a tag", "t.json", '{"a.jpg": ["cat\\u0000"]}'),
    tags("tags that are objects", "t.json", '{"a.jpg": [{"cat": 1}]}'),
    tags("a number", "t.json", "3"),
    tags("20 MB of one tag", "t.json", '{"a.jpg": ["' + "x" * 20_000_000 + '"]}'),
    tags("2 GB of zeros", "t.json", holes),
    tags("a pipe", "t.csv", fifo),
    tags("a device", "t.jsonl", device),
    tags("categories that are text", "t.json", {**coco(), "categories": "abc"}),
    tags("annotations of lists as ids", "t.json", coco(image_id=[1])),
    tags("images that are a number", "t.json", {**coco(), "images": 3}),
    tags("tasks that are numbers", "t.json", [1, 2]),
    tags(
        "results that are text",
        "t.json",
        [{"data": {"image": "a"}, "annotations": [{"result": "cat"}]}],
    ),
    tags(
        "a value that is a list",
        "t.json",
        [{"data": {"image": "a"}, "annotations": [{"result": [{"value": [1]}]}]}],
    ),
    tags(
        "labels that are numbers",
        "t.json",
        [{"data": {"image": "a"}, "annotations": [{"result": [{"value": {"choices": 3}}]}]}],
    ),
    tags("annotations that are a number", "t.json", [{"data": {"image": "a"}, "annotations": 3}]),
    tags("an address that is none", "t.json", [{"image": "http://[", "choice": "cat"}]),
    tags("a line cut off", "t.jsonl", '{"file": "a.jpg", "tags": ["cat"]}\n{"file": "b'),
    tags("laughs", "t.xml", cvat(LAUGHS, "&a9;")),
    tags("a file from outside", "t.xml", cvat(OUTSIDE, "&x;")),
    tags("a definition from outside", "t.xml", cvat(DEFINED), HARMLESS),
    tags("deeply nested", "t.xml", "<a>" * 30_000),
    tags("no XML", "t.xml", "cat"),
    tags("ten million elements", "t.xml", f"<annotations>{'<a/>' * 10_000_000}</annotations>"),
    tags("17 million lists", "t.json", f"[{'[],' * 17_000_000}[]]"),
    tags("NUL bytes", "t.csv", "file,tags\n\0,\0\n"),
    tags("a quote that is not closed", "t.csv", 'file,tags\na.jpg,"cat\n'),
    tags("a cell of 10 MB", "t.csv", "file,tags\na.jpg," + "x" * 10_000_000),
    tags("two encodings", "t.csv", "file,tags\na.jpg,K\u00e4fer\n".encode() + b"b.jpg,K\xe4fer\n"),
    tags("200,000 columns", "t.csv", "file" + ",x" * 200_000 + "\na.jpg"),
    tags("cells that are formulas", "t.csv", "file,=cmd\na.jpg,=1+1\n"),
    tags("another suffix", "t.pkl", b"\x80\x04."),
]
LISTS = [
    list_case("a path upwards", b"../../../etc/passwd"),
    list_case("an absolute path", b"/etc/passwd"),
    list_case("NUL", b"a\0b"),
    list_case("bytes that are no text", b"\xff\xfa"),
    list_case("a name of 100,000 letters", b"x" * 100_000),
    list_case("an absolute path of an image", b"/somewhere/else/a.jpg", expect=HARMLESS),
    annotation_case(
        "laughs", f"{LAUGHS}<annotation><object><name>&a9;</name></object></annotation>"
    ),
    annotation_case(
        "a file from outside",
        f"{OUTSIDE}<annotation><object><name>&x;</name></object></annotation>",
    ),
    annotation_case("deeply nested", "<annotation>" * 30_000),
    annotation_case("a pipe", fifo),
    annotation_case("a device", device),
    annotation_case("2 GB of zeros", holes),
    annotation_case(
        "an encoding that is none", '<?xml version="1.0" encoding="idna"?><annotation/>'
    ),
    text_case(
        "classes: HTML in a line break", "classes.txt", b"cat\x0b<img src=x>\r#", read_classes
    ),
    text_case("classes: a control character", "classes.txt", "cat\x1b[31m\n", read_classes),
    text_case("classes: a pipe", "classes.txt", fifo, read_classes),
    text_case("classes: NUL", "classes.txt", "cat\0\n", read_classes),
    text_case("colors: a separator", "labelmap.txt", b":0,\x1f1,3", read_label_map, HARMLESS),
    text_case(
        "colors: a number of 100,000 digits", "labelmap.txt", f"cat:{HUGE},1,1::", read_label_map
    ),
    text_case(
        "colors: digits of another script", "labelmap.txt", "cat:\u00b2,1,1::", read_label_map
    ),
]
COCO = [
    coco_case("deeply nested", DEEP),
    coco_case("a pipe", fifo),
    coco_case("a list", [coco()]),
    coco_case("images that are text", {**coco(), "images": "ab"}),
    coco_case("a height of 10^9", coco(height=10**9, width=10**9)),
    coco_case("a negative height", coco(height=-5)),
    coco_case("NaN as a coordinate", coco(segmentation=[[0, 0, float("nan"), 0, 4, 4]])),
    coco_case("coordinates far outside", coco(segmentation=[[0, 0, 1e300, 0, 4, 4]])),
    coco_case(
        "run lengths of another size",
        coco(segmentation={"size": [10**9, 10**9], "counts": [10**18]}),
    ),
    coco_case(
        "run lengths that cover too much",
        coco(segmentation={"size": [12, 16], "counts": [0, 10**12]}),
    ),
    coco_case(
        "run lengths that are damaged", coco(segmentation={"size": [12, 16], "counts": "\x7f~~"})
    ),
    coco_case("ids that are lists", coco(id=[1])),
    coco_case("a file name upwards", coco(file_name="../../b.jpg"), read=load_images),
    coco_case("an absolute file name", coco(file_name="/etc/passwd"), read=load_images),
    coco_case("NUL in a file name", coco(file_name="a\0b.jpg"), read=load_images),
]
OTHERS = [
    *yaml_cases("config", "c.yaml", lambda path: load_config(str(path))),
    *yaml_cases("description", "d.yaml", TaggedImages.load),
    *yaml_cases("class words", "w.yaml", read_class_words),
    *yaml_cases("sweep", "s.yaml", lambda path: read_sweep(path, [0], path.parent, [])),
    *yaml_cases("texts of CLIMS", "t.yaml", lambda path: read_texts(str(path), ["cat"])),
    *json_cases("results", "results.json", read_results),
    *json_cases("record of a run", "run.json", read_run),
    *[
        text_case(f"record of a run: {name}", "run.json", f'{{"starts": [{text}]}}', read_run)
        for name, text in {
            "a word as seed": '{"seed": "x"}',
            "a huge seed": '{"seed": 9999999999}',
            "a list as lists": '{"lists": [1]}',
        }.items()
    ],
    *json_cases("list of checkpoints", "checkpoints.json", lambda path: read_saved(path.parent)),
    *last_cases(),
    *json_cases(
        "values of masks", "dataset_meta.json", lambda path: read_mask_values(path.parent, ["cat"])
    ),
    *json_cases("captions", "c.jsonl", read_captions),
    text_case(
        "captions: an absolute path",
        "c.jsonl",
        '{"image": "/dev/zero", "caption": "a"}',
        read_captions,
    ),
    text_case(
        "captions: a path upwards",
        "c.jsonl",
        '{"image": "b/../../a", "caption": "a"}',
        read_captions,
    ),
    text_case(
        "captions: NUL in a path", "c.jsonl", '{"image": "a\\u0000", "caption": "a"}', read_captions
    ),
    text_case("metrics: deeply nested", "m.json", DEEP, read_metrics, LEFT_OUT),
    text_case(
        "metrics: a huge integer",
        "m.json",
        '{"iteration": 1, "a": 1' + "0" * 400 + "}",
        read_metrics,
        LEFT_OUT,
    ),
    text_case("metrics: lists", "m.json", '{"iteration": [1]}', read_metrics, LEFT_OUT),
    text_case(
        "manifest: deeply nested",
        "o/manifest.jsonl",
        f"{DEEP}\n{{}}\n",
        lambda path: Manifest(path.parent, {}),
    ),
    text_case(
        "manifest: numbers", "o/manifest.jsonl", "3\n3\n", lambda path: Manifest(path.parent, {})
    ),
    text_case(
        "manifest: bytes that are no text",
        "o/manifest.jsonl",
        b"\xff\n\xff\n",
        lambda path: Manifest(path.parent, {}),
    ),
    text_case(
        "manifest: a file as a list",
        "o/manifest.jsonl",
        '{"file": [], "key": "", "mask": "", "confidence": 1, "reason": ""}\n{}\n',
        lambda path: Manifest(path.parent, {}),
    ),
]
DOCUMENTS = [*TAGS, *LISTS, *COCO, *OTHERS]
