# SPDX-License-Identifier: Apache-2.0
"""Models and inputs that several test modules build."""

import dataclasses
import itertools
import json
import re
import shlex
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dalnet.config import add_dalnet_config, installed_systems
from dalnet.engine.launch import _leave_group
from dalnet.engine.step import StepTrainer
from dalnet.engine.trainer import join_processes
from dalnet.errors import UsageError

# A network of two narrow blocks that starts from no weights, trained on the CPU for two iterations.
TINY = shlex.split("""MODEL.DEVICE cpu MODEL.VIT.NAME vit_tiny_patch16_224 MODEL.VIT.WEIGHTS ""
MODEL.VIT.IMG_SIZE 32 MODEL.VIT.PATCH_SIZE 8 MODEL.VIT.EMBED_DIM 24 MODEL.VIT.DEPTH 2
MODEL.VIT.NUM_HEADS 2 MODEL.VIT.INTERMEDIATE_BLOCK 1 MODEL.SEM_SEG_HEAD.CONVS_DIM 16
MODEL.DALNET.SEG_START_ITER 0 INPUT.CROP.SIZE [32,32] INPUT.MIN_SIZE_TEST 32
SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2""")


@contextmanager
def refused(where, *words):
    """Expect a UsageError about a file, key or parameter whose sentence names all the words."""
    with pytest.raises(UsageError) as info:
        yield info
    assert str(where) in info.value.where
    for word in words:
        assert str(word) in str(info.value)


def code_blocks(path, language):
    """Return the blocks of a language in a Markdown file."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", path.read_text(), re.DOTALL | re.MULTILINE)


class Interrupted(Exception):
    """Stands for Ctrl-C, which pytest would take for itself."""


def stopped_at(iteration, done):
    """``SimpleTrainer.run_step`` that lists the iterations done, and stops once."""
    run_step, stops = SimpleTrainer.run_step, itertools.count()

    def step(trainer):
        if trainer.iter == iteration and next(stops) == 0:
            raise Interrupted
        done.append(trainer.iter)
        run_step(trainer)

    return step


def make_noise(height=75, width=100, seed=0, least=130):
    """An RGB image in which every pixel differs from the padding of a view."""
    shape = (height, width, 3)
    return np.random.default_rng(seed).integers(least, 256, shape, dtype=np.uint8)


def write_voc_tree(root, images, masks, tags=None, splits=("val",), name="{}.png"):
    """Write a data set in VOC's layout, all of whose images are in every split.

    ``name`` is a format for the names of the files by their numbers. ``tags``, lists of the names
    of classes, may be fewer than the images.
    """
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    files = [name.format(number) for number in range(len(images))]
    ids = [Path(file).stem for file in files]
    for file, image_id, image, mask in zip(files, ids, images, masks, strict=True):
        Image.fromarray(image).save(root / "JPEGImages" / file)
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{image_id}.png")
    if tags is not None:
        content = dict(zip(ids, tags, strict=False))
        (root / "image_tags.json").write_text(json.dumps(content))
    for split in splits:
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(ids) + "\n")


def config_with(*options):
    """Every key of DALNet at its default, but for these."""
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.merge_from_list(list(options))
    return cfg


def make_item(seed, labels=(1, 4), box=(0, 32, 4, 32)):
    generator = torch.Generator().manual_seed(seed)

    def pixels(*shape):
        # Smooth pictures, so that CAMs have regions.
        coarse = torch.rand(*shape[:-2], 4, 4, generator=generator)
        coarse = coarse.view(-1, 3, 4, 4)
        return (255 * F.interpolate(coarse, size=shape[-2:], mode="bilinear")).byte().view(shape)

    multi_hot = torch.zeros(10)
    multi_hot[list(labels)] = 1
    return {
        "image": pixels(3, 32, 32),
        "image_labels": multi_hot,
        "image_box": torch.tensor(box),
        "global_views": pixels(1, 3, 32, 32),
        "local_views": pixels(2, 3, 16, 16),
        "local_boxes": torch.tensor([[27, 32, 4, 22], [20, 28, 6, 14]]),
        "height": 32,
        "width": 32,
    }


def make_model(cfg, *options):
    cfg = cfg.clone()
    cfg.merge_from_list(list(options))
    torch.manual_seed(0)
    model = build_model(cfg)
    # Fresh linear layers give flat CAMs; larger weights give regions above the thresholds.
    with torch.no_grad():
        for classifier in (model.classifier, model.inter_classifier):
            for parameter in classifier.parameters():
                parameter.mul_(20)
    return model


def losses_of(model, items, iteration=0):
    with EventStorage(iteration):
        return model.train()(items)


def learning_passes(model):
    """Note, by the size of the images, whether each pass of the encoder learns from then on."""
    encode, modes = model.backbone.forward, {}

    def note(images):
        modes.setdefault(tuple(images.shape[-2:]), []).append(torch.is_grad_enabled())
        return encode(images)

    model.backbone.forward = note
    return modes


def assert_finite_in_half_precision(model, items, dtype):
    with torch.autocast("cpu", dtype=dtype):
        losses = losses_of(model, items)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def raw_cams(model, views):
    out = model.backbone(views)
    weight, inter_weight = (
        next(c.parameters()) for c in (model.classifier, model.inter_classifier)
    )
    return (
        torch.einsum("kd,ndhw->nkhw", weight.flatten(1), out["patch_tokens"]),
        torch.einsum("kd,ndhw->nkhw", inter_weight.flatten(1), out["inter_tokens"]),
    )


def _run_process(rank, path, work, args):
    torch.set_num_threads(1)  # as all tests
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.save(work(rank, *args), f"{path}.{rank}")
    _leave_group()


def in_two_processes(work, folder, *args):
    """Return what ``work(rank, *args)`` returns in each of two processes that form a group."""
    path = str(folder / "rendezvous")
    torch.multiprocessing.spawn(_run_process, (path, work, args), nprocs=2)
    return [torch.load(f"{path}.{rank}") for rank in (0, 1)]


def train_split(rank, world_size, cfg, records, parts=1, prepare=None, steps=5):
    """Train a few steps on a process's share of a batch; return the losses and the weights.

    ``prepare(rank, world_size)`` is called first.
    """
    installed_systems()  # registers them in a new process
    if prepare is not None:
        prepare(rank, world_size)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, count = torch.optim.SGD(learning, lr=1e-3), len(records) // world_size
    batches = [records[rank * count : (rank + 1) * count]] * steps
    counts_parts = cfg.SOLVER.GLOBAL_LOSS_STATISTICS
    trainer = StepTrainer(join_processes(model), batches, optimizer, parts, counts_parts)
    losses = []
    for trainer.iter in range(steps):
        with EventStorage(trainer.iter) as storage:
            trainer.run_step()
            latest = storage.latest().items()  # in the first process alone, the mean over all
            losses.append({name: value[0] for name, value in latest if "loss" in name})
    return losses, {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def assert_same_training(whole, split):
    """Compare the losses and weights of two trainings."""
    (all_losses, weights), (losses, others) = whole, split
    for expected, found in zip(all_losses, losses, strict=True):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-5, msg=name)


def assert_split_changes_nothing(cfg, records, folder, prepare=None, steps=5, parts=1):
    """Train on a batch in one process and in two: losses and weights have to be the same."""
    split, _ = in_two_processes(train_split, folder, 2, cfg, records, parts, prepare, steps)
    assert_same_training(train_split(0, 1, cfg, records, 1, prepare, steps), split)


def assert_parts_change_nothing(cfg, records, folder, parts=2):
    """Train on a batch at once and in parts: losses and weights have to be the same."""
    whole, split = (train_split(0, 1, cfg, records, number) for number in (1, parts))
    assert_same_training(whole, split)


DEGENERATE = {
    "no class": [make_item(0, labels=()), make_item(1, labels=())],
    "all classes": [make_item(0, labels=range(10))],
    "one pixel": [make_item(0, box=(0, 1, 0, 1))],
    "all ignored": [make_item(0, box=(5, 5, 5, 5))],
    "constant image": [{**make_item(0), "image": torch.full((3, 32, 32), 128, dtype=torch.uint8)}],
    "no views": [
        {
            **make_item(0),
            "global_views": torch.zeros(0, 3, 32, 32, dtype=torch.uint8),
            "local_views": torch.zeros(0, 3, 16, 16, dtype=torch.uint8),
            "local_boxes": torch.zeros(0, 4, dtype=torch.int64),
        }
    ],
}


def fake(value, device):
    """The same value, dataclasses included, in tensors without numbers."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return torch.empty_like(value, device=device)
    fields = {f.name: fake(getattr(value, f.name), device) for f in dataclasses.fields(value)}
    return type(value)(**fields)


def forward_on_fake_tensors(cfg, items, device, dtype, monkeypatch):
    """Losses and model, of tensors without numbers: reading one back raises."""
    model = build_model(cfg).train()
    batch = type(model).batch_type.collate(items, torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True), EventStorage(5):
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(fake(parameter, device)))
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, fake(buffer, device))
        on_device = fake(batch, device)
        monkeypatch.setattr(type(model).batch_type, "collate", lambda *_: on_device)
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            return model([]), model


class NoCopies(TorchDispatchMode):
    """Fails where a number is copied to a GPU, which waits for all that the GPU still has to do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        assert len(devices) < 2 or "copy" not in func.name(), f"{func} waits for the GPU"
        return result
