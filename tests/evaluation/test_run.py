# SPDX-License-Identifier: Apache-2.0
"""The evaluation command as a whole: its numbers, its files, interrupts, and splits with gaps."""

import argparse
import importlib.util
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalnet.checkpoint import load_model
from dalnet.data.datasets.catalog import register
from dalnet.engine import Trainer, setup
from dalnet.errors import UsageError
from dalnet.evaluation import crf, evaluator, scorer
from dalnet.evaluation.results import read_results
from dalnet.evaluation.run import add_arguments, run
from dalnet.modeling.meta_arch import DALNet


@pytest.fixture
def output(tmp_path):
    return tmp_path / "run" / "evaluation"


@pytest.fixture
def command(split, checkpoint, output):
    """Runs the command on the split, by the checkpoint alone; returns results.json."""

    def execute(*arguments, weights=checkpoint.weights, workers=1):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        argv = ["--split", split.name, "--workers", workers, *arguments]
        if weights:
            argv = ["--weights", weights, *argv]
        run(parser.parse_args([str(part) for part in argv]), setup)
        return read_results(output / split.name / "results.json")

    return execute


@pytest.fixture
def seen(monkeypatch):
    """Names of the images that go through the network; ``stop_at`` interrupts before one."""

    class Names(list):
        stop_at = None

    names, predict = Names(), scorer.ImageScorer._predict_image

    def note(self, record):
        if len(names) == names.stop_at:
            raise KeyboardInterrupt
        names.append(record["image_id"])
        return predict(self, record)

    monkeypatch.setattr(scorer.ImageScorer, "_predict_image", note)
    return names


def by_name(result):
    return {(one["source"], one["protocol"]): one for one in result["measurements"]}


def test_numbers_are_those_of_the_training_evaluation(command, checkpoint, split):
    result = command("--protocols", "ss,ms+flip")
    assert len(result["measurements"]) == 8
    cfg = checkpoint.cfg
    theirs = Trainer.test(cfg, load_model(cfg))
    trained = read_results(checkpoint.results)
    assert len(trained["measurements"]) == 4
    for expected in trained["measurements"]:
        one = by_name(result)[expected["source"], expected["protocol"]]
        assert one == expected
        assert one["miou"] == pytest.approx(theirs[one["source"]]["mIoU"])
        shown = {name for name, value in one["iou"].items() if value is not None}
        assert shown == {"background", "cat", "dog"}
    shared = result.keys() - {"measurements", "config"}
    assert shared == trained.keys() - {"measurements", "config"}
    assert all(result[key] == trained[key] for key in shared)
    assert len(result["weights_sha256"]) == 64


def test_crf_labels_everything_and_the_dump_can_be_read_as_masks(command, split, tmp_path):
    dump = tmp_path / "dump"
    options = ("TEST.CRF.BI_XY_STD", 5.0, "TEST.CRF.ITERS", 2)
    result = by_name(command("--protocols", "ss,ss+crf", "--dump", dump, *options))
    assert result["pseudo_label", "ss+crf"]["labeled"] == 100
    assert result["pseudo_label", "ss"]["labeled"] < 100
    assert result["cam", "ss+crf"]["confusion"] != result["cam", "ss"]["confusion"]
    assert result["sem_seg", "ss+crf"]["crf"]["bi_xy_std"] == 5
    for name in ("sem_seg/ss", "sem_seg/ss+crf", "pseudo_label/ss", "cam/ss+crf"):
        folder = dump / name
        listed = (folder / "ImageSets/Segmentation" / f"{split.name}.txt").read_text().split()
        assert listed == ["0", "1", "2", "3"]
        for image in listed:
            assert Image.open(folder / "SegmentationClass" / f"{image}.png").size == (50, 40)
    with np.load(dump / "cam/ss/CAM/0.npz") as arrays:
        assert arrays["cams"].shape == (1, 40, 50)
    assert not (dump / "cam/ss/SegmentationClass").exists()


def test_an_interrupted_run_goes_on(command, output, split, seen):
    arguments = ("--protocols", "ss,ss+crf", "TEST.CRF.ITERS", 2)
    expected = command(*arguments)
    shutil.rmtree(output)
    del seen[:]
    seen.stop_at = 3
    with pytest.raises(UsageError, match="images are done and kept"):
        command(*arguments)
    (folder,) = (output / split.name).glob(".progress*")
    with np.load(folder / "rank0.npz") as arrays:
        done = len(arrays["names"])
    assert done > 0
    assert not (output / split.name / "results.json").exists()
    seen.stop_at = None
    del seen[:]
    assert command(*arguments) == expected
    assert len(seen) == 4 - done
    assert not list((output / split.name).glob(".progress*"))
    command(*arguments)
    assert len(seen) == 8 - done, "a finished evaluation starts anew"


def test_a_killed_crf_process_is_one_sentence_and_the_same_command_goes_on(
    command, monkeypatch, seen
):
    arguments = ("--sources", "sem_seg", "--protocols", "ss+crf", "TEST.CRF.ITERS", 1)
    expected = command(*arguments)
    refine = crf.CRFPool.refine

    def kill_after_two(self, task):
        if len(seen) == 3:
            for pid in list(self._processes):
                os.kill(pid, signal.SIGKILL)
        return refine(self, task)

    # One after the other, so that two are done for certain.
    monkeypatch.setattr(evaluator, "_IMAGES_PER_WORKER", 0)
    monkeypatch.setattr(crf.CRFPool, "refine", kill_after_two)
    del seen[:]
    with pytest.raises(UsageError, match="a CRF process ended"):
        command(*arguments)
    monkeypatch.setattr(crf.CRFPool, "refine", refine)
    assert command(*arguments) == expected
    assert seen == [0, 1, 2, 2, 3]


def test_nothing_is_saved_once_the_ranks_have_met(command, output, split, monkeypatch):
    evaluate = evaluator.CountsEvaluator.evaluate

    def as_on_another_rank(self):
        evaluate(self)
        shutil.rmtree(self._folder)  # as the main rank does when it has written the results

    monkeypatch.setattr(evaluator.CountsEvaluator, "evaluate", as_on_another_rank)
    with pytest.raises(UsageError, match="results.json"):
        command("--sources", "sem_seg", "--protocols", "ss")
    assert not list((output / split.name).glob(".progress*"))


def test_progress_of_other_settings_is_not_taken(command, seen):
    arguments = ("--sources", "cam", "--protocols", "ss")
    seen.stop_at = 1
    with pytest.raises(UsageError):
        command(*arguments)
    seen.stop_at = None
    result = command(*arguments, "MODEL.CAM.BACKGROUND_THRESHOLD", 0.3)
    assert (result["num_images"], result["measurements"][0]["threshold"]) == (4, 0.3)
    assert len(seen) == 5


def test_a_mask_of_another_size_is_named_and_nothing_is_lost(command, split, seen):
    path = split.records[2]["sem_seg_file_name"]
    with open(path, "rb") as stream:
        kept = stream.read()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    arguments = ("--sources", "sem_seg", "--protocols", "ss")
    with pytest.raises(UsageError, match="2.png"):
        command(*arguments)
    with open(path, "wb") as stream:
        stream.write(kept)
    assert command(*arguments)["num_images"] == 4
    assert seen == [0, 1, 2, 2, 3]


def test_a_split_without_masks_is_predicted_but_not_scored(command, split, tmp_path, caplog):
    for record in split.records:
        del record["sem_seg_file_name"]
    dump = tmp_path / "dump"
    result = command("--sources", "sem_seg", "--protocols", "ss", "--dump", dump)
    assert (result["num_images"], result["num_scored"], result["measurements"]) == (4, 0, [])
    assert "4 of the 4 images" in caplog.text
    assert len(list((dump / "sem_seg/ss/SegmentationClass").iterdir())) == 4


def test_cams_are_scored_on_labeled_images_only(command, checkpoint, split, tmp_path, caplog):
    arguments = ("--protocols", "ms+flip,ss+crf", "TEST.CRF.ITERS", 1)
    whole, labeled = by_name(command(*arguments)), split.records[:2]
    for record in split.records[2:]:
        record["image_labels"] = []
    found = command("--dump", tmp_path / "dump", *arguments)
    assert f"2 of 4 images of {split.name} have no image-level label" in caplog.text
    assert [found[f"num_{name}"] for name in ("images", "scored", "labeled")] == [4, 4, 2]
    Trainer.test(checkpoint.cfg, load_model(checkpoint.cfg))
    trained = by_name(read_results(checkpoint.results))
    for name, images in (("sem_seg", "0123"), ("pseudo_label", "01")):
        folder = tmp_path / "dump" / name / "ms+flip"
        text = (folder / "ImageSets/Segmentation" / f"{split.name}.txt").read_text()
        assert text.split() == sorted(p.stem for p in folder.glob("Seg*/*")) == list(images)
    split.records[:] = labeled
    part = by_name(command(*arguments))
    for key, one in by_name(found).items():
        assert one == (whole if key[0] == "sem_seg" else part)[key]
        if key in trained:
            assert one == trained[key]


def test_config_and_checkpoint_are_found_in_every_way(command, checkpoint, split, tmp_path):
    arguments = ("--sources", "cam", "--protocols", "ss")
    expected = command(*arguments)
    assert command(*arguments, weights=checkpoint.weights.parent) == expected
    assert command(*arguments, "MODEL.WEIGHTS", checkpoint.weights, weights=None) == expected
    config = tmp_path / "config.yaml"
    config.write_text(checkpoint.cfg.dump())
    chosen = ("--config", config, "--output", tmp_path / "run/evaluation" / split.name)
    found = command(*chosen, *arguments, "TEST.CRF.ITERS", 3)
    assert found["measurements"] == expected["measurements"]
    assert found["config"]["TEST"]["CRF"]["ITERS"] == 3
    with pytest.raises(UsageError, match="no model to evaluate"):
        command(*arguments, weights=None)


def test_a_system_without_segmentation_head(command, monkeypatch):
    kept = {name: DALNet.sources[name] for name in ("cam", "pseudo_label")}
    monkeypatch.setattr(DALNet, "sources", kept)
    result = command("--protocols", "ss")
    assert [one["source"] for one in result["measurements"]] == ["cam", "pseudo_label"]
    with pytest.raises(UsageError, match="'sem_seg'.* cam, pseudo_label"):
        command("--sources", "sem_seg", "--protocols", "ss")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--sources", "boxes"), "'boxes'.* sem_seg, cam, cam_inter, pseudo_label"),
        (("--protocols", "tta"), "'tta'"),
        (("--protocols", "ss+crf", "TEST.CRF.BACKEND", "gpu"), r"TEST\.CRF\.BACKEND"),
    ],
)
def test_settings_that_cannot_work_are_refused(command, arguments, part):
    with pytest.raises(UsageError, match=part):
        command(*arguments)


def test_no_worker_is_refused(command):
    with pytest.raises(UsageError, match="0 CRF processes"):
        command(workers=0)


def test_splits_that_cannot_be_evaluated_are_refused(command, split):
    for record in split.records:
        record["image_labels"] = []
    with pytest.raises(UsageError, match="image-level labels, which cam, cam_inter, pseudo_label"):
        command()
    split.records.append(split.records[0])
    with pytest.raises(UsageError, match="2 images whose file is called 0"):
        command()
    split.records.clear()
    with pytest.raises(UsageError, match="no images"):
        command()
    with pytest.raises(UsageError, match="'nowhere'"):
        command("--split", "nowhere")


def test_a_split_of_other_classes_is_refused(command, split):
    register("other_classes", lambda: split.records, ("dog", "cat", "owl"))
    with pytest.raises(UsageError, match="other_classes"):
        command("--split", "other_classes")


def test_the_script_takes_what_it_took_before(checkpoint, split, tmp_path, monkeypatch):
    path = Path(__file__).parents[2] / "tools" / "evaluate.py"
    spec = importlib.util.spec_from_file_location("evaluate_tool", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    config = tmp_path / "config.yaml"
    config.write_text(checkpoint.cfg.dump())
    argv = ["evaluate.py", "--config-file", config, "--split", split.name, "--sources", "cam"]
    argv += ["--num-gpus", 1, "MODEL.WEIGHTS", checkpoint.weights]
    monkeypatch.setattr("sys.argv", [str(part) for part in argv])
    tool.engine.run(tool.main, tool.parse_args())
    assert len(read_results(checkpoint.results)["measurements"]) == 2
