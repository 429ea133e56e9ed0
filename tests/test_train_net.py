# SPDX-License-Identifier: Apache-2.0
"""The program: train, resume, evaluate; and one sentence for every input that cannot work."""

import shutil

import helpers
import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from dalnet.config import load_config
from dalnet.engine import run, setup
from dalnet.engine.train import argument_parser, main
from dalnet.io import UNFINISHED
from dalnet.modeling.meta_arch import DALNet


@pytest.fixture
def job(voc_tree):
    """The data and config of ``voc_tree`` with a function that runs train_net on them."""

    def execute(*arguments):
        argv = ["--config-file", str(voc_tree.config), *map(str, arguments)]
        run(main, argument_parser().parse_args(argv))

    execute.voc, execute.output, execute.config = voc_tree.voc, voc_tree.output, voc_tree.config
    return execute


def refused(capsys, job, *arguments):
    """Run, expect exit status 1 and a single sentence on stderr; returns the sentence."""
    with pytest.raises(SystemExit) as error:
        job(*arguments)
    assert error.value.code == 1
    sentences = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(sentences) == 1
    assert "Traceback" not in sentences[0]
    return sentences[0]


def test_train_resume_and_evaluate(job):
    masks = job.voc / "SegmentationClass"
    masks.rename(job.voc / "hidden")  # training reads no mask
    job("VIS_PERIOD", 1)
    assert (job.output / "last_checkpoint").read_text() == "model_final.pth"
    first = torch.load(job.output / "model_final.pth", weights_only=True)
    assert first["iteration"] == 1
    assert not list(job.output.glob(UNFINISHED))

    job("--resume", "SOLVER.MAX_ITER", 3)
    second = torch.load(job.output / "model_final.pth", weights_only=True)
    assert second["iteration"] == 2
    changed = [k for k, v in first["model"].items() if not torch.equal(v, second["model"][k])]
    assert any(k.startswith("backbone.") for k in changed)
    assert not any(k.startswith("text_") for k in changed)

    (job.voc / "hidden").rename(masks)
    weights = job.output / "model_final.pth"
    job("--eval-only", "MODEL.WEIGHTS", weights, "DATASETS.TEST", ("voc_2012_sem_seg_val",))
    lines = (job.output / "log.txt").read_text().splitlines()
    assert any("voc_2012_sem_seg_val, 4 images" in line for line in lines)
    assert (job.output / "metrics.json").exists()


def test_a_resumed_run_goes_on_in_the_order_and_with_the_random_numbers(job, monkeypatch):
    names, states = [], []
    forward = DALNet.forward

    def note(self, batch):
        names.append([record["image_id"] for record in batch])
        _, state, position, *_ = np.random.get_state()
        states.append((state.tobytes(), position))
        return forward(self, batch)

    monkeypatch.setattr(DALNet, "forward", note)
    job("SEED", 1, "SOLVER.MAX_ITER", 4)
    job("--resume", "SEED", 1, "SOLVER.MAX_ITER", 6)
    job("SEED", 1, "SOLVER.MAX_ITER", 6, "OUTPUT_DIR", job.output / "whole")
    assert states[6:] == states[:6]
    assert names[6:] == names[:6]


def test_another_training_in_its_folder_is_refused_or_takes_its_place(capsys, job):
    job("VIS_PERIOD", 1)
    before = (job.output / "model_final.pth").stat().st_mtime_ns
    assert refused(capsys, job).startswith("error: OUTPUT_DIR: ")
    assert (job.output / "model_final.pth").stat().st_mtime_ns == before
    lines = (job.output / "metrics.json").read_text().splitlines()
    job("--overwrite")
    assert (job.output / "model_final.pth").stat().st_mtime_ns != before
    assert len((job.output / "metrics.json").read_text().splitlines()) == len(lines)


def test_a_run_longer_than_its_config_says_is_not_resumed(capsys, job):
    job("SOLVER.MAX_ITER", 3)
    sentence = refused(capsys, job, "--resume", "SOLVER.MAX_ITER", 2)
    assert sentence.startswith("error: SOLVER.MAX_ITER: ")


def test_a_split_that_cannot_be_evaluated_is_named_before_the_training(capsys, job):
    shutil.rmtree(job.voc / "SegmentationClass")
    sentence = refused(capsys, job, "DATASETS.TEST", ("voc_2012_sem_seg_val",))
    assert "masks missing" in sentence or "has no masks" in sentence
    assert not list(job.output.glob("*.pth"))


def test_mixed_precision_is_left_out_on_a_cpu_that_was_asked_for(job):
    job("--num-gpus", 0, "MODEL.DEVICE", "cpu", "SOLVER.AMP.ENABLED", True)
    assert (job.output / "model_final.pth").exists()


def test_missing_base_config_is_named(job, capsys):
    text = job.config.read_text()
    job.config.write_text(f"_BASE_: gone.yaml\n{text}")
    assert "gone.yaml" in refused(capsys, job)


def test_interrupt_is_one_sentence(job, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("dalnet.engine.Trainer.train", interrupt)
    with pytest.raises(SystemExit) as error:
        job()
    assert error.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "error: interrupted"


def test_configs_run_no_code(job, capsys, tmp_path):
    mark = tmp_path / "mark"
    job.config.write_text(f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {mark}']\n")
    assert "could not determine a constructor" in refused(capsys, job)
    assert not mark.exists()


def test_evaluation_needs_no_pretrained_file(job):
    job()
    weights = job.output / "model_final.pth"
    encoder, texts = ("MODEL.VIT.WEIGHTS", "gone.pth"), ("MODEL.CLIP.WEIGHTS", "gone.pt")
    options = (*encoder, "MODEL.CLIP.SOURCE", "tower", *texts)
    job("--eval-only", "MODEL.WEIGHTS", weights, *options)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NO.SUCH_KEY", 1),
        ("DATASETS.TRAIN", ("nothing",)),
        ("INPUT.CROP.SIZE", [30, 32]),
        ("INPUT.CROP.SIZE", [160]),
        ("INPUT.CROP.SIZE", [0, 32]),
        ("INPUT.RESCALE_RANGE", (2.0, -1.0)),
        ("INPUT.RESCALE_RANGE", (2.0, 1.0)),
        ("INPUT.RESCALE_RANGE", (2.0,)),
        ("INPUT.RESCALE_RANGE", ("a", "b")),
        ("INPUT.LONGER_SIDE_RANGE", (640, 320)),
        ("INPUT.LONGER_SIDE_RANGE", (0.5, 2.0)),
        ("INPUT.MULTI_CROP.LOCAL_SIZE", 20),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7),
        ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 2),
        ("MODEL.DALNET.GIA_SIMILARITY", "cosine"),
        ("MODEL.DALNET.REG.METHOD", "latice"),
        ("MODEL.DALNET.REG.SIGMA_XY", 0.0),
        ("MODEL.DALNET.LEA_TEMPERATURE", 0.0),
        ("MODEL.DALNET.PTC_WEIGHT", -0.2),
        ("MODEL.CAM.BACKGROUND_THRESHOLD", 50.0),
        ("MODEL.CAM.FLIP", "both"),
        ("MODEL.VIT.POS_EMBED", "cubic"),
        ("SOLVER.OPTIMIZER", "Adam"),
        ("MODEL.CAM.LOW_THRESHOLD", 0.9),
        ("MODEL.CAM.SCALES", ()),
        ("TEST.MULTI_SCALE.SCALES", (1.0, 0.0)),
        ("MODEL.PAR.DILATIONS", ()),
        ("MODEL.PAR.DILATIONS", (0, 1)),
        ("MODEL.PAR.NUM_ITERS", -1),
        ("SOLVER.IMS_PER_BATCH", 0),
        ("SOLVER.MAX_ITER", 0),
        ("SOLVER.LR_SCHEDULER_NAME", "Poly"),
        ("MODEL.DEVICE", "gpu"),
        ("MODEL.META_ARCHITECTURE", "Net"),
        ("MODEL.BACKBONE.NAME", "ViT"),
        ("MODEL.SEM_SEG_HEAD.NAME", "FOV"),
        ("MODEL.VIT.NAME", "vit_of_nobody"),
        ("MODEL.VIT.WEIGHTS", "gone.pth"),
        ("MODEL.VIT.STEM", "cnn_of_nobody"),
        ("MODEL.WEIGHTS", "gone.pth"),
        ("MODEL.CLIP.SOURCE", "words"),
        ("MODEL.CLIP.SOURCE", "checkpoint"),
        ("OUTPUT_DIR", "/proc/nowhere"),
    ],
)
def test_a_bad_value_is_one_sentence_about_its_key(capsys, job, key, value):
    sentence = refused(capsys, job, key, value)
    assert key in sentence.split(";")[0], sentence


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("SOLVER.ACCUMULATION_STEPS", 3), "SOLVER.IMS_PER_BATCH"),
        (("MODEL.CLIP.SOURCE", "tower", "MODEL.CLIP.WEIGHTS", "gone.pt"), "MODEL.CLIP.WEIGHTS"),
        (("MODEL.CLIP.SOURCE", "embeddings", "MODEL.CLIP.WEIGHTS", "x.npy"), "MODEL.CLIP.WEIGHTS"),
        (("--eval-only",), "MODEL.WEIGHTS"),
        (("--eval-only", "--resume"), "OUTPUT_DIR"),
        (("--num-gpus", 99), "--num-gpus"),
        (("SOLVER.MAX_ITER", 3, "--resume"), "--resume"),
    ],
)
def test_options_that_do_not_fit_each_other_are_one_sentence(capsys, job, options, where):
    assert refused(capsys, job, *options).startswith(f"error: {where}")


def test_gpu_that_is_not_there(capsys, job, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert refused(capsys, job, "MODEL.DEVICE", "cuda:1").startswith("error: MODEL.DEVICE: ")


def test_batch_that_processes_cannot_share(job, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    with helpers.refused("SOLVER.IMS_PER_BATCH", "3 processes"):
        setup(load_config(str(job.config)))
    # In evaluation images go through one at a time.
    setup(load_config(str(job.config)), eval_only=True)


def test_missing_config_file(capsys, job):
    job.config.unlink()
    assert refused(capsys, job).startswith(f"error: {job.config}: ")


def test_missing_data_set_names_the_folder(capsys, job):
    shutil.rmtree(job.voc)
    assert "VOC2012" in refused(capsys, job)


def test_unreadable_image_is_named_also_from_a_worker(capsys, job):
    for image in (job.voc / "JPEGImages").iterdir():
        image.write_bytes(b"no image")
    for workers in (0, 1):
        sentence = refused(capsys, job, "DATALOADER.NUM_WORKERS", workers)
        assert "2007_00000" in sentence
        assert "cannot be read" in sentence


def test_training_starts_from_the_model_of_another(job, tmp_path):
    job()
    weights, output = job.output / "model_final.pth", tmp_path / "second"
    changes = ("MODEL.DALNET.PROJECTION_DIM", 8, "SOLVER.BASE_LR", 0.0, "OUTPUT_DIR", output)
    job("MODEL.WEIGHTS", weights, *changes)
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (job.output, output)
    )
    differing = {k.split(".")[0] for k, v in first.items() if not torch.equal(v, second[k])}
    assert differing == {"projections"}


def test_checkpoint_of_another_model(capsys, job):
    job()
    sentence = refused(capsys, job, "--resume", "MODEL.DALNET.PROJECTION_DIM", 8)
    assert sentence.startswith(f"error: {job.output / 'model_final.pth'}: ")
    assert "projections" in sentence
