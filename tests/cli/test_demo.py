# SPDX-License-Identifier: Apache-2.0
"""``dalnet demo`` on a small data set: with and without training."""

import pytest

from dalnet.cli import main


@pytest.fixture
def demo(voc_tree):
    def execute(*arguments):
        main(["demo", "--config", str(voc_tree.config), *map(str, arguments)])

    execute.output = voc_tree.output
    return execute


def test_trains_or_only_evaluates(demo, capsys):
    splits = ("DATASETS.TEST", ("voc_2012_sem_seg_val",), "TEST.EVAL_CAM", False)
    demo(*splits)
    trained = capsys.readouterr().out.splitlines()
    weights = demo.output / "model_final.pth"
    written = weights.stat().st_mtime_ns
    (demo.output / "report.png").unlink()
    demo("--eval-only", "--weights", weights, *splits)
    assert capsys.readouterr().out.splitlines()[-2:] == trained[-2:]
    assert trained[-2].startswith("demo: seg mIoU = ") and "CAM mIoU = " in trained[-2]
    assert (demo.output / "report.png").exists()
    assert weights.stat().st_mtime_ns == written


def test_needs_a_split_to_show(demo, capsys):
    with pytest.raises(SystemExit):
        demo("DATASETS.TEST", ())
    assert "DATASETS.TEST" in capsys.readouterr().err
