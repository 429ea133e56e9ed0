# SPDX-License-Identifier: Apache-2.0
"""Compute all measurements of one image, from shared passes through the network."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dalnet.modeling.cam import cam_probabilities
from dalnet.modeling.image_classes import classes_of_labels
from dalnet.modeling.image_inference import ImageInference
from dalnet.modeling.meta_arch import WeakSegmentor

from .crf import CRFTask
from .sources import Measurement

# Probability that a pseudo label's class gets before the CRF, as is usual for CRFs on label maps.
_LABEL_CONFIDENCE = 0.7


class ImageCAMs(NamedTuple):
    """CAMs ``[P, H, W]`` in 0..1 of an image's P classes, given as 0..C-1."""

    cams: Tensor
    image_classes: tuple[int, ...]


# What is kept of a prediction: a label map, uint8 [H, W], 255 for ignored; CAMs, whose threshold is
# chosen later; or, under a protocol with CRF, the task whose result is the label map.
Prediction = np.ndarray | ImageCAMs | CRFTask


class ImageScorer:
    """Predicts what the measurements of an image need; shared passes are computed once."""

    def __init__(self, model: WeakSegmentor, measurements: Sequence[Measurement]) -> None:
        """Take a model in evaluation mode and what to measure of it."""
        self.model = model
        # Those with the flip first: both copies then go through the encoder as one batch.
        self.measurements = sorted(measurements, key=lambda one: not one.protocol.flip)

    @torch.no_grad()
    def __call__(
        self, batched_inputs: Sequence[dict[str, Any]]
    ) -> list[dict[Measurement, Prediction]]:
        """Return the predictions of images by measurement, at the sizes that they have on disk.

        Takes the test mapper's dicts, as a model does. Measurements that need image-level labels
        are left out for images without labels. An image that shows no class is all background.
        """
        return [self._predict_image(record) for record in batched_inputs]

    def _predict_image(self, record: dict[str, Any]) -> dict[Measurement, Prediction]:
        image_classes = classes_of_labels(record.get("image_labels"))
        image = self.model.infer_record(record, image_classes)
        return {
            one: self._predict(image, one)
            for one in self.measurements
            if "image_labels" in record or not one.needs_labels
        }

    def _predict(self, image: ImageInference, measurement: Measurement) -> Prediction:
        name, scales, protocol = measurement.source, measurement.scales, measurement.protocol
        if measurement.needs_labels and not image.image_classes and not measurement.has_curve:
            return np.zeros(image.size, np.uint8)  # all background, which a CRF would not change
        # Label of each channel of the scores: background, then the image's own classes.
        values: Sequence[int] = [0, *(c + 1 for c in image.image_classes)]
        if measurement.kind == "probabilities":
            scores = image.probabilities(scales, protocol.flip, name)
            values = range(len(scores))
            if not protocol.crf:
                return label_map_of(scores)
        elif measurement.kind == "pseudo_label":
            label_map = image.pseudo_label(scales, protocol.flip)
            if not protocol.crf:
                return label_map_of(label_map)
            scores = label_probabilities(label_map, values)
        else:
            cams = image.cams(name, scales, protocol.flip)
            if not protocol.crf:
                return ImageCAMs(cams, image.image_classes)
            scores = cam_probabilities(cams, self.model.cam_settings.background)
        pixels = image.crf_images()[0].cpu().numpy()
        return CRFTask(pixels, scores.float().cpu().numpy(), tuple(values))


def label_probabilities(label_map: Tensor, values: Sequence[int]) -> Tensor:
    """Return probabilities ``[K, H, W]`` for a CRF on a label map: 0.7 for a pixel's label.

    Args:
        label_map: integers ``[H, W]``. A pixel whose value is not in ``values``, as an ignored
            one, gets equal probabilities, so that the CRF labels it like its surroundings.
        values: the K labels.
    """
    hits = torch.tensor(values, device=label_map.device)[:, None, None] == label_map
    rest = (1 - _LABEL_CONFIDENCE) / max(len(hits) - 1, 1)
    scores = torch.where(hits, _LABEL_CONFIDENCE, rest)
    return scores / scores.sum(dim=0)


def label_map_of(prediction: Tensor) -> np.ndarray:
    """Return a label map ``[H, W]``, or the arg max of ``[C + 1, H, W]``, as uint8 ``[H, W]``."""
    if prediction.dim() == 3:
        prediction = prediction.max(dim=0).indices  # on a CPU ten times as fast as argmax
    return prediction.to(torch.uint8).cpu().numpy()
