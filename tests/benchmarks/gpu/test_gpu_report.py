# SPDX-License-Identifier: Apache-2.0
"""The file of rows and its table."""

import os

import torch

from benchmarks.gpu.report import Report, card


def test_every_row_names_card_and_version(tmp_path):
    report = Report(tmp_path / "rows.json")
    report.start()
    report.add("step", {"name": "bf16", "seconds": 0.123456, "operators": [["aten::mm", 3, 1.0]]})
    report.add("step", {"name": "fp32", "not_run": "the time was up"})
    first, second = report.rows()
    assert (first["card"], first["torch"]) == (card(), torch.__version__)
    assert first["operators"] == [["aten::mm", 3, 1.0]]
    assert second["peak_mb"] is None and second["error"] is None
    assert os.listdir(tmp_path) == ["rows.json"]
    table = report.table()
    assert "0.1235" in table and "not_run the time was up" in table
    assert "aten::mm" not in table
    report.start()
    assert report.rows() == []
