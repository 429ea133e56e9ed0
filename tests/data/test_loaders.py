# SPDX-License-Identifier: Apache-2.0
"""The loaders: batches, seeds of the workers, and no mask in training."""

import gc
import multiprocessing
import shutil
from itertools import islice

import pytest
import torch
from detectron2.utils.env import seed_all_rng
from helpers import refused
from torch.utils.data import DataLoader

from dalnet.data import build_test_loader, build_train_loader
from dalnet.data.datasets.catalog import register

IDS = [f"p{i}" for i in range(6)]


def batches(cfg, count):
    iterator = iter(build_train_loader(cfg))
    return [next(iterator) for _ in range(count)]


def test_training_opens_no_mask(tree, tree_cfg):
    shutil.rmtree(tree / "SegmentationClass")
    seen = [d for batch in batches(tree_cfg(), 6) for d in batch]
    assert {d["image_id"] for d in seen} == set(IDS[:-1])
    assert not any("sem_seg_file_name" in d for d in seen)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_order_of_the_images_can_be_entered_anywhere(tree, tree_cfg, sampler, workers):
    cfg = tree_cfg("DATALOADER.SAMPLER_TRAIN", sampler, "DATALOADER.REPEAT_THRESHOLD", 1.0)
    cfg.DATALOADER.NUM_WORKERS = workers

    def names(batches):
        return [[d["image_id"] for d in batch] for batch in batches]

    cfg.SEED = 5
    expected = names(batches(cfg, 9))
    loader = build_train_loader(cfg)
    iterator = iter(loader)  # as Detectron2's trainer does before it knows where to go on
    loader.start_at(4)
    assert names(islice(iterator, 5)) == expected[4:]
    with pytest.raises(RuntimeError):
        loader.start_at(0)


def test_records_are_kept_as_bytes_that_workers_share(tree, tree_cfg):
    # Counting references to a list's objects would copy its memory into every worker.
    records = build_train_loader(tree_cfg()).dataset.records
    assert records[0] == records[0] and records[0] is not records[0]


@pytest.mark.parametrize("build", [build_train_loader, build_test_loader])
def test_workers_leave_the_memory_of_the_main_process_alone(tree, tree_cfg, build):
    names = [] if build is build_train_loader else ["built_tree"]
    loader = build(tree_cfg("DATALOADER.NUM_WORKERS", 1), *names)
    frozen = multiprocessing.Value("i")

    def note(inputs):
        frozen.value = gc.get_freeze_count()
        return inputs

    loader.collate_fn = note
    next(iter(loader))
    assert frozen.value > 0 and not gc.get_freeze_count()


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
def test_a_worker_that_ends_while_it_hands_over_is_told_as_others(
    tree, tree_cfg, monkeypatch, error
):
    def fail(self):
        raise error
        yield

    for workers, kind in ((1, RuntimeError), (0, type(error))):
        loader = build_train_loader(tree_cfg("DATALOADER.NUM_WORKERS", workers))
        with monkeypatch.context() as patch:
            patch.setattr(DataLoader, "__iter__", fail)
            with pytest.raises(kind) as info:
                next(iter(loader))
        assert ("DataLoader worker (pid" in str(info.value)) is bool(workers)


def test_memory_is_pinned_where_the_model_is_on_a_gpu(tree, tree_cfg):
    assert not build_train_loader(tree_cfg("MODEL.DEVICE", "cpu")).pin_memory
    loader = build_train_loader(tree_cfg("MODEL.DEVICE", "cuda:0"))
    assert loader.pin_memory == torch.cuda.is_available()
    if loader.pin_memory:
        assert next(iter(loader))[0]["image"].is_pinned()


def test_batches_hold_labeled_images_only(tree, tree_cfg):
    for batch in batches(tree_cfg(), 8):
        assert len(batch) == 2
        assert all(d["image_labels"].sum() == 1 for d in batch)
        assert all(d["image"].shape == (3, 32, 32) for d in batch)
    with refused("DATASETS.UNLABELED_IMAGES", "p5"):
        build_train_loader(tree_cfg("DATASETS.UNLABELED_IMAGES", "refuse"))


def views(batches):
    return [
        {k: v for k, v in d.items() if k.endswith(("image", "views"))} for b in batches for d in b
    ]


def test_the_seed_decides_the_views_whatever_else_is_drawn(tree, tree_cfg):
    cfg = tree_cfg("SEED", 5)
    expected = views(batches(cfg, 5))
    # Neither workers nor the process's generators matter.
    seed_all_rng(77)
    cfg.DATALOADER.NUM_WORKERS = 2
    torch.testing.assert_close(views(batches(cfg, 5)), expected, rtol=0, atol=0)
    cfg.SEED = 6
    assert not torch.equal(views(batches(cfg, 1))[0]["image"], expected[0]["image"])


def test_a_sample_has_its_views_wherever_the_order_begins(tree, tree_cfg):
    cfg = tree_cfg("SEED", 5)
    expected = views(batches(cfg, 5))
    loader = build_train_loader(cfg)
    loader.start_at(3)
    torch.testing.assert_close(views(islice(loader, 2)), expected[6:], rtol=0, atol=0)


def test_an_image_has_other_views_whenever_it_comes(tree, tree_cfg):
    (tree / "ImageSets/Segmentation/all.txt").write_text(IDS[0])
    first, second = batches(tree_cfg("SOLVER.IMS_PER_BATCH", 1), 2)
    assert not torch.equal(first[0]["image"], second[0]["image"])
    assert not torch.equal(first[0]["local_views"], second[0]["local_views"])


def damage(path, kept=100):
    """Cut an image off behind its header."""
    path.write_bytes(path.read_bytes()[:kept])


@pytest.mark.faults("unreadable images")
@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_only_their_turn_shows_to_be_damaged_are_skipped_and_counted(
    tree, tree_cfg, caplog, workers
):
    damage(tree / "JPEGImages" / "p2.png")
    damage(tree / "JPEGImages" / "p3.png")
    cfg = tree_cfg("DATALOADER.NUM_WORKERS", workers)
    loader = build_train_loader(cfg)
    seen = [d for batch in islice(loader, 12) for d in batch]
    assert {d["image_id"] for d in seen} == {"p0", "p1", "p4"}
    assert not any("skipped" in d for d in seen)
    assert len(loader.skipped) == 2
    assert "skipped image 2" in caplog.text and "p2.png" in caplog.text
    cfg.DATALOADER.STRICT = True
    with refused(tree / "JPEGImages"):
        list(islice(build_train_loader(cfg), 12))


@pytest.mark.faults("unreadable images")
def test_training_ends_where_no_image_can_be_read(tree, tree_cfg):
    for path in (tree / "JPEGImages").iterdir():
        damage(path)
    with refused(tree / "JPEGImages"):
        next(iter(build_train_loader(tree_cfg())))


@pytest.mark.faults("unreadable images")
def test_images_whose_header_is_damaged_are_found_at_the_start(tree, tree_cfg, caplog):
    (tree / "JPEGImages" / "p2.png").write_bytes(b"no image")
    seen = [d for batch in islice(build_train_loader(tree_cfg()), 12) for d in batch]
    assert {d["image_id"] for d in seen} == {"p0", "p1", "p3", "p4"}
    assert "left out 1 of 5" in caplog.text and "p2.png" in caplog.text
    with refused("p2.png"):
        build_train_loader(tree_cfg("DATALOADER.STRICT", True))
    with refused("p2.png"):
        build_test_loader(tree_cfg(), "built_tree")


def test_test_loader_yields_every_image_once(tree, tree_cfg):
    loader = build_test_loader(tree_cfg("DATALOADER.NUM_WORKERS", 1), "built_tree")
    outs = [d for batch in loader for d in batch]
    assert len(loader) == 6 and [d["image_id"] for d in outs] == IDS
    assert all(d["image"].shape == (3, 40, 50) for d in outs)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 21, ["21", "3"]),
        ("DATASETS.TRAIN", ("nowhere",), ["nowhere", "voc_2012_sem_seg_val"]),
        ("DATASETS.TRAIN", (), []),
        ("DATASETS.TRAIN", ("built_tree", "voc_2012_sem_seg_val"), ["built_tree"]),
        ("DATASETS.UNLABELED_IMAGES", "maybe", ["maybe"]),
        ("DATALOADER.SAMPLER_TRAIN", "Sampler", ["Sampler"]),
        ("DATALOADER.ASPECT_RATIO_GROUPING", True, []),
    ],
)
def test_config_that_does_not_fit_the_data(tree, tree_cfg, key, value, words):
    with refused(key, *words):
        build_train_loader(tree_cfg(key, value))


def test_data_sets_without_images_are_named(tree, tree_cfg):
    register("without", lambda: [], ("cat", "dog"))
    with refused("DATASETS.TRAIN", "without has no images"):
        build_train_loader(tree_cfg("DATASETS.TRAIN", ("without",)))
    with refused("DATASETS.TEST", "without has no images"):
        build_test_loader(tree_cfg(), "without")


def test_test_loader_checks_name_and_classes(tree, tree_cfg):
    with refused("DATASETS.TEST", "nowhere"):
        build_test_loader(tree_cfg(), "nowhere")
    with refused("voc_2012_sem_seg_val", "aeroplane"):
        build_test_loader(tree_cfg(), "voc_2012_sem_seg_val")
    with refused("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"):
        build_test_loader(tree_cfg("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7), "built_tree")
