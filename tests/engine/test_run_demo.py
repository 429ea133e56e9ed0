# SPDX-License-Identifier: Apache-2.0
"""The demo's program on a small data set: with and without training."""

import importlib.util
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

from dalnet.engine import run

DEMO = Path(__file__).parents[2] / "demo" / "run_demo.py"


@pytest.fixture
def demo(voc_tree):
    spec = importlib.util.spec_from_file_location("run_demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def execute(*arguments):
        argv = ["--config-file", str(voc_tree.config), *map(str, arguments)]
        run(module.main, default_argument_parser().parse_args(argv))

    execute.output = voc_tree.output
    return execute


def test_trains_or_only_evaluates(demo, capsys):
    splits = ("DATASETS.TEST", ("voc_2012_sem_seg_val",), "TEST.EVAL_CAM", False)
    demo(*splits)
    trained = capsys.readouterr().out.splitlines()
    weights = demo.output / "model_final.pth"
    written = weights.stat().st_mtime_ns
    (demo.output / "report.png").unlink()
    demo("--eval-only", "MODEL.WEIGHTS", weights, *splits)
    assert capsys.readouterr().out.splitlines()[-2:] == trained[-2:]
    assert trained[-2].startswith("demo: seg mIoU = ") and "CAM mIoU = " in trained[-2]
    assert (demo.output / "report.png").exists()
    assert weights.stat().st_mtime_ns == written


def test_needs_a_split_to_show(demo, capsys):
    with pytest.raises(SystemExit):
        demo("DATASETS.TEST", ())
    assert "name it as DATASETS.TEST" in capsys.readouterr().err
