# SPDX-License-Identifier: Apache-2.0
"""Reading results.json and metrics.json, whole and damaged."""

import copy
import json

import pytest

from dalnet.errors import UsageError
from dalnet.report.run_files import read_metrics, read_results

ROW = {
    "source": "cam",
    "protocol": "ss",
    "scales": [1.0],
    "flip": False,
    "crf": None,
    "threshold": 0.5,
    "miou": None,
    "iou": {"cat": 1.5, "dog": None},
    "labelled": 100.0,
    "best_threshold": 0.4,
    "best_miou": 2,
    "curve": {"thresholds": [0.0, 0.4], "miou": [None, 2]},
}
RESULT = {"split": "s", "num_images": 1, "num_scored": 1, "weights_sha256": "", "rows": [ROW]}


def test_results_come_back_as_they_are(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(RESULT))
    assert read_results(path) == RESULT
    path.write_text(json.dumps({**RESULT, "rows": []}))
    assert read_results(path)["rows"] == []


@pytest.mark.parametrize("text", ["", "{", "[1", "\udcff", None])
def test_unreadable_results(tmp_path, text):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"results\.json cannot be read .*tools/evaluate\.py"):
        read_results(path)


@pytest.mark.parametrize(
    ("keys", "value", "fault"),
    [
        ([], [], "the file is no object"),
        (["rows"], {}, "rows of the file has the wrong type"),
        (["rows", 0], "x", "row 0 is no object"),
        (["rows", 0, "miou"], "82", "miou of row 0 has the wrong type"),
        (["rows", 0, "iou"], {"cat": "1"}, "iou of row 0 holds something"),
        (["rows", 0, "scales"], ["1"], "scales of row 0 holds something"),
        (["rows", 0, "threshold"], ["1"], "threshold of row 0 holds something"),
        (["rows", 0, "threshold"], [0.2, 0.5], "threshold of row 0 has the wrong type"),
        (["rows", 0, "curve"], {"miou": []}, "curve of row 0 has no thresholds"),
        (["rows", 0, "curve", "miou"], [1, 2, 3], "not one mIoU per threshold"),
        (["rows", 0, "curve", "miou"], [1, "2"], "curve of row 0 holds something"),
        (["rows", 0, "best_miou"], "2", "best_miou of row 0 has the wrong type"),
    ],
)
def test_other_contents_are_refused(tmp_path, keys, value, fault):
    result = {"": copy.deepcopy(RESULT)}
    *parents, last = ["", *keys]
    node = result
    for key in parents:
        node = node[key]
    node[last] = value
    path = tmp_path / "results.json"
    path.write_text(json.dumps(result[""]))
    with pytest.raises(UsageError, match=f"no results.json .*{fault}"):
        read_results(path)


@pytest.mark.parametrize("key", [*list(RESULT), *list(ROW)[:9]])
def test_missing_keys_are_named(tmp_path, key):
    result = copy.deepcopy(RESULT)
    holder = result if key in result else result["rows"][0]
    del holder[key]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(result))
    with pytest.raises(UsageError, match=f"has no {key}"):
        read_results(path)


def test_metrics_without_broken_lines(tmp_path):
    path = tmp_path / "metrics.json"
    lines = [
        '{"iteration": 19, "lr": 0.5, "loss_cls": NaN, "note": "text"}',
        "",
        '{"iteration": 39, "lr"',
        "[1, 2]",
        '{"lr": 7}',
        '{"iteration": "59", "lr": 8}',
        '{"iteration": 59, "lr": 0.25}',
        '{"iteration": 39, "lr": 1, "sem_seg/mIoU": 12.5}',
        '{"iteration": 59, "lr": 0.75}',
        '{"iteration": 79, "l',
    ]
    path.write_bytes("\n".join(lines).encode() + b"\xff\xfe")
    metrics = read_metrics(path)
    assert metrics["lr"] == {19: 0.5, 39: 1.0, 59: 0.75}
    assert metrics["sem_seg/mIoU"] == {39: 12.5}
    assert list(metrics) == ["lr", "loss_cls", "sem_seg/mIoU"]


def test_metrics_that_cannot_be_opened(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_metrics(tmp_path)
