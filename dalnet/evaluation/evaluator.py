# SPDX-License-Identifier: Apache-2.0
"""mIoU of head, CAMs and pseudo labels, all by Detectron2's ``SemSegEvaluator``."""

import logging
from collections import OrderedDict

import numpy as np
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, SemSegEvaluator
from tabulate import tabulate
from torch import Tensor

from dalnet.data.image_io import read_mask
from dalnet.data.labels import warn_of_unlabeled
from dalnet.errors import UsageError
from dalnet.modeling.cam import cam_scores
from dalnet.numbers import percent

from .confusion import labelled_share
from .protocol import Source, model_sources

logger = logging.getLogger(__name__)


class LabelMapEvaluator(SemSegEvaluator):
    """``SemSegEvaluator`` for one entry of the model's output.

    Ignored pixels of a pseudo label are left out of every count, as the ignored pixels of the
    truth are; ``labelled`` tells how many percent of the pixels with a truth remain.
    """

    def __init__(self, dataset_name: str, source: Source, threshold: float) -> None:
        """Evaluate on a registered split with masks.

        Args:
            dataset_name: name in ``DatasetCatalog``.
            source: what to read from the model's output.
            threshold: background score of CAMs, in 0..1.
        """
        super().__init__(dataset_name)
        self.source = source
        self.threshold = threshold

    def process(self, inputs: list[dict], outputs: list[dict[str, Tensor]]) -> None:
        """Count the pixels of a batch; skips outputs without the entry: images without labels."""
        for item, output in zip(inputs, outputs, strict=True):
            if self.source.key not in output:
                continue
            scores = self._scores(item, output[self.source.key])
            super().process([item], [{"sem_seg": scores}])

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> list:
        """No predictions are kept: only the confusion matrix is wanted here."""
        return []

    def evaluate(self) -> OrderedDict | None:
        """Return ``{key: {"mIoU": ..., "IoU-<class>": ..., ...}}`` in percent on the main rank."""
        results = super().evaluate()
        if results is None:
            return None
        values = results["sem_seg"]
        # Detectron2 v0.5 counts classes without ground truth in the denominator; later ones and
        # the field do not.
        values["mIoU"] = float(np.nanmean([values[f"IoU-{c}"] for c in self._class_names]))
        # Detectron2's matrix is [prediction, truth], ignored ones last in both.
        values["labelled"] = labelled_share(self._conf_matrix.T[:-1])
        return OrderedDict({self.source.key: values})

    def _scores(self, item: dict, prediction: Tensor) -> Tensor:
        """Scores whose arg max is the label map; channel C + 1 of a label map means ignored."""
        if prediction.dim() == 2:
            labels = prediction.clamp(max=self._num_classes)
            return F.one_hot(labels, self._num_classes + 1).permute(2, 0, 1)
        if self.source.key == "sem_seg":
            return prediction
        labels = item["image_labels"].to(prediction.device)
        return cam_scores(prediction[None], labels[None], self.threshold)[0]


class TableEvaluator(DatasetEvaluator):
    """Several sources on one pass over a split, printed as one table that states the protocol."""

    def __init__(self, dataset_name: str, evaluators: list[LabelMapEvaluator]) -> None:
        """Combine ``evaluators``, all on ``dataset_name``."""
        self.dataset_name = dataset_name
        self.evaluators = evaluators
        metadata = MetadataCatalog.get(dataset_name)
        self.num_classes, self.ignore_label = len(metadata.stuff_classes), metadata.ignore_label

    def reset(self) -> None:
        """Forget all counts."""
        for evaluator in self.evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict[str, Tensor]]) -> None:
        """Hand a batch to every source's evaluator."""
        for item, output in zip(inputs, outputs, strict=True):
            # Detectron2 would count a bad mask wrongly or fail far from the cause.
            size = output["sem_seg"].shape[-2:]
            read_mask(item["sem_seg_file_name"], size, self.num_classes, self.ignore_label)
        for evaluator in self.evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict | None:
        """Log the table and return the results of all sources, in percent."""
        results: OrderedDict = OrderedDict()
        rows = []
        for evaluator in self.evaluators:
            result = evaluator.evaluate()
            if result is None:
                continue
            results.update(result)
            values = result[evaluator.source.key]
            rows.append(
                [
                    evaluator.source.title,
                    evaluator.source.protocol,
                    *(percent(values[key]) for key in ("mIoU", "pACC", "labelled")),
                ]
            )
        if not results:
            return None
        headers = ["source", "protocol", "mIoU", "pixel acc.", "labelled %"]
        count = len(DatasetCatalog.get(self.dataset_name))
        table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
        logger.info(f"{self.dataset_name}, {count} images:\n{table}")
        return results


def build_evaluator(cfg: CfgNode, dataset_name: str) -> TableEvaluator:
    """Evaluator of the segmentation head and, if ``TEST.EVAL_CAM``, CAMs and pseudo labels.

    These two count the images with image-level labels only; where no image has any, they are
    left out. A warning tells how many lack them.

    Raises:
        UsageError: the split has no masks.
    """
    dicts = DatasetCatalog.get(dataset_name)
    if any("sem_seg_file_name" not in record for record in dicts):
        raise UsageError(
            f"{dataset_name} has no masks, so nothing can be measured on it; choose another split "
            "in DATASETS.TEST."
        )
    if not hasattr(MetadataCatalog.get(dataset_name), "stuff_classes"):
        raise UsageError(f"{dataset_name} has no stuff_classes in its metadata; register them.")
    threshold = cfg.MODEL.CAM.BACKGROUND_THRESHOLD
    if cfg.TEST.EVAL_CAM:
        warn_of_unlabeled(dataset_name, dicts)
    with_cams = cfg.TEST.EVAL_CAM and any(record["image_labels"] for record in dicts)
    sources = [s for s in model_sources(cfg) if s.key == "sem_seg" or with_cams]
    return TableEvaluator(
        dataset_name, [LabelMapEvaluator(dataset_name, source, threshold) for source in sources]
    )
