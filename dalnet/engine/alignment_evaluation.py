# SPDX-License-Identifier: Apache-2.0
"""Measuring on a split what the alignment losses of a trained model work with."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_context
from tqdm import tqdm

from dalnet.checkpoint import load_model
from dalnet.data import build_test_loader
from dalnet.data.image_io import read_mask
from dalnet.errors import UsageError
from dalnet.evaluation.alignment_quality import AlignmentQuality, format_quality
from dalnet.evaluation.similarity import encode_photo, patch_similarities
from dalnet.files import complete_or_absent
from dalnet.modeling import DALNet
from dalnet.modeling.cam import object_mask

logger = logging.getLogger(__name__)

RESULT_FILE = "alignment.json"


def evaluate_alignment(cfg: CfgNode, split: str, output: Path) -> dict[str, Any]:
    """Compare M_obj and the similarities with the true masks; print a table, write a file.

    Each photograph is taken whole, at the size of evaluation and scale 1.0; in training both come
    from crops. Of a model without alignment there is M_obj only.

    Args:
        cfg: frozen, of the model.
        split: name of a registered data set.
        output: folder of ``alignment.json``.

    Returns:
        What the file holds: ``split``, ``weights``, ``num_images`` and ``quality``, see
        :meth:`AlignmentQuality.result`.

    Raises:
        UsageError: no image with mask and labels, or files that cannot be used.
    """
    records = [
        record
        for record in DatasetCatalog.get(split)
        if record["image_labels"] and "sem_seg_file_name" in record
    ]
    if not records:
        raise UsageError(f"{split} has no image with a mask and image labels: name another.")
    model = load_model(cfg)
    quality = AlignmentQuality(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    with inference_context(model), torch.no_grad():
        for batch in tqdm(build_test_loader(cfg, split, records), desc=split, unit="image"):
            for item in batch:
                _count(quality, model, item)
    result = {
        "split": split,
        "weights": cfg.MODEL.WEIGHTS,
        "num_images": quality.images,
        "quality": quality.result(),
    }
    with complete_or_absent(output / RESULT_FILE) as unfinished:
        unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = format_quality(result["quality"])
    logger.info("%s, %d images:\n%s", split, quality.images, table)
    logger.info("Written: %s", output / RESULT_FILE)
    return result


def _count(quality: AlignmentQuality, model: DALNet, item: dict[str, Any]) -> None:
    size = (item["height"], item["width"])
    truth = torch.from_numpy(read_mask(item["sem_seg_file_name"], size, quality.num_classes))
    tokens, labels = encode_photo(model, item), item["image_labels"]
    raw = model.inter_classifier.cam(tokens["inter_tokens"])
    threshold = model.object_mask_threshold
    mask = object_mask(raw, labels[None].to(model.device), threshold)[0]
    aligned = model.projections is not None
    quality.count(truth, mask, patch_similarities(model, tokens, labels) if aligned else None)
