# SPDX-License-Identifier: Apache-2.0
"""Tags in JSON, JSON lines, COCO, Label Studio, CVAT and Create ML."""

import json

import pytest
from helpers import refused

from dalnet.data.tags import read_tags


@pytest.fixture
def read(tmp_path):
    def execute(content, name="tags.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_tags(path)

    return execute


def test_json_by_image(read):
    table = read({"a.jpg": ["cat", "dog"], "b.jpg": [], "c.jpg": "cat", "d.jpg": None})
    assert table.shown == {"a.jpg": ["cat", "dog"], "b.jpg": [], "c.jpg": ["cat"], "d.jpg": None}


def test_json_lines(read):
    text = '{"file_name": "a.jpg", "tags": ["cat"]}\n\n{"file": "b.jpg", "label": "dog"}\n'
    assert read(text, "metadata.jsonl").shown == {"a.jpg": ["cat"], "b.jpg": ["dog"]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_json_lines_end_where_json_lets_them(read, end):
    lines = [{"file": "a\u2028b.jpg", "tag": "cat"}, {"file": "c\x85.jpg", "tag": "dog"}]
    text = end.join(json.dumps(line, ensure_ascii=False) for line in lines)
    assert [*read(text, "metadata.jsonl").shown] == ["a\u2028b.jpg", "c\x85.jpg"]


CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "categories": CATEGORIES,
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1], "segmentation": "odd"},
        {"id": 2, "image_id": 1, "category_id": 3},
    ],
}


def test_coco(read):
    table = read(COCO)
    assert table.shown == {"a.jpg": ["cat"], "b.jpg": []} and table.classes == ["dog", "cat"]


def test_category_above_others_is_no_class_unless_it_is_used(read):
    categories = [{"id": 0, "name": "pets"}, *({**c, "supercategory": "pets"} for c in CATEGORIES)]
    assert read({**COCO, "categories": categories}).classes == ["dog", "cat"]
    odd = [{**c, "supercategory": ["pets"]} for c in CATEGORIES]
    assert read({**COCO, "categories": odd}).classes == ["dog", "cat"]
    own = [{**c, "supercategory": c["name"]} for c in CATEGORIES]
    assert read({**COCO, "categories": own}).classes == ["dog", "cat"]
    used = [*COCO["annotations"], {"id": 3, "image_id": 2, "category_id": 0}]
    table = read({**COCO, "categories": categories, "annotations": used})
    assert table.classes == ["pets", "dog", "cat"] and table.shown["b.jpg"] == ["pets"]


@pytest.mark.parametrize("doubled", [{"images": "file_name"}, {"categories": "name"}])
def test_id_that_two_have_is_refused_unless_they_are_the_same(read, doubled):
    (key, field), *_ = doubled.items()
    first = COCO[key][0]
    assert read({**COCO, key: [*COCO[key], first]}).shown == read(COCO).shown
    with refused("tags.json", first["id"], "other"):
        read({**COCO, key: [*COCO[key], {**first, field: "other"}]})


def test_label_studio_of_any_tool(read):
    def task(image, **value):
        return {"data": {"image": image}, "annotations": [{"result": [{"value": value}]}]}

    tasks = [
        task("a.jpg", x=1, ellipselabels=["cat"]),
        task("b.jpg", bitmasklabels=["dog"], rle=[1]),
        task("c.jpg", taxonomy=[["pets", "cat"], ["dog"]]),
        task("d.jpg", x=1),
        {"image": "e.jpg", "id": 3, "shape": [{"x": 1, "vectorlabels": ["cat"]}], "choice": "dog"},
    ]
    shown = {"a.jpg": ["cat"], "b.jpg": ["dog"], "c.jpg": ["cat", "dog"], "d.jpg": []}
    assert read(tasks).shown == {**shown, "e.jpg": ["dog", "cat"]}


def test_label_studio(read):
    def task(image, *results, **more):
        return {"data": {"image": image}, "annotations": [{"result": list(results), **more}]}

    cat = {"type": "choices", "value": {"choices": ["cat", "dog"]}}
    box = {"type": "rectanglelabels", "value": {"rectanglelabels": ["cow"], "x": 1}}
    tasks = [
        task("/data/upload/1/0a1b2c3d-a%20b.jpg", cat, box),
        task("/data/local-files/?d=sub/b.jpg"),
        task("c.jpg", cat, was_cancelled=True),
        {"data": {"image": "d.jpg"}},
        {"image": "e.jpg", "choice": "cat"},
        {"image": "f.jpg", "choice": {"choices": ["cat", "dog"]}},
    ]
    assert read(tasks).shown == {
        "/data/upload/1/0a1b2c3d-a b.jpg": ["cat", "dog", "cow"],
        "sub/b.jpg": [],
        "c.jpg": None,
        "d.jpg": None,
        "e.jpg": ["cat"],
        "f.jpg": ["cat", "dog"],
    }


MINIMAL = {"id": 1, "annotator": 2, "created_at": "now", "updated_at": "now", "lead_time": 1.5}


def test_single_choices_of_label_studio_under_any_name(read):
    tasks = [
        {**MINIMAL, "image": "a.jpg", "source": "http://x/a.jpg", "animal": "cat"},
        {**MINIMAL, "image": "b.jpg", "source": "b.JPG", "animal": {"choices": ["cat", "dog"]}},
        {**MINIMAL, "image": "c.jpg", "source": "/data/c", "animal": ["dog", "cat"]},
        {**MINIMAL, "image": "d.jpg", "source": ""},
    ]
    shown = {"a.jpg": ["cat"], "b.jpg": ["cat", "dog"], "c.jpg": ["dog", "cat"], "d.jpg": None}
    assert read(tasks).shown == shown
    assert read([tasks[0]]).shown == {"a.jpg": ["cat"]}


def test_what_nobody_has_labeled_is_unknown_and_an_empty_answer_shows_none(read):
    data = {"camera": {"model": "x"}}
    tasks = [
        {**MINIMAL, **data, "image": "a.jpg", "annotation_id": 7},
        {**MINIMAL, **data, "image": "b.jpg", "annotation_id": None},
        {**MINIMAL, "image": "c.jpg", "annotation_id": 8, "label": [{"rectanglelabels": ["cat"]}]},
    ]
    assert read(tasks).shown == {"a.jpg": [], "b.jpg": None, "c.jpg": ["cat"]}


def test_answers_of_several_annotators_are_joined(read):
    tasks = [
        {**MINIMAL, "image": "a.jpg", "annotation_id": number, "choice": choice}
        for number, choice in enumerate(["cat", "dog"])
    ]
    assert read(tasks).shown == {"a.jpg": ["cat", "dog"]}
    with refused("task 2", "twice"):
        read([tasks[0], {**tasks[1], "id": 5}])


def test_label_studio_calls_images_by_any_key(read):
    cat = [{"result": [{"value": {"choices": ["cat"]}}]}]
    data = {"photo": "https://host/a%20b.JPG?d=&size=9", "page": "https://host/a"}
    tasks = [
        {"data": data, "annotations": cat},
        {**MINIMAL, "url": "s3://pets/c#1 50%25.png", "choice": "dog"},
        {"data": {"image": "/storage-data/uploaded/?filepath=upload/1/d.jpg"}, "annotations": cat},
    ]
    shown = {"/a b.JPG": ["cat"], "c#1 50%25.png": ["dog"], "upload/1/d.jpg": ["cat"]}
    assert read(tasks).shown == shown
    with refused("task 1", '"image"'):
        read([{"data": {"left": "a.jpg", "right": "b.jpg"}, "annotations": cat}])


def test_create_ml(read):
    def box(label):
        return {"label": label, "coordinates": {"x": 5, "y": 5, "width": 2, "height": 2}}

    entries = [
        {"image": "a.jpg", "annotations": [box("cat"), box("dog"), box("cat")]},
        {"image": "b.jpg", "annotations": []},
    ]
    assert read(entries).shown == {"a.jpg": ["cat", "dog"], "b.jpg": []}


@pytest.mark.parametrize(
    "tasks",
    [
        [{"animal": "cat", "weather": "rain"}],
        [{"choice": "cat", "weather": "rain"}],
        [{"animal": "cat"}, {"weather": "rain"}],
        [{"weather": "rain", "label": [{"x": 1, "rectanglelabels": ["cat"]}]}],
        [{"weather": "rain", "animal": {"choices": ["cat", "dog"]}}],
    ],
)
def test_words_that_may_be_no_labels_are_refused(read, tasks):
    with refused("tags.json", "'weather'", 'export "JSON"'):
        read([{**MINIMAL, "image": f"{number}.jpg", **task} for number, task in enumerate(tasks)])


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><meta><job><labels>
<label><name>cat</name></label><label><name>dog</name></label></labels></job></meta>
<image id="0" name="a.jpg"><tag label="dog"/><box label="cat" xtl="1"/></image>
<image id="1" name="b.jpg"/></annotations>"""


def test_cvat(read):
    table = read(CVAT, "annotations.xml")
    assert table.shown == {"a.jpg": ["dog", "cat"], "b.jpg": []} and table.classes == ["cat", "dog"]


def test_points_of_a_skeleton_of_cvat_are_no_classes(read):
    label = "<label><name>head</name><type>points</type><parent>cat</parent></label></labels>"
    shape = '<skeleton label="cat"><points label="head" points="1,1"/></skeleton>'
    content = CVAT.replace("</labels>", label).replace('<tag label="dog"/>', shape)
    table = read(content, "annotations.xml")
    assert table.shown["a.jpg"] == ["cat"] and table.classes == ["cat", "dog"]


def test_file_of_another_tool_is_told_what_is_read(read):
    labelme = {"version": "5.0.1", "flags": {}, "shapes": [{"label": "cat"}], "imagePath": "a.jpg"}
    with refused("image flags", "COCO, Label Studio or Create ML"):
        read(labelme)


ENTITIES = '<!DOCTYPE a [<!ENTITY b "c">]><annotations><image name="&b;"/></annotations>'


@pytest.mark.parametrize(
    ("content", "name", "where"),
    [
        ("{", "tags.json", "tags.json"),
        ("[" * 100_000, "tags.json", "tags.json"),
        ("3", "tags.json", "tags.json"),
        ('{"a.jpg": ["cat"], "a.jpg": ["dog"]}', "tags.json", "tags.json"),
        ('{"a.jpg": [1]}', "tags.json", "image a.jpg"),
        ('{"a.jpg": {"cat": 1}}', "tags.json", "image a.jpg"),
        ("{}", "tags.json", "tags.json"),
        ('{"file_name": "a.jpg"}', "tags.jsonl", "line 1"),
        ('\n{"tags": []}', "tags.jsonl", "line 2"),
        ("3", "tags.jsonl", "line 1"),
        ({**COCO, "annotations": [{"image_id": 9, "category_id": 3}]}, "tags.json", "tags.json"),
        ({**COCO, "categories": [{"id": 3}]}, "tags.json", "tags.json"),
        ([{"data": {"text": "a"}}], "tags.json", "task 1"),
        ([{"image": "a.jpg", "choice": 3}], "tags.json", "task 1"),
        ("<annotations>", "tags.xml", "tags.xml"),
        ("nothing", "tags.xml", "tags.xml"),
        ("<annotation/>", "tags.xml", "tags.xml"),
        (ENTITIES, "tags.xml", "tags.xml"),
    ],
)
def test_what_cannot_be_read_names_file_and_place(read, content, name, where):
    with refused(where):
        read(content, name)
