# SPDX-License-Identifier: Apache-2.0
"""Reading metrics.json, whole and damaged."""

from dalnet.report.files import read_metrics


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
