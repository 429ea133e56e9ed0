# SPDX-License-Identifier: Apache-2.0
"""The report as a page: complete, escaped, true to its numbers."""

import html
import re

import pytest

from dalnet.data.palette import voc_palette
from dalnet.evaluation.sources import Measurement, Protocol
from dalnet.report.gallery import Card
from dalnet.report.page import render_page

HOSTILE = "</script><script>alert('x')</script>&amp;\"'<b>"
NAMES = ["background", "cat", HOSTILE]


def measure(source, protocol, miou, threshold=None, **more):
    iou = {"background": miou + 10, "cat": miou - 10, HOSTILE: None}
    crf = {"iters": 10} if "crf" in protocol else None
    measured = {"source": source, "protocol": protocol, "scales": [1.0, 1.5], "flip": False}
    return measured | {
        **{"crf": crf, "threshold": threshold, "miou": miou, "iou": iou, "labeled": 100.0},
        **more,
    }


@pytest.fixture
def parts():
    curve = {"thresholds": [0.0, 0.25, 0.5], "miou": [30.0, 58.5, None]}
    best = {"curve": curve, "best_threshold": 0.25, "best_miou": 58.5}
    measurements = [
        measure("sem_seg", "ss", 61.23),
        measure("sem_seg", "ms+flip+crf", 71.27),
        measure("cam", "ss", 52.36, 0.45, **best),
        measure("pseudo_label", "ss", 66.6, [0.25, 0.7]),
    ]
    result = {"split": "val", "num_images": 9, "num_scored": 8, "weights_sha256": "f00d"}
    cards = [
        Card("good", ["best", "random"], [0], {0: 99.0, 1: 91.5}, [0, 1, 255], {"image": "AAAA"}),
        Card(HOSTILE, ["worst"], [], {}, [0, 2], {"image": "AAAA"}),
    ]
    return {
        "title": HOSTILE,
        "facts": {"config": HOSTILE},
        "split": HOSTILE,
        "records": [{"image_labels": []}],
        "usual_results": HOSTILE,
        "results": {HOSTILE: result | {"measurements": measurements}},
        "measured": [
            Measurement("sem_seg", Protocol(False, False, False), (1.0,), "", "segmentation head"),
            Measurement("cam", Protocol(True, True, False), (1.0, 0.5), "", "CAM"),
        ],
        "metrics": {
            "loss_cls": {19: 3.75, 39: 1.5},
            "lr": {19: 1e-4, 39: float("nan")},
            "cam/mIoU": {59: 47.12, 39: 40.0},
            "val/sem_seg/mIoU": {59: 50.0},
            "time": {19: 1.0},
        },
        "cards": cards,
        "class_names": NAMES,
        "colors": voc_palette(3),
    }


def cells(page):
    """Texts of the tables' rows."""
    rows = re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    found = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<.*?>", "", text)).strip() for text in row] for row in found]


def test_classes_that_a_mean_lacks_are_named(parts):
    (result,) = parts["results"].values()
    result["measurements"][3]["iou"]["cat"] = None
    text = html.unescape(render_page(**parts))
    assert f"Left out of every mean, as no mask shows them: {HOSTILE}." in text
    assert "Left out of the mean of pseudo_label ss, as none of their pixels counts" in text


def test_images_that_cams_are_measured_on_are_counted_where_they_are_fewer(parts):
    (result,) = parts["results"].values()
    for count, is_said in ((8, False), (5, True)):
        result["num_labeled"] = count
        text = " ".join(render_page(**parts).split())
        assert ("5 of these with the image-level labels" in text) == is_said


def test_names_are_text_wherever_they_appear(parts):
    page = render_page(**parts)
    assert "alert('x')" not in page
    assert page.count("<script>") == page.count("</script>") == 1
    assert html.unescape(page).count(HOSTILE) >= 10
    # Nothing is loaded from anywhere.
    assert not re.findall(r'(?:src|href)="(?!#|data:image/jpeg;base64,)', page)


def test_table_states_what_every_number_is(parts):
    rows = cells(render_page(**parts))
    assert rows[0][:7] == ["source", "protocol", "scales", "flip", "CRF", "threshold", "mIoU %"]
    start = ["1.0, 1.5", "no"]
    assert rows[1:5] == [
        ["segmentation head", "ss", *start, "no", "-", "61.2", "-", "100.0"],
        ["segmentation head", "ms+flip+crf", *start, "yes", "-", "71.3", "-", "100.0"],
        ["CAM", "ss", *start, "no", "0.45", "52.4", "58.5 at 0.25", "100.0"],
        ["pseudo_label", "ss", *start, "no", "0.25 / 0.7", "66.6", "-", "100.0"],
    ]
    assert rows[5][1:3] == [
        "segmentation head (scales 1.0, 1.5)",
        "CAM (scales 1.0, 1.5, threshold 0.45)",
    ]
    assert rows[7:10] == [
        *(["cat", "51.2", "42.4", "56.6"], [HOSTILE, "-", "-", "-"]),
        ["mean", "61.2", "52.4", "66.6"],
    ]


def test_curves_and_bars_are_drawn(parts):
    page = render_page(**parts)
    charts = re.findall(r'<figure class="chart"><figcaption>(.*?)<', page)
    assert charts == ["mIoU % of the CAM", "mIoU %", "loss_cls", "learning rate"]
    assert "CAM: 47.1 at the end" in page
    assert "val, segmentation head: 50.0 at the end" in page
    widths = re.findall(r'class="bar" style="width:([\d.]+)%', page)
    assert [round(float(width), 1) for width in widths[:3]] == [71.2, 62.4, 76.6]
    assert "CRF: iters 10." in page


def test_cards_can_be_filtered(parts):
    page = render_page(**parts)
    assert re.findall(r'data-groups="(.*?)" data-classes="(.*?)"', page) == [
        *(("best random", "1"), ("worst", "2"))
    ]
    assert re.findall(r'data-group="(\w+)"', page) == ["all", "best", "random", "worst"]
    assert re.findall(r'<option value="(\w+)"', page) == ["all", "1", "2"]
    assert re.findall(r"background:(rgb\([\d,]+\))", page)[1] == "rgb(128,0,0)"
    text = " ".join(page.split())
    assert "labels: cat; mIoU 95.2 % (background 99.0, cat 91.5)" in text
    assert "no labels; no truth, no IoU" in text


@pytest.mark.parametrize(
    ("left_out", "links"),
    [
        ({"results": {}}, ["training", "gallery"]),
        ({"metrics": {}}, ["results", "gallery"]),
        ({"cards": []}, ["results", "training"]),
    ],
)
def test_missing_parts_are_left_out(parts, left_out, links):
    page = render_page(**(parts | left_out))
    assert re.findall(r'<a href="#(\w+)"', page) == links
    assert re.findall(r'<section id="(\w+)"', page) == links


def test_split_without_masks_has_no_table(parts):
    (result,) = parts["results"].values()
    page = render_page(**(parts | {"results": {"r": result | {"measurements": []}}}))
    assert "<table>" not in page
