# SPDX-License-Identifier: Apache-2.0
"""CLIMS's meta-architecture (Xie et al., CVPR 2022): CAMs trained by CLIP on masked images."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from dalnet.config import with_class_names
from dalnet.modeling.batch import TrainingBatch

from .cam_network import CAMBaseline
from .criterion import CLIMSCriterion
from .masking import masked_images
from .matching import CLIPMatching, build_matching

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class CLIMS(CAMBaseline):
    """Trains CAMs by the texts that frozen CLIP finds similar to images masked by these CAMs.

    CLIP is needed for training only. It is loaded when the model is built, or, where the model is
    built for a checkpoint (``MODEL.CLIP.SOURCE`` "checkpoint"), with the first training batch.
    """

    clip_mean: Tensor
    clip_std: Tensor

    required = ("backbone.", "classifier.")
    keeps_classes = True

    @configurable
    def __init__(
        self,
        *,
        matching: CLIPMatching | None,
        load_matching: Callable[[], CLIPMatching],
        criterion: CLIMSCriterion,
        clip_mean: Sequence[float],
        clip_std: Sequence[float],
        **shared: Any,
    ) -> None:
        """
        Args:
            matching: CLIP with its texts; None to load it when it is needed.
            load_matching: loads it.
            criterion: the weighted losses.
            clip_mean, clip_std: statistics of CLIP's images, RGB in 0..255.
            shared: see :class:`CAMBaseline`.
        """
        super().__init__(**shared)
        # In a list, so that CLIP is not registered as a part of the model and not in checkpoints.
        self._matching = [] if matching is None else [matching]
        self._load_matching = load_matching
        self.criterion = criterion
        self._warned = False  # whether a batch without classes has been warned of
        self.register_buffer("clip_mean", torch.tensor(clip_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("clip_std", torch.tensor(clip_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that ``cfg`` describes."""
        cfg = with_class_names(cfg)
        load_matching = partial(build_matching, cfg)
        clims = cfg.MODEL.CLIMS
        return {
            **super().from_config(cfg),
            "matching": None if cfg.MODEL.CLIP.SOURCE == "checkpoint" else load_matching(),
            "load_matching": load_matching,
            "criterion": CLIMSCriterion(cfg),
            "clip_mean": tuple(clims.CLIP_PIXEL_MEAN or cfg.MODEL.PIXEL_MEAN),
            "clip_std": tuple(clims.CLIP_PIXEL_STD or cfg.MODEL.PIXEL_STD),
        }

    @property
    def matching(self) -> CLIPMatching:
        """CLIP with its texts, on the model's device."""
        if not self._matching:
            self._matching.append(self._load_matching())
        matching = self._matching[0]
        # To ask each of its hundreds of tensors takes milliseconds.
        is_here = matching.class_texts.device == self.device
        return matching if is_here else matching.to(self.device)

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return the losses of a training step (Fig. 2 and Eq. 2 to 6 of the paper)."""
        features = self.encode(self.normalize(batch.images))
        maps = self.maps("cam", features).float().sigmoid()  # [N, C, h, w]
        outputs, classes = self.embed_masked(batch, maps)
        return self.criterion(outputs, self.make_targets(classes))

    def embed_masked(self, batch: TrainingBatch, maps: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return CLIP's embeddings of the images inside and outside the maps, and their classes.

        Args:
            batch: N images.
            maps: ``[N, C, h, w]`` in 0..1.

        Returns:
            The criterion's outputs, and the class ``[K]`` of each of the K pairs of an image and
            one of its classes.
        """
        matching = self.matching
        images = (batch.images - self.clip_mean) / self.clip_std
        objects, backgrounds, (_, classes) = masked_images(  # [K, 3, S, S], [K, 3, S, S], [K]
            images, maps, batch.image_labels, matching.image_size
        )
        if not len(classes) and not self._warned:
            self._warned = True
            logger.warning(
                "A batch has no image that shows a class: its only loss is the area of the maps."
            )
        outputs = {"maps": maps, "objects": matching.embed(objects)}
        if "btm" in self.criterion.weights:  # L_BTM, the background's matching
            outputs["backgrounds"] = matching.embed(backgrounds)
        return outputs, classes

    def make_targets(self, classes: Tensor) -> dict[str, Tensor]:
        """Return the texts that each pair of image and class is compared with."""
        matching = self.matching
        return {
            "texts": matching.class_texts[classes],  # [K, d]
            "phrases": matching.phrase_texts,  # [M, d]
            "related": matching.related[classes],  # [K, M]
            "pair_weights": matching.class_weights[classes],  # [K]
        }
