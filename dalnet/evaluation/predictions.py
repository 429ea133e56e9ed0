# SPDX-License-Identifier: Apache-2.0
"""All rows of the results for one photograph, from shared passes through the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dalnet.data.datasets.catalog import IGNORE_LABEL
from dalnet.modeling import DALNet
from dalnet.modeling.cam import cam_scores
from dalnet.modeling.image_classes import PresentClasses
from dalnet.modeling.multi_scale import Passes, crf_photographs

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
    """Computes several rows for a photograph; what they share is computed once."""

    def __init__(self, model: DALNet, rows: Sequence[Row], threshold: float) -> None:
        """Take the model in evaluation mode, the rows and the background score of CAMs."""
        self.model = model
        # Rows with the mirror image first: both then go through the encoder as one batch.
        self.rows = sorted(rows, key=lambda row: not row.protocol.flip)
        self.threshold = threshold

    @torch.no_grad()
    def __call__(self, item: dict[str, Any]) -> list[Prediction]:
        """Predict what ``DALNetMapper`` made of one photograph at test time.

        Rows that need image-level labels are left out where the photograph has none.
        """
        photo = _Photograph(self.model, item)
        possible = [row for row in self.rows if photo.present or not row.needs_labels]
        return [self._predict(photo, row) for row in possible]

    def _predict(self, photo: "_Photograph", row: Row) -> Prediction:
        if row.source == "seg":
            return self._head(photo, row)
        if row.source == "pseudo":
            return self._pseudo(photo, row)
        cams = photo.cams(row.source, row.scales, row.protocol.flip)
        scores = cam_scores(cams[None], cams.new_ones(1, len(cams)), self.threshold)[0]
        if not row.protocol.crf:
            labels = photo.values[_best(scores)]
            return Prediction(row, _label_map(labels), cams, photo.present)
        return Prediction(row, crf=photo.crf_job(scores / scores.sum(dim=0)))

    def _head(self, photo: "_Photograph", row: Row) -> Prediction:
        probs = photo.head(row.scales, row.protocol.flip)
        if row.protocol.crf:
            return Prediction(row, crf=photo.crf_job(probs, range(len(probs))))
        return Prediction(row, _label_map(_best(probs)))

    def _pseudo(self, photo: "_Photograph", row: Row) -> Prediction:
        labels = photo.pseudo_label(row.scales, row.protocol.flip)
        if not row.protocol.crf:
            return Prediction(row, _label_map(labels))
        hits = photo.values[:, None, None] == labels
        rest = (1 - _LABEL_CONFIDENCE) / len(photo.present)
        # An ignored pixel, equal in all channels, says nothing: its surroundings label it.
        probs = torch.where(hits, _LABEL_CONFIDENCE, rest)
        return Prediction(row, crf=photo.crf_job(probs / probs.sum(dim=0)))


class _Photograph:
    """One photograph and what the network says about it, each part computed when first asked."""

    def __init__(self, model: DALNet, item: dict[str, Any]) -> None:
        self.model = model
        self.pixels = item["image"].to(model.device).float()[None]
        self.size = (item["height"], item["width"])
        self.labels: Tensor = item.get("image_labels", torch.zeros(model.num_classes))
        shown = self.labels.nonzero().flatten()
        self.present: tuple[int, ...] = tuple(shown.tolist())
        # The labels that the photograph can have, by its image-level labels, in a label map.
        self.values = F.pad(shown + 1, (1, 0)).to(model.device)
        self.passes: Passes = model.passes(self.pixels)
        self._kept: dict[tuple, Tensor] = {}

    def head(self, scales: tuple[float, ...], flip: bool) -> Tensor:
        key = "seg", scales, flip
        if key not in self._kept:
            probs = self.passes.probabilities("sem_seg", self.size, scales, flip)
            self._kept[key] = probs[0]
        return self._kept[key]

    def cams(self, source: str, scales: tuple[float, ...], flip: bool) -> Tensor:
        """CAMs [P, height, width] of the present classes."""
        cams = self._input_cams(source, scales, flip)
        return F.interpolate(cams, size=self.size, mode="bilinear", align_corners=False)[0]

    def pseudo_label(self, scales: tuple[float, ...], flip: bool) -> Tensor:
        key = "pseudo", scales, flip
        if key not in self._kept:
            height, width = self.pixels.shape[-2:]
            boxes = torch.tensor([[0, height, 0, width]], device=self.pixels.device)
            cams = self._input_cams("cam", scales, flip)
            labels = cams.new_ones(1, len(self.present))
            found = self.model.pseudo_labels(self.pixels, cams, labels, boxes)
            large = F.interpolate(found[:, None].double(), size=self.size, mode="nearest")[0, 0]
            # Numbers among the present classes become labels, and all others are ignored.
            names = F.pad(self.values, (0, 256 - len(self.values)), value=IGNORE_LABEL)
            self._kept[key] = names[large.long()]
        return self._kept[key]

    def _input_cams(self, source: str, scales: tuple[float, ...], flip: bool) -> Tensor:
        """CAMs [1, P, h, w] of the present classes at the size that the network saw."""
        key = source, scales, flip
        if key not in self._kept:
            classes = PresentClasses.of(self.labels[None]).to(self.pixels.device)
            self._kept[key] = self.passes.cams(source, scales, flip, classes)
        return self._kept[key]

    def crf_job(self, probs: Tensor, values: Sequence[int] | None = None) -> CRFJob:
        photograph = crf_photographs(self.pixels, self.size)[0]
        return CRFJob(
            photograph.cpu().numpy(),
            probs.float().cpu().numpy(),
            tuple(self.values.tolist() if values is None else values),
        )


def _best(scores: Tensor) -> Tensor:
    """Index of the largest score per pixel: as argmax, which takes ten times as long on the CPU."""
    return scores.max(dim=0).indices


def _label_map(labels: Tensor) -> np.ndarray:
    return labels.to(torch.uint8).cpu().numpy()
