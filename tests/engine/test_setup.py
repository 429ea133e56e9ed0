# SPDX-License-Identifier: Apache-2.0
"""The output folder and the logs of a command."""

import logging
from pathlib import Path

import pytest

from dalnet.engine import setup


@pytest.mark.parametrize("name", ["detectron2.data", "fvcore.common", "dalnet.report"])
def test_a_second_setup_in_one_process_logs_each_line_once(checkpoint, tmp_path, capsys, name):
    for folder in ("training", "page", "page"):
        cfg = checkpoint.cfg.clone()
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        setup(cfg, eval_only=True)
    logging.getLogger(name).info("one line")
    assert capsys.readouterr().out.count("one line") == 1
    logs = [Path(tmp_path, folder, "log.txt").read_text() for folder in ("training", "page")]
    assert [log.count("one line") for log in logs] == [0, 1]
