# SPDX-License-Identifier: Apache-2.0
"""The loaders: batches, seeds of the workers, no mask in training, and checks."""

import json
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from PIL import Image

from dalnet.config import add_dalnet_config
from dalnet.data import build_test_loader, build_train_loader
from dalnet.data.datasets import register_voc_layout
from dalnet.errors import UsageError

IDS = [f"p{i}" for i in range(6)]


@pytest.fixture
def tree(tmp_path):
    """Six images, the last without a label, registered as ``built_tree``."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in IDS:
        values = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / "JPEGImages" / f"{name}.png")
        Image.new("L", (50, 40)).save(tmp_path / "SegmentationClass" / f"{name}.png")
    (tmp_path / "ImageSets/Segmentation/all.txt").write_text("\n".join(IDS))
    tags = {name: ["cat" if i % 2 else "dog"] for i, name in enumerate(IDS[:-1])}
    (tmp_path / "image_tags.json").write_text(json.dumps(tags))
    register_voc_layout("built_tree", tmp_path, ("cat", "dog"), split="all")
    yield tmp_path
    DatasetCatalog.pop("built_tree")
    MetadataCatalog.pop("built_tree")


def make_cfg(*options):
    cfg = get_cfg()
    add_dalnet_config(cfg)
    cfg.DATASETS.TRAIN = ("built_tree",)
    cfg.INPUT.CROP.SIZE = [32, 32]
    cfg.INPUT.MULTI_CROP.LOCAL_SIZE = 16
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.merge_from_list(list(options))
    return cfg


def batches(cfg, count):
    iterator = iter(build_train_loader(cfg))
    return [next(iterator) for _ in range(count)]


def test_training_opens_no_mask(tree):
    shutil.rmtree(tree / "SegmentationClass")
    seen = [d for batch in batches(make_cfg(), 6) for d in batch]
    assert {d["image_id"] for d in seen} == set(IDS[:-1])
    assert not any("sem_seg_file_name" in d for d in seen)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_order_of_the_images_can_be_entered_anywhere(tree, sampler, workers):
    cfg = make_cfg("DATALOADER.SAMPLER_TRAIN", sampler, "DATALOADER.REPEAT_THRESHOLD", 1.0)
    cfg.DATALOADER.NUM_WORKERS = workers

    def names(batches):
        return [[d["image_id"] for d in batch] for batch in batches]

    seed_all_rng(5)
    expected = names(batches(cfg, 9))
    seed_all_rng(5)
    loader = build_train_loader(cfg)
    iterator = iter(loader)  # as Detectron2's trainer does before it knows where to go on
    loader.start_at(4)
    seed_all_rng(6)  # the order does not come from what is drawn later
    assert names(islice(iterator, 5)) == expected[4:]
    with pytest.raises(RuntimeError):
        loader.start_at(0)


def test_memory_is_pinned_where_the_model_is_on_a_gpu(tree):
    assert not build_train_loader(make_cfg("MODEL.DEVICE", "cpu")).pin_memory
    loader = build_train_loader(make_cfg("MODEL.DEVICE", "cuda:0"))
    assert loader.pin_memory == torch.cuda.is_available()
    if loader.pin_memory:
        assert next(iter(loader))[0]["image"].is_pinned()


def test_a_batch_that_processes_cannot_share_is_refused(tree, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH 3"):
        build_train_loader(make_cfg("SOLVER.IMS_PER_BATCH", 3))


def test_batches_hold_labeled_images_only(tree):
    for batch in batches(make_cfg(), 8):
        assert len(batch) == 2
        assert all(d["image_labels"].sum() == 1 for d in batch)
        assert all(d["image"].shape == (3, 32, 32) for d in batch)
    with pytest.raises(UsageError, match="p5"):
        build_train_loader(make_cfg("DATASETS.UNLABELED_IMAGES", "refuse"))


@pytest.mark.parametrize("workers", [0, 2])
def test_seed_decides_the_batches(tree, workers):
    cfg = make_cfg("DATALOADER.NUM_WORKERS", workers, "SEED", 5)
    runs = []
    for seed in (5, 5, 6):
        seed_all_rng(seed)
        runs.append(torch.stack([d["image"] for b in batches(cfg, 3) for d in b]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_workers_draw_differently(tree):
    # One image only: two workers that shared a seed would deliver the same view twice.
    (tree / "ImageSets/Segmentation/all.txt").write_text(IDS[0])
    first, second = batches(make_cfg("DATALOADER.NUM_WORKERS", 2, "SOLVER.IMS_PER_BATCH", 1), 2)
    assert not torch.equal(first[0]["image"], second[0]["image"])
    assert not torch.equal(first[0]["local_views"], second[0]["local_views"])


def test_test_loader_yields_every_image_once(tree):
    loader = build_test_loader(make_cfg("DATALOADER.NUM_WORKERS", 1), "built_tree")
    outs = [d for batch in loader for d in batch]
    assert len(loader) == 6 and [d["image_id"] for d in outs] == IDS
    assert all(d["image"].shape == (3, 40, 50) for d in outs)


def test_missing_masks_stop_the_evaluation_at_once(tree):
    (tree / "SegmentationClass" / "p3.png").unlink()
    with pytest.raises(UsageError, match="1 of 6 .*p3.png"):
        build_test_loader(make_cfg(), "built_tree")
    shutil.rmtree(tree / "SegmentationClass")
    with pytest.raises(UsageError, match="6 of 6"):
        build_test_loader(make_cfg(), "built_tree")


def test_unreadable_masks_are_named(tree, lock):
    lock(tree / "SegmentationClass")
    with pytest.raises(UsageError, match="SegmentationClass cannot be read .Permission"):
        build_test_loader(make_cfg(), "built_tree")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 21), "NUM_CLASSES is 21.*has 3"),
        (("DATASETS.TRAIN", ("nowhere",)), "unknown data set 'nowhere'.*voc_2012_sem_seg_val"),
        (("DATASETS.TRAIN", ()), "DATASETS.TRAIN is empty"),
        (
            ("DATASETS.TRAIN", ("built_tree", "voc_2012_sem_seg_val")),
            "mixes the classes of built_tree",
        ),
        (("DATASETS.UNLABELED_IMAGES", "maybe"), "UNLABELED_IMAGES"),
        (("DATALOADER.SAMPLER_TRAIN", "Sampler"), "DATALOADER.SAMPLER_TRAIN is 'Sampler'"),
        (("DATALOADER.ASPECT_RATIO_GROUPING", True), "ASPECT_RATIO_GROUPING"),
    ],
)
def test_config_that_does_not_fit_the_data(tree, options, message):
    with pytest.raises(UsageError, match=message):
        build_train_loader(make_cfg(*options))


def test_test_loader_checks_name_and_classes(tree):
    with pytest.raises(UsageError, match=r"DATASETS.TEST names the unknown data set 'nowhere'"):
        build_test_loader(make_cfg(), "nowhere")
    with pytest.raises(UsageError, match="NUM_CLASSES is 3, but voc_2012_sem_seg_val has 21"):
        build_test_loader(make_cfg(), "voc_2012_sem_seg_val")


@pytest.fixture
def reordered(tree):
    """The data set of ``tree`` with its two classes in the other order."""
    register_voc_layout("reordered", tree, ("dog", "cat"), split="all")
    yield "reordered"
    DatasetCatalog.pop("reordered")
    MetadataCatalog.pop("reordered")


def test_classes_of_another_order_are_refused(reordered):
    build_test_loader(make_cfg("DATASETS.TRAIN", (reordered,)), reordered)
    with pytest.raises(UsageError, match="reordered, whose class 1 is 'dog'"):
        build_test_loader(make_cfg(), reordered)
    names = ("MODEL.CLASS_NAMES", ("background", "dog", "cat"))
    build_test_loader(make_cfg(*names), reordered)
    with pytest.raises(UsageError, match="DATASETS.TRAIN names built_tree, whose class 1 is 'cat'"):
        build_train_loader(make_cfg(*names))


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ((), False),
        (("INPUT.RESCALE_RANGE", (2.0, 4.0)), True),
        (("INPUT.RESCALE_RANGE", (2.0, 4.0), "INPUT.MIN_SIZE_TRAIN", (20,)), False),
    ],
)
def test_images_too_large_for_the_crop_are_named(tree, caplog, options, warned):
    build_train_loader(make_cfg(*options))
    assert ("40 pixels on the short side" in caplog.text) == warned
    assert ("INPUT.MIN_SIZE_TRAIN" in caplog.text) == warned
