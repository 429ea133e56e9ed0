# SPDX-License-Identifier: Apache-2.0
"""All rows of the results for one photograph, from shared passes through the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dalnet.layers.argmax import fast_argmax
from dalnet.modeling.cam import cam_scores
from dalnet.modeling.image_inference import ImageInference
from dalnet.modeling.meta_arch import WeakSegmentor

from .crf_pool import CRFJob
from .protocol import Row

# Probability that a pseudo label's class gets before the CRF, as is usual for CRFs on label maps.
_LABEL_CONFIDENCE = 0.7


@dataclass(frozen=True)
class Prediction:
    """One row's result for one photograph, at the photograph's size.

    Attributes:
        row: what it is.
        labels: uint8 [H, W], 255 for ignored; None where the CRF is still to be run.
        cams: float32 [P, H, W] in 0..1, of the present classes; for CAM rows without CRF.
        present: indices 0..C-1 of the P classes that the image shows, by its image-level labels.
        crf: the CRF that gives ``labels``.
    """

    row: Row
    labels: np.ndarray | None = None
    cams: Tensor | None = None
    present: tuple[int, ...] = ()
    crf: CRFJob | None = None


class RowPredictor:
    """Computes several rows for an image; what they share is computed once."""

    def __init__(self, model: WeakSegmentor, rows: Sequence[Row]) -> None:
        """Take the model in evaluation mode and the rows."""
        self.model = model
        # Rows with the flip first: both copies then go through the encoder as one batch.
        self.rows = sorted(rows, key=lambda row: not row.protocol.flip)

    @torch.no_grad()
    def __call__(self, item: dict[str, Any]) -> list[Prediction]:
        """Predict what the mapper made of one image at test time.

        Rows that need image-level labels are left out where the image has none.
        """
        labels = item.get("image_labels", torch.zeros(self.model.num_classes))
        image = self.model.infer(
            item["image"].to(self.model.device).float()[None],
            (item["height"], item["width"]),
            labels.nonzero().flatten().tolist(),
        )
        possible = [row for row in self.rows if image.image_classes or not row.needs_labels]
        return [self._predict(image, row) for row in possible]

    def _predict(self, image: ImageInference, row: Row) -> Prediction:
        # The labels that the image can have, by its image-level labels, in a label map.
        values = torch.tensor(
            [0, *(c + 1 for c in image.image_classes)], device=image.images.device
        )
        if row.source == "seg":
            probabilities = image.probabilities(row.scales, row.protocol.flip)
            if row.protocol.crf:
                return Prediction(
                    row, crf=_crf_job(image, probabilities, range(len(probabilities)))
                )
            return Prediction(row, _label_map(fast_argmax(probabilities, dim=0)))
        if row.source == "pseudo":
            labels = image.pseudo_label(row.scales, row.protocol.flip)
            if not row.protocol.crf:
                return Prediction(row, _label_map(labels))
            hits = values[:, None, None] == labels
            rest = (1 - _LABEL_CONFIDENCE) / len(image.image_classes)
            # An ignored pixel, equal in all channels, says nothing: its surroundings label it.
            probs = torch.where(hits, _LABEL_CONFIDENCE, rest)
            return Prediction(row, crf=_crf_job(image, probs / probs.sum(dim=0), values.tolist()))
        cams = image.cams(row.source, row.scales, row.protocol.flip)
        threshold = self.model.cam_settings.background
        scores = cam_scores(cams[None], cams.new_ones(1, len(cams)), threshold)[0]
        if not row.protocol.crf:
            labels = values[fast_argmax(scores, dim=0)]
            return Prediction(row, _label_map(labels), cams, image.image_classes)
        return Prediction(row, crf=_crf_job(image, scores / scores.sum(dim=0), values.tolist()))


def _crf_job(image: ImageInference, probs: Tensor, values: Sequence[int]) -> CRFJob:
    return CRFJob(image.crf_images()[0].cpu().numpy(), probs.float().cpu().numpy(), tuple(values))


def _label_map(labels: Tensor) -> np.ndarray:
    return labels.to(torch.uint8).cpu().numpy()
