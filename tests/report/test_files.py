# SPDX-License-Identifier: Apache-2.0
"""Reading results.json and metrics.json, whole and damaged."""

import json

import pytest

from dalnet.errors import UsageError
from dalnet.report.files import read_metrics, read_results


def test_results_come_back_as_they_are(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"split": "s", "measurements": []}))
    assert read_results(path) == {"split": "s", "measurements": []}


@pytest.mark.parametrize("text", [b"", b"[1", b"\xff", b"[]", b'{"split": "s"}', None])
def test_something_else_is_refused_by_its_name(tmp_path, text):
    path = tmp_path / "results.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UsageError, match=r"results\.json"):
        read_results(path)


def test_metrics_of_a_killed_and_resumed_training(tmp_path):
    path = tmp_path / "metrics.json"
    assert read_metrics(path) == {}
    lines = [
        '{"iteration": 19, "lr": 0.5}',
        '{"iteration": 39, "lr": 0.4, "sem_seg/mIoU": 12.5}',
        '{"iteration": 59, "l',
        '{"iteration": 39, "lr": 0.75}',
        '{"iteration": 59, "lr',
    ]
    path.write_text("\n".join(lines))
    assert read_metrics(path) == {"lr": {19: 0.5, 39: 0.75}, "sem_seg/mIoU": {39: 12.5}}
