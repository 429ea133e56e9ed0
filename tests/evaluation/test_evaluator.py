# SPDX-License-Identifier: Apache-2.0
"""Training's evaluation against counts by hand and Detectron2's; images that wait for CRFs."""

from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils.events import EventStorage
from helpers import refused
from PIL import Image

from dalnet.evaluation import build_evaluator
from dalnet.evaluation.counts import Counts
from dalnet.evaluation.crf import CRFTask
from dalnet.evaluation.evaluator import CountsEvaluator
from dalnet.evaluation.progress import Progress
from dalnet.evaluation.results import read_results
from dalnet.evaluation.sources import make_measurements
from dalnet.io import sha256
from dalnet.modeling.meta_arch import DALNet

SIZE = (6, 7)


@pytest.fixture
def records(split):
    """Three records with masks of random classes (no owl) and ignored pixels."""
    rng = np.random.default_rng(0)
    del split.records[3:]
    for record in split.records:
        mask = rng.choice([0, 1, 2, 255], SIZE).astype(np.uint8)
        Image.fromarray(mask).save(record["sem_seg_file_name"])
        record["image_labels"] = [0, 1]
    return split.records


@pytest.fixture
def cfg(split, tiny_cfg):
    tiny_cfg.DATASETS.TRAIN = (split.name,)
    return tiny_cfg


def make_inputs(records):
    """As the mapper's: multi-hot labels, and none where an image has none."""
    inputs = [record | {"height": SIZE[0], "width": SIZE[1]} for record in records]
    for record in inputs:
        shown = record.pop("image_labels")
        if shown:
            record["image_labels"] = torch.zeros(3).index_fill(0, torch.tensor(shown), 1.0)
    return inputs


def make_outputs(inputs):
    """As the model's: CAMs are zero for the owl, which no image is labeled."""
    outputs = []
    for index, record in enumerate(inputs):
        generator = torch.Generator().manual_seed(index)
        cams = torch.rand(2, 3, *SIZE, generator=generator)
        cams[:, 2] = 0
        labels = torch.randint(4, SIZE, generator=generator)
        output = {"sem_seg": torch.rand(4, *SIZE, generator=generator)}
        if "image_labels" in record:
            output |= {"cam": cams[0], "cam_inter": cams[1]}
            output["pseudo_label"] = torch.tensor([0, 1, 2, 255])[labels]
        outputs.append(output)
    return outputs


def evaluate(split, cfg):
    evaluator = build_evaluator(cfg, split.name)
    evaluator.reset()
    inputs = make_inputs(split.records)
    outputs = make_outputs(inputs)
    evaluator.process(inputs[:2], outputs[:2])
    evaluator.process(inputs[2:], outputs[2:])
    return evaluator.evaluate()


def iou_by_hand(truths, predictions):
    """Per class with ground truth, pixel by pixel; a prediction of 255 is left out."""
    ious = {}
    for value, name in enumerate(["background", "cat", "dog", "owl"]):
        inside = union = seen = 0
        for truth, prediction in zip(truths, predictions, strict=True):
            for t, p in zip(truth.reshape(-1), prediction.reshape(-1), strict=True):
                if 255 in (t, p):
                    continue
                seen += t == value
                inside += t == value and p == value
                union += t == value or p == value
        if seen:
            ious[name] = 100 * inside / union
    return ious


def labels_by_hand(source, output):
    if source == "sem_seg":
        return output[source].argmax(0).numpy()
    if source == "pseudo_label":
        return output[source].numpy()
    cams = output[source]
    return torch.where(cams.amax(0) > 0.5, cams.argmax(0) + 1, 0).numpy()


def test_all_sources_match_counts_by_hand(split, records, cfg):
    results, outputs = evaluate(split, cfg), make_outputs(make_inputs(records))
    truths = [np.array(Image.open(record["sem_seg_file_name"])) for record in records]
    assert list(results) == ["sem_seg", "cam", "cam_inter", "pseudo_label"]
    for source, values in results.items():
        predictions = [labels_by_hand(source, output) for output in outputs]
        expected = iou_by_hand(truths, predictions)
        assert set(expected) == {"background", "cat", "dog"}
        for label, value in expected.items():
            assert values[f"IoU-{label}"] == pytest.approx(value)
        # The owl is predicted by the head but never shown: it is left out of the mean.
        assert values["mIoU"] == pytest.approx(np.mean(list(expected.values())))
        known = np.stack(truths) != 255
        assert values["labeled"] == pytest.approx(
            100 * (np.stack(predictions)[known] != 255).mean()
        )


def test_figures_are_those_of_detectron2(split, records, cfg):
    """An untouched SemSegEvaluator, which knows score maps only and no ignored predictions."""
    results = evaluate(split, cfg)
    inputs = make_inputs(records)
    for source, found in results.items():
        theirs = SemSegEvaluator(split.name)
        theirs.reset()
        for record, output in zip(inputs, make_outputs(inputs), strict=True):
            labels = torch.from_numpy(labels_by_hand(source, output)).clamp(max=4)
            theirs.process([record], [{"sem_seg": F.one_hot(labels, 5).permute(2, 0, 1)}])
        expected = theirs.evaluate()["sem_seg"]
        shared = [key for key in found if key not in ("mIoU", "labeled")]
        assert {"pACC", "fwIoU", "IoU-cat", "ACC-dog"} < {*shared}
        np.testing.assert_array_equal([found[k] for k in shared], [expected[k] for k in shared])


def test_images_without_labels_count_for_the_head_only(split, records, cfg, caplog):
    complete = evaluate(split, cfg)
    assert "image-level label:" not in caplog.text
    records[1].update(image_labels=[], unknown_labels=[0, 1, 2])
    found = evaluate(split, cfg)
    assert f"1 of 3 images of {split.name} have no image-level label: CAMs and" in caplog.text
    assert repr(found["sem_seg"]) == repr(complete["sem_seg"])  # nan is not equal to itself
    outputs = [output for i, output in enumerate(make_outputs(make_inputs(records))) if i != 1]
    truths = [np.array(Image.open(records[i]["sem_seg_file_name"])) for i in (0, 2)]
    for source in ("cam", "cam_inter", "pseudo_label"):
        expected = iou_by_hand(truths, [labels_by_hand(source, output) for output in outputs])
        for label, value in expected.items():
            assert found[source][f"IoU-{label}"] == pytest.approx(value)
    result = read_results_of(cfg, split)
    assert (result["num_images"], result["num_scored"], result["num_labeled"]) == (3, 3, 2)


def test_no_line_claims_labels_that_no_image_has(split, records, cfg, caplog):
    for record in records:
        record.update(image_labels=[], unknown_labels=[0, 1, 2])
    assert list(evaluate(split, cfg)) == ["sem_seg"]
    assert "3 of 3 images" in caplog.text
    caplog.clear()
    cfg.TEST.EVAL_CAM = False
    evaluate(split, cfg)
    assert "image-level label:" not in caplog.text, "nobody asked for CAMs"


def read_results_of(cfg, split):
    return read_results(Path(cfg.OUTPUT_DIR, "evaluation", split.name, "results.json"))


def test_one_miou_is_logged_and_written(split, records, cfg, caplog):
    with caplog.at_level("INFO"):
        results = evaluate(split, cfg)
    assert f"{split.name}, 3 images" in caplog.text
    assert not [r for r in caplog.records if r.name.startswith("detectron2.evaluation.sem_seg")]
    result = read_results_of(cfg, split)
    assert "iteration" not in result and result["weights_sha256"] is None
    for one in result["measurements"]:
        assert one["miou"] == pytest.approx(results[one["source"]]["mIoU"], abs=1e-12)
        assert one["pixel_accuracy"] == pytest.approx(results[one["source"]]["pACC"])
        assert one["iou"]["owl"] is None
    cam = result["measurements"][1]
    assert (cam["source"], cam["protocol"], cam["scales"]) == ("cam", "ms+flip", [1.0, 0.5])
    assert cam["curve"]["miou"][cam["curve"]["thresholds"].index(0.5)] == cam["miou"]


def test_evaluations_of_a_training_name_iteration_and_checkpoint(split, records, cfg):
    cfg.SOLVER.MAX_ITER = 20
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()

    def evaluated_at(storage_iter, saved):
        (folder / saved).write_bytes(saved.encode())
        (folder / "last_checkpoint").write_text(saved)
        with EventStorage(storage_iter):
            evaluate(split, cfg)
        result = read_results_of(cfg, split)
        return result["iteration"], result["weights_sha256"]

    named = "model_0000009.pth"
    assert evaluated_at(9, named) == (10, sha256(folder / named))
    assert evaluated_at(14, named) == (15, None), "those of iteration 15 were not saved"
    final = "model_final.pth"
    assert evaluated_at(20, final) == (20, sha256(folder / final))
    # Outside a training: MODEL.WEIGHTS, unless OUTPUT_DIR has another checkpoint to go on with.
    cfg.MODEL.WEIGHTS = str(folder / final)
    evaluate(split, cfg)
    assert read_results_of(cfg, split)["weights_sha256"] == sha256(folder / final)
    cfg.MODEL.WEIGHTS = str(folder / named)
    evaluate(split, cfg)
    assert read_results_of(cfg, split)["weights_sha256"] is None


def test_a_system_without_head(split, records, cfg, monkeypatch):
    monkeypatch.setattr(DALNet, "sources", {"cam": DALNet.sources["cam"]})
    records[0].update(image_labels=[], unknown_labels=[0, 1, 2])
    evaluator = build_evaluator(cfg, split.name)
    inputs = make_inputs(records)
    outputs = [{"cam": o["cam"]} if "cam" in o else {} for o in make_outputs(inputs)]
    evaluator.process(inputs, outputs)
    assert list(evaluator.evaluate()) == ["cam"]
    result = read_results_of(cfg, split)
    assert (result["num_scored"], result["num_labeled"]) == (3, 2)


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (np.full(SIZE, 9, np.uint8), 9),
        (np.zeros((3, 3), np.uint8), (3, 3)),
        (np.full((*SIZE, 3), [1, 0, 0], np.uint8), "color"),
        (None, ""),
    ],
)
def test_unusable_mask_is_named(split, records, cfg, tmp_path, mask, word):
    path = records[1]["sem_seg_file_name"]
    if mask is None:
        (tmp_path / "images" / "1.png").unlink()
    else:
        Image.fromarray(mask).save(path)
    with refused(path, word):
        evaluate(split, cfg)


def test_a_split_that_cannot_be_measured_is_refused(split, records, cfg):
    metadata = MetadataCatalog.get(split.name)
    del metadata.stuff_classes
    with refused(split.name, "stuff_classes"):
        build_evaluator(cfg, split.name)
    del records[0]["sem_seg_file_name"]
    with refused(split.name, "mask"):
        build_evaluator(cfg, split.name)


TASK = CRFTask(np.zeros((40, 50, 3), np.uint8), np.ones((1, 40, 50), np.float32), (0,))
LABELS = np.zeros((40, 50), np.uint8)


class WaitedFor(Future):
    """Ends when somebody waits for it."""

    def result(self, timeout=None):
        if not self.done():
            self.set_result(LABELS)
        return super().result(timeout)


class ManualPool:
    """One worker whose CRFs end when a test says so, or when an evaluator waits for them."""

    workers = 1

    def __init__(self):
        self.futures = []

    def refine(self, task):
        self.futures.append(WaitedFor())
        return self.futures[-1]


@pytest.fixture
def counts(tiny_cfg):
    measurements = make_measurements(tiny_cfg, DALNet.sources, ["sem_seg"], ["ss", "ss+crf"])
    return Counts(measurements, 4, 0.5)


@pytest.fixture
def inputs(split):
    return [record | {"height": 40, "width": 50} for record in make_inputs(split.records)]


def process(evaluator, counts, record):
    plain, refined = counts.measurements
    evaluator.process([record], [{plain: LABELS, refined: TASK}])


def test_images_wait_for_their_crfs_but_not_too_many(counts, inputs):
    pool = ManualPool()
    evaluator = CountsEvaluator(counts, pool)
    for record in inputs[:2]:
        process(evaluator, counts, record)
    assert counts.names == []
    process(evaluator, counts, inputs[2])  # a third has no room: the oldest is waited for
    assert counts.names == ["0"]
    for future in pool.futures[1:]:
        future.set_result(LABELS)
    process(evaluator, counts, inputs[3])
    assert counts.names == ["0", "1", "2"]
    assert evaluator.evaluate().names == ["0", "1", "2", "3"]
    for one in counts.measurements:
        # 38 rows have a truth; 20 x 20 pixels of it are a cat or a dog.
        assert counts.matrix(one)[:, 0].tolist() == [4 * (38 * 50 - 400), 800, 800, 0]


def test_counts_are_saved_now_and_then(counts, inputs, split, tmp_path, monkeypatch):
    monkeypatch.setattr("dalnet.evaluation.evaluator._SAVE_EVERY", -1.0)
    progress = Progress(tmp_path, split.records)
    evaluator = CountsEvaluator(counts, ManualPool(), progress=progress)
    for number, record in enumerate(inputs):
        process(evaluator, counts, record)
        saved = progress.load(counts)
        assert saved.names == counts.names
        assert saved.names == [progress.keys[str(i)] for i in range(number - 1)]


def test_a_refused_mask_discards_what_was_counted_with_it(counts, inputs, split, tmp_path):
    progress = Progress(tmp_path, split.records)
    evaluator = CountsEvaluator(counts, ManualPool(), progress=progress)
    for record in inputs[:3]:
        process(evaluator, counts, record)
    evaluator.save()
    assert progress.load(counts).names
    with refused("3.png"):
        process(evaluator, counts, inputs[3] | {"width": 60})
    evaluator.save()
    assert not progress.load(counts).names


def test_images_without_a_mask_are_only_noted(counts, inputs):
    evaluator = CountsEvaluator(counts, ManualPool())
    del inputs[0]["sem_seg_file_name"]
    process(evaluator, counts, inputs[0])
    assert (evaluator.evaluate().names, counts.num_scored) == (["0"], 0)


def test_a_mask_of_another_size_is_named(counts, inputs):
    evaluator = CountsEvaluator(counts, ManualPool())
    with refused("1.png"):
        process(evaluator, counts, inputs[1] | {"width": 60})
