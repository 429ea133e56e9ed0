# SPDX-License-Identifier: Apache-2.0
"""``dalnet demo`` on a small data set: with and without training."""

import pytest

from dalnet.cli import main


@pytest.fixture
def demo(voc_tree):
    def execute(*arguments):
        main(["demo", "--config", str(voc_tree.config), *map(str, arguments)])

    execute.config, execute.output = voc_tree.config, voc_tree.output
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


def test_only_the_demos_own_folder_is_written_over(demo, capsys):
    splits = ("DATASETS.TEST", ("voc_2012_sem_seg_val",))
    main(["train", "--config", str(demo.config), "DATASETS.TEST", "()"])
    before = (demo.output / "model_final.pth").read_bytes()
    with pytest.raises(SystemExit):
        demo(*splits)
    assert "OUTPUT_DIR" in capsys.readouterr().err
    assert (demo.output / "model_final.pth").read_bytes() == before


def test_an_earlier_demo_is_replaced(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("dalnet.cli.demo._RECIPE", str(demo.config))
    monkeypatch.setattr("dalnet.cli.demo._FOLDER", str(tmp_path / "demo"))
    for _ in range(2):
        demo("DATASETS.TEST", ("voc_2012_sem_seg_val",), "TEST.EVAL_CAM", False)
        assert (tmp_path / "demo/report.png").is_file()
    assert not demo.output.exists()


def test_flags_of_ones_own_images_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--images", "nowhere"])
    assert "--images" in capsys.readouterr().err
