# SPDX-License-Identifier: Apache-2.0
"""From CAMs to label maps: every method by hand, and the command from CAMs to a random walk."""

from concurrent.futures import Future

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from clims.affinity import random_walk
from clims.refine import Refiner, label_cams, main, measure
from dalnet.checkpoint import Checkpointer, CheckpointInfo
from dalnet.data.datasets.catalog import register
from dalnet.data.image_io import read_mask
from dalnet.engine.train import argument_parser
from dalnet.engine.train import main as train


class Pool:
    """Without a CRF: the label with the largest probability."""

    def __init__(self):
        self.tasks = []

    def refine(self, task):
        self.tasks.append(task)
        result = Future()
        result.set_result(np.asarray(task.labels, np.uint8)[task.probs.argmax(0)])
        return result


@pytest.fixture
def model(clims_cfg):
    clims_cfg.merge_from_list(
        [
            "MODEL.CAM.HIGH_THRESHOLD",
            0.6,
            "MODEL.CAM.LOW_THRESHOLD",
            0.3,
            "MODEL.CAM.SCALES",
            (1.0,),
        ]
    )
    torch.manual_seed(0)
    return build_model(clims_cfg).eval()


def infer(model, size=(45, 62)):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8, generator=generator) * 255
    images = F.interpolate(coarse, (45, 62), mode="bilinear")
    return model.infer(images, size, (2, 5))


def test_ties_go_to_the_background():
    cams = torch.tensor([[[0.15, 0.2, 0.1]], [[0.1, 0.3, 0.15]]])
    assert label_cams(cams, (4, 0), 0.15).tolist() == [[0, 1, 0]]


@torch.no_grad()
def test_confident_labels(model, clims_cfg):
    image, pool = infer(model), Pool()
    found = Refiner(clims_cfg, model, pool).start(image, "crf")()
    cams = image.cams("cam", (1.0,), True)
    value, index = cams.max(0)
    expected = np.select([value > 0.6, value <= 0.3], [np.array([3, 6])[index], 0], 255)
    assert set(np.unique(found)) == {0, 3, 6, 255}
    assert np.array_equal(found, expected)
    sure, possible = pool.tasks
    assert sure.labels == (0, 3, 6) and sure.image.shape == (45, 62, 3)
    # 0.7 for the label, the rest for the others.
    assert np.allclose(np.sort(sure.probs, axis=0)[:, 0, 0], [0.15, 0.15, 0.7])
    assert np.array_equal(possible.probs.argmax(0) > 0, value.numpy() > 0.3)


@torch.no_grad()
def test_pixel_adaptive_refinement(model, clims_cfg):
    image, pool = infer(model), Pool()
    found = Refiner(clims_cfg, model, pool).start(image, "par")()
    label_map = image.pseudo_label((1.0,), True).numpy()
    sure = label_map != 255
    assert 0 < sure.mean() < 1
    assert np.array_equal(found[sure], label_map[sure]) and 255 not in found
    (task,) = pool.tasks
    assert np.allclose(task.probs[:, ~sure], 1 / 3)


class Edges:
    def edges(self, images):
        generator = torch.Generator().manual_seed(3)
        return torch.rand(12, 16, generator=generator) / 4


@torch.no_grad()
@pytest.mark.parametrize("size", [(45, 62), (90, 124)])
def test_the_random_walk(model, clims_cfg, size):
    clims_cfg.MODEL.CLIMS.WALK.BACKGROUND_THRESHOLD, clims_cfg.MODEL.CLIMS.WALK.STEPS = 0.7, 4
    image = infer(model, size)
    found = Refiner(clims_cfg, model, Pool(), Edges()).start(image, "irn")()
    raw = model.multi_scale_flip(model.normalize(image.images)).views("cam", 1.0, True)
    total = sum(one.relu() for one in raw)[:, [2, 5]]
    cams = F.interpolate(total, (12, 16), mode="bilinear", align_corners=False)
    cams = cams / (cams.amax((2, 3), keepdim=True) + 1e-5)
    spread = random_walk(cams[0], Edges().edges(None), 5, 10, 4)
    large = F.interpolate(spread[None], scale_factor=4, mode="bilinear")[0, :, :45, :62]
    value, index = (large / large.max()).max(0)
    expected = np.where(value > 0.7, np.array([3, 6])[index], 0)
    expected = expected.repeat(size[0] // 45, 0).repeat(size[1] // 62, 1)
    assert {0} < set(np.unique(found)) and found.shape == size
    assert np.array_equal(found, expected)


@torch.no_grad()
def test_cams_that_are_nowhere_positive_leave_the_background(model, clims_cfg):
    model.classifier.linear.weight.zero_()
    refiner = Refiner(clims_cfg, model, Pool(), Edges())
    for method in ("crf", "irn"):
        assert not refiner.start(infer(model), method)().any()


@pytest.fixture
def run(clims_cfg, tmp_path, toy_split):
    """The folder of a model with random weights."""
    clims_cfg.merge_from_list(["DATASETS.TRAIN", (toy_split,), "MODEL.CAM.SCALES", (1.0,)])
    torch.manual_seed(0)
    info = CheckpointInfo.of_training(clims_cfg)
    Checkpointer(build_model(clims_cfg), str(tmp_path / "run"), info=info).save("model_final")
    return tmp_path / "run"


@pytest.fixture
def refine(run, tmp_path, toy_split):
    def command(folder, *arguments, opts=()):
        main(
            [
                *("--weights", str(run), "--split", toy_split, "--output", str(tmp_path / folder)),
                *("--workers", "1", *arguments, "TEST.CRF.BACKEND", "torch", *opts),
            ]
        )

    return command


def masks_of(folder, split):
    paths = [folder / "SegmentationClass" / f"{i}.png" for i in range(8)]
    assert sorted(folder.glob("SegmentationClass/*")) == paths
    return [read_mask(str(path), (96, 96), 11, 255) for path in paths]


def test_from_cams_to_a_random_walk(refine, clims_cfg, tmp_path, toy_split, capsys):
    refine("crf", "--measure")
    labels = [{*(np.unique(mask))} for mask in masks_of(tmp_path / "crf", toy_split)]
    records = DatasetCatalog.get(toy_split)
    for found, record in zip(labels, records, strict=True):
        assert found <= {0, 255, *(c + 1 for c in record["image_labels"])}
    listed = (tmp_path / "crf" / "ImageSets/Segmentation" / f"{toy_split}.txt").read_text()
    assert listed.split() == [str(i) for i in range(8)]
    names = (tmp_path / "crf" / "classes.txt").read_text().splitlines()
    assert names == list(MetadataCatalog.get(toy_split).stuff_classes[1:])
    measured = measure(tmp_path / "crf", toy_split)
    assert f"mIoU {measured['miou']:.1f}, " in capsys.readouterr().out

    # The edge network trains on them, and goes on where it was.
    clims_cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "EdgeNetwork", "INPUT.DATASET_MAPPER_NAME", "EdgeMapper"),
            *("MODEL.CLIMS.EDGES.LABELS", str(tmp_path / "crf"), "DATASETS.TEST", ()),
            *("MODEL.CLIMS.EDGES.RADIUS", 4, "OUTPUT_DIR", str(tmp_path / "edges")),
        ]
    )
    (tmp_path / "edges.yaml").write_text(clims_cfg.dump())
    argv = ["--config-file", str(tmp_path / "edges.yaml")]
    train(argument_parser().parse_args(argv))
    train(argument_parser().parse_args([*argv, "--resume", "SOLVER.MAX_ITER", "3"]))
    state = torch.load(tmp_path / "edges" / "model_final.pth", weights_only=True)
    assert state["iteration"] == 2

    with pytest.raises(SystemExit):
        refine("irn", "--weights", str(tmp_path / "edges"))
    assert "EdgeNetwork, which has no CAMs" in capsys.readouterr().err
    walk = ("irn", "--refine", "irn", "--edges", str(tmp_path / "edges"))
    with pytest.raises(SystemExit):  # the edge network has learned from images of another size
        refine(*walk, opts=("INPUT.MIN_SIZE_TEST", "96"))
    assert "INPUT.MIN_SIZE_TEST: it is 96" in capsys.readouterr().err
    refine(*walk)
    for mask, record in zip(masks_of(tmp_path / "irn", toy_split), records, strict=True):
        assert {*np.unique(mask)} <= {0, *(c + 1 for c in record["image_labels"])}


def test_it_goes_on_where_it_was(refine, tmp_path, toy_split):
    refine("par", "--refine", "par")
    before = masks_of(tmp_path / "par", toy_split)
    paths = sorted((tmp_path / "par").glob("SegmentationClass/*"))
    times = [path.stat().st_mtime_ns for path in paths]
    paths[3].unlink()
    # What changes nothing in the label maps does not keep a command from going on.
    refine("par", "--refine", "par", opts=("DATALOADER.NUM_WORKERS", "1", "SOLVER.MAX_ITER", "7"))
    after = masks_of(tmp_path / "par", toy_split)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    changed = [path.stat().st_mtime_ns != t for path, t in zip(paths, times, strict=True)]
    assert changed == [i == 3 for i in range(8)]


def test_what_the_command_refuses(refine, run, tmp_path, capsys):
    refine("par", "--refine", "par")
    for arguments, opts, words in (
        ((), (), ["par", "other settings"]),
        (("--refine", "par"), ("MODEL.CAM.LOW_THRESHOLD", "0.2"), ["par", "other settings"]),
        (("--refine", "irn"), (), ["--edges"]),
        (("--edges", str(run)), (), ["--edges"]),
        (("--refine", "irn", "--edges", str(run)), (), ["--edges", "CLIMS"]),
    ):
        folder = "other" if "--edges" in words else "par"
        with pytest.raises(SystemExit):
            refine(folder, *arguments, opts=opts)
        error = capsys.readouterr().err
        assert all(word in error for word in words), error


@pytest.fixture
def change(toy_split):
    """Changes the records of the split for a test."""
    records = DatasetCatalog.get(toy_split)

    def register(function):
        DatasetCatalog.remove(toy_split)
        DatasetCatalog.register(toy_split, function)

    yield lambda function: register(lambda: [function(i, dict(r)) for i, r in enumerate(records)])
    register(lambda: records)


def test_splits_whose_label_maps_would_be_misread(refine, change, tmp_path, toy_split, capsys):
    metadata = MetadataCatalog.get(toy_split)
    classes = list(metadata.stuff_classes)
    reordered = f"{toy_split}_reordered"
    register(reordered, lambda: DatasetCatalog.get(toy_split), classes[:0:-1])
    with pytest.raises(SystemExit):
        refine("par", "--refine", "par", "--split", reordered)
    assert f"error: {reordered}: " in capsys.readouterr().err
    assert not (tmp_path / "par/SegmentationClass").exists()
    change(lambda i, record: {**record, "file_name": f"/{i}/1.png"})
    with pytest.raises(SystemExit):
        refine("par", "--refine", "par")
    assert "called 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        refine("par", "--refine", "par", "--workers", "0")
    assert "--workers" in capsys.readouterr().err


def test_masks_are_not_needed(refine, change, tmp_path, toy_split, capsys):
    change(lambda i, record: {k: v for k, v in record.items() if k != "sem_seg_file_name"})
    refine("par", "--refine", "par")
    assert len(masks_of(tmp_path / "par", toy_split)) == 8
    with pytest.raises(SystemExit):
        refine("par", "--refine", "par", "--measure")
    assert f"{toy_split}: it has no masks" in capsys.readouterr().err


def test_images_without_classes(refine, change, tmp_path, toy_split, capsys):
    def without(i, record):
        if i in (2, 5):
            record["image_labels"] = []
        return record | ({"unknown_labels": list(range(10))} if i == 5 else {})

    change(without)
    refine("par", "--refine", "par")
    masks = masks_of(tmp_path / "par", toy_split)
    assert not masks[2].any() and (masks[5] == 255).all() and masks[0].any()
    change(lambda i, record: record | {"image_labels": [], "unknown_labels": list(range(10))})
    with pytest.raises(SystemExit):
        refine("unknown")
    assert f"{toy_split}: what its images show is not known" in capsys.readouterr().err
