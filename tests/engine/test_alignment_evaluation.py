# SPDX-License-Identifier: Apache-2.0
"""Measuring M_obj and similarities of a model on a split, as the program does it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dalnet.data import build_test_loader
from dalnet.data.image_io import read_mask
from dalnet.engine.trainer import load_model
from dalnet.evaluation.alignment_quality import AlignmentQuality
from dalnet.evaluation.similarity import similarity_maps
from dalnet.modeling.cam import object_mask

ROOT = Path(__file__).parents[2]
SPLIT = "voc_2012_sem_seg_val"


@pytest.fixture
def tool(voc_tree, voc_model, tmp_path, monkeypatch):
    """Runs tools/evaluate_alignment.py on the tree's val split; returns what it has written."""
    path = ROOT / "tools" / "evaluate_alignment.py"
    spec = importlib.util.spec_from_file_location("alignment_tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def execute(*opts):
        command = ["--config-file", voc_tree.config, "--split", SPLIT, "--output", tmp_path / "q"]
        arguments = [*command, "MODEL.WEIGHTS", voc_model.weights, *opts]
        monkeypatch.setattr("sys.argv", ["evaluate_alignment.py", *map(str, arguments)])
        module.main()
        return json.loads((tmp_path / "q" / "alignment.json").read_text())

    return execute


def test_counts_what_the_model_gives(tool, voc_model):
    result = tool()
    assert (result["split"], result["num_images"]) == (SPLIT, 4)
    cfg = voc_model.cfg
    cfg.MODEL.WEIGHTS, cfg.MODEL.CLIP.SOURCE = str(voc_model.weights), "checkpoint"
    cfg.DATASETS.TEST = (SPLIT,)
    model, expected = load_model(cfg).eval(), AlignmentQuality(21)
    with torch.no_grad():
        for (item,) in build_test_loader(cfg, SPLIT):
            size = (item["height"], item["width"])
            truth = torch.from_numpy(read_mask(item["sem_seg_file_name"], size, 21))
            pixels = (item["image"][None].float() - model.pixel_mean) / model.pixel_std
            inter_tokens = model.backbone(pixels)["inter_tokens"]
            raw = model.inter_classifier.cam(inter_tokens)
            mask = object_mask(raw, item["image_labels"][None], 0.5)[0]
            small = item | dict(zip(("height", "width"), inter_tokens.shape[-2:], strict=True))
            maps = similarity_maps(model, small)
            expected.count(truth, mask, {k: torch.from_numpy(v) for k, v in maps.items()})
    for name, value in expected.result().items():
        if value is None:
            assert result["quality"][name] is None
        else:
            assert np.isclose(result["quality"][name], value, atol=1e-5), name
    assert result["quality"]["object_share"] == pytest.approx(0.2)


def test_model_without_alignment_has_the_mask_only(tool):
    quality = tool("MODEL.DALNET.GIA", "False", "MODEL.DALNET.LEA", "False")["quality"]
    assert quality["mask_recall"] is not None
    assert all(value is None for name, value in quality.items() if "text" in name)


def test_split_without_masks_or_labels_is_refused(tool, voc_tree, capsys):
    (voc_tree.voc / "image_tags.json").write_text("{}")
    with pytest.raises(SystemExit):
        tool()
    assert (
        f"{SPLIT} has no image with a mask and image labels: name another"
        in capsys.readouterr().err
    )
