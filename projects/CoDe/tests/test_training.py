# SPDX-License-Identifier: Apache-2.0
"""Training by the commands' own trainer: what is saved, resumed and predicted."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from helpers import in_two_processes, refused
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

from codeseg.batch import CaptionBatch
from codeseg.loader import CaptionLoader, build_caption_loader
from dalnet.cli import main
from dalnet.engine import Trainer, setup
from dalnet.engine.optimizer import build_optimizer
from dalnet.prediction import Predictor

LOSSES = {"kg", "hlf", "hli", "tv_img", "tv_mask", "area", "neg_area", "tseg", "hcl"}


@pytest.fixture
def trained(code_cfg, tmp_path):
    """A run of three iterations, the last of which trains the last block too."""
    code_cfg.merge_from_list(["SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 2])
    trainer = Trainer(setup(code_cfg))
    trainer.resume_or_load(resume=False)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    return code_cfg, trainer, before


def test_it_trains_and_saves_what_it_has_trained(trained, tmp_path):
    cfg, trainer, before = trained
    assert isinstance(trainer.data_loader, CaptionLoader)
    assert {f"loss_{name}" for name in LOSSES} <= set(trainer.storage.histories())
    saved = torch.load(tmp_path / "output" / "model_final.pth")["model"]
    assert set(saved) == set(before)
    assert not [name for name in saved if name.startswith("clip.")]
    changed = {name for name in saved if not torch.equal(saved[name], before[name])}
    trained_names = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert changed == trained_names
    early = torch.load(tmp_path / "output" / "model_0000001.pth")["model"]
    backbone = {name for name in before if name.startswith("backbone.")}
    assert all(torch.equal(early[name], before[name]) for name in backbone)
    assert backbone <= changed


def test_it_goes_on_where_it_was(trained, tmp_path):
    cfg, first, _ = trained
    (tmp_path / "output" / "last_checkpoint").write_text("model_0000001.pth")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2
    assert trainer.data_loader.dataset.start_batch == 2
    saved = torch.load(tmp_path / "output" / "model_0000001.pth")["model"]
    assert all(torch.equal(v, saved[k]) for k, v in trainer.model.state_dict().items())
    # The images are those that an uninterrupted run would have gone on with.
    found = [record["caption"] for record in next(iter(trainer.data_loader))]
    whole = iter(build_caption_loader(cfg))
    expected = [[record["caption"] for record in next(whole)] for _ in range(3)][2]
    assert found == expected
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    assert trainer.iter == 3


def test_it_predicts_any_vocabulary(trained, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    predictor = Predictor(tmp_path / "output", vocabulary=["wheel", "blue leaf"])
    prediction = predictor(pixels)
    assert prediction.class_names == ("background", "wheel", "blue leaf")
    assert prediction.scores.shape == (3, 40, 48)
    assert prediction.cams == {}
    assert Predictor(tmp_path / "output")(pixels).class_names[1:] == ("red fish", "leaf", "crate")
    with refused("source"):
        predictor.label(pixels, ["wheel"], source="cam")
    with refused("vocabulary", "wheel"):
        Predictor(tmp_path / "output", vocabulary=["wheel", "wheel"])


def test_the_command_looks_for_the_classes_that_it_is_told(trained, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    command = ["predict", "--weights", str(tmp_path / "output"), "--input", str(tmp_path / "a.png")]
    main([*command, "--output", str(tmp_path / "found"), "--classes", "red fish,wheel"])
    mask = np.array(Image.open(tmp_path / "found" / "a_mask.png"))
    assert mask.max() <= 2


def test_the_weights_of_clip_are_needed(trained, tmp_path, clip_file):
    with refused("MODEL.CLIP.WEIGHTS"):
        Predictor(tmp_path / "output", opts=["MODEL.CLIP.WEIGHTS", str(tmp_path / "none.pt")])


def train_rank(rank, cfg):
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    parallel = DistributedDataParallel(model, broadcast_buffers=False)
    batches = iter(build_caption_loader(cfg))
    torch.manual_seed(rank)
    moments = []
    for iteration in range(4):
        with EventStorage(iteration):
            optimizer.zero_grad()
            sum(parallel(next(batches)).values()).backward()
        optimizer.step()
        moments.append(len(optimizer.state))
    own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return {"weights": own, "moments": moments}


@pytest.mark.slow
def test_processes_stay_in_step_when_the_last_block_joins(code_cfg, tmp_path):
    first, second = in_two_processes(train_rank, tmp_path, code_cfg)
    start = dict(build_model(code_cfg).named_parameters())
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name
    assert not torch.equal(first["weights"]["backbone.block.mlp.c_fc.weight"],
                           start["backbone.block.mlp.c_fc.weight"])  # fmt: skip
    # The last block has no moments before it is trained.
    blocks = sum(name.startswith("backbone.") for name in first["weights"])
    assert first["moments"] == [first["moments"][0]] * 2 + [first["moments"][0] + blocks] * 2


def test_a_batch_needs_this_loader(code_cfg):
    record = {"image": torch.zeros(3, 32, 32, dtype=torch.uint8)}
    with refused("INPUT.DATASET_MAPPER_NAME", "caption_tokens"):
        CaptionBatch.collate([record], torch.device("cpu"))
