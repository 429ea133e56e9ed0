# SPDX-License-Identifier: Apache-2.0
"""From tagged images to a model and label maps by the commands."""

import json
import shlex

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY
from PIL import Image

from dalnet.checkpoint import config_for, load_model
from dalnet.cli import main
from dalnet.engine.run_folder import locked


def tiny_without(key):
    at = TINY.index(key)
    return TINY[:at] + TINY[at + 2 :]


def test_a_config_of_ones_own_says_itself_whether_there_is_an_alignment(folder, capsys):
    words = ["train", "--images", folder / "images", "--tags", folder / "tags.csv"]
    words += ["--output", folder / "run", "--config", "deit_tiny/dalnet", "--no-alignment"]
    with pytest.raises(SystemExit):
        main([str(word) for word in words])
    assert "--no-alignment" in capsys.readouterr().err and not (folder / "run").exists()


def test_a_start_beside_a_running_training_changes_nothing(folder, capsys):
    run = folder / "run"
    words = ["train", "--images", folder / "images", "--tags", folder / "tags.csv"]
    words += ["--output", run, "--no-alignment", *TINY]
    run.mkdir()
    (run / "dataset.yaml").write_text("of the running training")
    with locked(str(run)), pytest.raises(SystemExit):
        main([str(word) for word in words])
    assert "a training" in capsys.readouterr().err
    assert (run / "dataset.yaml").read_text() == "of the running training"


def test_values_that_do_not_fit_leave_the_run_as_it_is(folder, capsys):
    run = folder / "run"
    words = ["train", "--images", folder / "images", "--tags", folder / "tags.csv"]
    words += ["--output", run, "--no-alignment", "--overwrite", "SOLVER.BASE_LR", "-1.0"]
    run.mkdir()
    (run / "dataset.yaml").write_text("of an earlier training")
    with pytest.raises(SystemExit):
        main([str(word) for word in words])
    assert "SOLVER.BASE_LR" in capsys.readouterr().err
    assert (run / "dataset.yaml").read_text() == "of an earlier training"


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_no_key_says_so(folder):
    run = folder / "run"
    words = ["train", "--images", folder / "images", "--tags", folder / "tags.csv"]
    tiny = tiny_without("MODEL.DEVICE")
    main([str(word) for word in [*words, "--output", run, "--no-alignment", *tiny]])
    assert (run / "model_final.pth").is_file()
    tiny[tiny.index("SOLVER.MAX_ITER") + 1] = "3"
    main([str(word) for word in [*words, "--output", run, "--no-alignment", "--resume", *tiny]])
    assert load_model(config_for(run)).device.type == "cpu"


@pytest.mark.parametrize("fault", ["value", "size"])
def test_corrected_masks_that_do_not_fit_stop_the_training_at_its_start(folder, capsys, fault):
    size = (40, 56) if fault == "value" else (20, 28)
    wrong = np.full(size, 8 if fault == "value" else 1, np.uint8)
    Image.fromarray(wrong).save(folder / "masks/4.png")
    words = ["train", "--images", folder / "images", "--tags", folder / "tags.csv"]
    words += ["--corrections", folder / "masks", "--output", folder / "run", "--no-alignment"]
    with pytest.raises(SystemExit):
        main([str(word) for word in [*words, *TINY]])
    assert f"error: {folder / 'masks/4.png'}: the mask" in capsys.readouterr().err


def test_from_tags_to_label_maps_by_two_commands(folder, capsys):
    run = folder / "run"
    common = ["--images", folder / "images", "--tags", folder / "tags.csv"]
    train = ["train", *common, "--masks", folder / "masks", "--val", "0.4", "--output", run]
    main([str(word) for word in [*train, "--no-alignment", *TINY]])
    out = capsys.readouterr().out
    assert "deit-tiny" in out and f"written: {run / 'report.html'}" in out
    page = (run / "report.html").read_text()
    assert "tagged_val" in page and 'data-group="worst"' in page
    (results,) = run.rglob("results.json")
    content = json.loads(results.read_text())
    assert content["split"] == "tagged_val" and content["num_images"] == 4
    main(["label", "--weights", str(run), "--output", str(folder / "labeled"), "--protocol", "ss"])
    # Of the ten images one is not named, and two have no tags.
    assert len(list((folder / "labeled/masks").glob("*.png"))) == 7
    # From the folder of the first run, whose newest checkpoint is meant.
    again = ["train", *common, "--corrections", folder / "labeled/masks", "--output", folder / "b"]
    again += ["--weights", run]
    tiny = tiny_without("MODEL.DALNET.SEG_START_ITER")
    main([str(word) for word in [*again, "--no-alignment", *tiny]])
    # Else two iterations would end before the head, and with it the corrections, come in.
    config = yaml.safe_load((folder / "b/config.yaml").read_text())
    assert config["MODEL"]["DALNET"]["SEG_START_ITER"] == 0
    assert config["MODEL"]["DALNET"]["ALIGN_START_ITER"] == 0
    assert (folder / "b/model_final.pth").exists()
    assert "tagged_train" in (folder / "b/report.html").read_text()


def test_without_masks_the_tags_of_held_out_images_are_measured(folder):
    run = folder / "run"
    train = ["train", "--images", folder / "images", "--tags", folder / "tags.csv", "--val", "0.4"]
    train += ["--output", run, "--no-alignment"]
    main([str(word) for word in [*train, *TINY]])
    (results,) = run.rglob("results.json")
    content = json.loads(results.read_text())
    assert content["split"] == "tagged_val" and content["num_images"] == 4
    assert set(content["tags"]["classes"]) == {"red", "blue"}
    metrics = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    mean = content["tags"]["mean_average_precision"]
    assert metrics[-1]["tags/mAP"] == mean and 0 < mean <= 100
    assert "average precision" in (run / "report.html").read_text()


def test_page_of_a_training_opens_no_mask_that_is_not_held_out(folder):
    for path in (folder / "masks").iterdir():
        path.write_bytes(b"")
    run = folder / "run"
    train = ["train", "--images", folder / "images", "--tags", folder / "tags.csv", "--val", "0"]
    train += ["--masks", folder / "masks", "--output", run, "--no-alignment"]
    main([str(word) for word in [*train, *TINY]])
    assert "tagged_train" in (run / "report.html").read_text()


DINOV2 = """MODEL.DEVICE cpu MODEL.VIT.WEIGHTS "" MODEL.VIT.IMG_SIZE 28 MODEL.VIT.EMBED_DIM 24
MODEL.VIT.DEPTH 2 MODEL.VIT.NUM_HEADS 2 MODEL.VIT.INTERMEDIATE_BLOCK 1 INPUT.CROP.SIZE [28,28]
MODEL.SEM_SEG_HEAD.CONVS_DIM 16 MODEL.DALNET.SEG_START_ITER 0 INPUT.MIN_SIZE_TEST 30
SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2"""


def test_dinov2_by_name_with_its_patches_and_statistics(folder, capsys):
    common = ["--images", folder / "images", "--tags", folder / "tags.csv", "--no-alignment"]
    train = ["train", *common, "--encoder", "dinov2-small", "--output", folder / "run"]
    main([str(word) for word in [*train, *shlex.split(DINOV2)]])
    assert "vit_small_patch14_dinov2.lvd142m" in capsys.readouterr().out
    cfg = config_for(folder / "run")
    assert load_model(cfg).backbone.patch_size == 14
    np.testing.assert_allclose(cfg.MODEL.PIXEL_MEAN, [123.675, 116.28, 103.53])
