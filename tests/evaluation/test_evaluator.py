# SPDX-License-Identifier: Apache-2.0
"""mIoU of every source against counts by hand, and the refusals."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from dalnet.errors import UsageError
from dalnet.evaluation import build_evaluator

CLASSES = ["background", "cat", "dog", "owl"]
SIZE = (6, 7)


@pytest.fixture
def split(tmp_path):
    """Three images of a registered split, with masks of random classes (no owl) and ignore."""
    rng = np.random.default_rng(0)
    records = []
    for index in range(3):
        mask = rng.choice([0, 1, 2, 255], SIZE).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / f"{index}.png")
        records.append(
            {
                "file_name": f"{index}.jpg",
                "image_id": str(index),
                "sem_seg_file_name": str(tmp_path / f"{index}.png"),
                "image_labels": [0, 1],
            }
        )
    name = f"evaluator_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=CLASSES, ignore_label=255)
    yield name, records
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def make_inputs(records):
    """As the mapper's: multi-hot labels, and none where an image has none."""
    inputs = [dict(record) for record in records]
    for item in inputs:
        shown = item.pop("image_labels")
        if shown:
            item["image_labels"] = torch.zeros(3).index_fill(0, torch.tensor(shown), 1.0)
    return inputs


def make_outputs(count):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "sem_seg": torch.rand(4, *SIZE, generator=generator),
            "cam": torch.rand(3, *SIZE, generator=generator),
            "cam_inter": torch.rand(3, *SIZE, generator=generator),
            "pseudo_label": torch.tensor([0, 1, 2, 255])[
                torch.randint(4, SIZE, generator=generator)
            ],
        }
        for _ in range(count)
    ]


def iou_by_hand(truths, predictions):
    """Per class with ground truth, pixel by pixel; a prediction of 255 is left out."""
    ious = {}
    for value in range(len(CLASSES)):
        inside = union = seen = 0
        for truth, prediction in zip(truths, predictions, strict=True):
            for t, p in zip(truth.reshape(-1), prediction.reshape(-1), strict=True):
                if 255 in (t, p):
                    continue
                seen += t == value
                inside += t == value and p == value
                union += t == value or p == value
        if seen:
            ious[CLASSES[value]] = 100 * inside / union
    return ious


def labels_by_hand(key, output):
    if key == "sem_seg":
        return output[key].argmax(0).numpy()
    if key == "pseudo_label":
        return output[key].numpy()
    # Class 2 is not among the image labels.
    cams = output[key][:2]
    return torch.where(cams.amax(0) > 0.5, cams.argmax(0) + 1, 0).numpy()


def test_all_sources_match_counts_by_hand(split, tiny_cfg):
    name, records = split
    outputs = make_outputs(3)
    evaluator = build_evaluator(tiny_cfg, name)
    evaluator.reset()
    inputs = make_inputs(records)
    evaluator.process(inputs[:2], outputs[:2])
    evaluator.process(inputs[2:], outputs[2:])
    results = evaluator.evaluate()
    truths = [np.array(Image.open(record["sem_seg_file_name"])) for record in records]
    assert list(results) == ["sem_seg", "cam", "cam_inter", "pseudo_label"]
    for key, values in results.items():
        predictions = [labels_by_hand(key, output) for output in outputs]
        expected = iou_by_hand(truths, predictions)
        assert set(expected) == {"background", "cat", "dog"}
        for label, value in expected.items():
            assert values[f"IoU-{label}"] == pytest.approx(value)
        # The owl is predicted by the head but never shown: it is left out of the mean.
        assert values["mIoU"] == pytest.approx(np.mean(list(expected.values())))
        known = np.stack(truths) != 255
        labelled = np.stack(predictions)[known] != 255
        assert values["labelled"] == pytest.approx(100 * labelled.mean())


def evaluate(name, records, cfg):
    evaluator = build_evaluator(cfg, name)
    evaluator.reset()
    inputs, outputs = make_inputs(records), make_outputs(3)
    for item, output in zip(inputs, outputs, strict=True):
        if "image_labels" not in item:
            del output["cam"], output["cam_inter"], output["pseudo_label"]  # as the model
    evaluator.process(inputs, outputs)
    return evaluator.evaluate()


def test_unlabelled_images_count_for_the_head_only(split, tiny_cfg, caplog):
    name, records = split
    complete = evaluate(name, records, tiny_cfg)
    assert "image-level label" not in caplog.text
    records[1]["image_labels"] = []
    found = evaluate(name, records, tiny_cfg)
    assert f"1 of 3 images of {name} have no image-level label: CAMs and pseudo" in caplog.text
    assert repr(found["sem_seg"]) == repr(complete["sem_seg"])  # nan is not equal to itself
    outputs = [output for i, output in enumerate(make_outputs(3)) if i != 1]
    truths = [np.array(Image.open(r["sem_seg_file_name"])) for r in (records[0], records[2])]
    for key in ("cam", "cam_inter", "pseudo_label"):
        expected = iou_by_hand(truths, [labels_by_hand(key, output) for output in outputs])
        for label, value in expected.items():
            assert found[key][f"IoU-{label}"] == pytest.approx(value)


def test_no_row_claims_labels_that_no_image_has(split, tiny_cfg, caplog):
    name, records = split
    for record in records:
        record["image_labels"] = []
    with caplog.at_level("INFO", logger="dalnet"):
        assert list(evaluate(name, records, tiny_cfg)) == ["sem_seg"]
    assert "3 of 3 images" in caplog.text and "image labels given" not in caplog.text
    caplog.clear()
    tiny_cfg.TEST.EVAL_CAM = False
    evaluate(name, records, tiny_cfg)
    assert "image-level label" not in caplog.text, "nobody asked for CAMs"


def test_table_states_split_images_and_protocol(split, tiny_cfg, caplog):
    name, records = split
    evaluator = build_evaluator(tiny_cfg, name)
    evaluator.reset()
    evaluator.process(make_inputs(records), make_outputs(3))
    with caplog.at_level("INFO", logger="dalnet"):
        evaluator.evaluate()
    assert f"{name}, 3 images" in caplog.text
    for part in ("single scale", "threshold 0.5", "PAR, thresholds 0.25 / 0.7", "mirror"):
        assert part in caplog.text


@pytest.mark.parametrize(
    ("mask", "part"),
    [
        (np.full(SIZE, 9, np.uint8), "contains the value 9"),
        (np.zeros((3, 3), np.uint8), r"is \(3, 3\)"),
        (np.zeros((*SIZE, 3), np.uint8), "single-channel"),
    ],
)
def test_unusable_mask_is_named(split, tiny_cfg, mask, part):
    name, records = split
    Image.fromarray(mask).save(records[1]["sem_seg_file_name"])
    evaluator = build_evaluator(tiny_cfg, name)
    evaluator.reset()
    with pytest.raises(UsageError, match=part) as error:
        evaluator.process(make_inputs(records), make_outputs(3))
    assert records[1]["sem_seg_file_name"] in str(error.value)


def test_missing_mask_is_named(split, tiny_cfg, tmp_path):
    name, records = split
    (tmp_path / "0.png").unlink()
    evaluator = build_evaluator(tiny_cfg, name)
    evaluator.reset()
    with pytest.raises(UsageError, match="0.png cannot be read"):
        evaluator.process(make_inputs(records), make_outputs(3))


def test_split_without_masks_is_refused(split, tiny_cfg):
    name, records = split
    del records[0]["sem_seg_file_name"]
    with pytest.raises(UsageError, match="has no masks"):
        build_evaluator(tiny_cfg, name)
