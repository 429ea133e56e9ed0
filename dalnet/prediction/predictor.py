# SPDX-License-Identifier: Apache-2.0
"""A trained model for photographs in memory."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from dalnet.data import DALNetMapper, check_datasets
from dalnet.data.augmentation import resize_photo
from dalnet.data.datasets.catalog import class_table
from dalnet.errors import UsageError
from dalnet.evaluation.protocol import Protocol, Row
from dalnet.modeling.multi_scale import Passes, crf_probabilities
from dalnet.modeling.settings import crf_parameters

from dalnet.engine.setup import expect_checkpoint, use_cpu_without_cuda
from dalnet.checkpoint import load_model


class Predictor:
    """Labels, scores and CAMs of photographs, by the model that ``MODEL.WEIGHTS`` names.

    ::

        predictor = Predictor(cfg)
        result = predictor(read_photo("dog.jpg"), cam_classes=["dog"])
        result["labels"], result["scores"], result["cams"]["dog"]

    Attributes:
        class_names: C + 1 names, background first: label i is ``class_names[i]``.
        protocol: how the head's scores and the CAMs are computed.
    """

    def __init__(self, cfg: CfgNode, protocol: Protocol | None = None) -> None:
        """Load the model.

        Args:
            cfg: of the model; left as it is. Of ``DATASETS.TRAIN`` only the registered classes
                are read; neither its photographs nor pre-trained weights need to exist. Without
                CUDA the CPU is used.
            protocol: scales, mirror image and dense CRF; what ``TEST.MULTI_SCALE`` and
                ``TEST.CRF`` say where not given.

        Raises:
            UsageError: there are no weights, they do not fit, or the data set is not registered
                here or of another number of classes.
        """
        cfg = _for_prediction(cfg)
        self.class_names = class_table(cfg.DATASETS.TRAIN[0])[0]
        self.protocol = protocol or Protocol.from_config(cfg)
        self._head = Row.from_config(cfg, "seg", self.protocol)
        self._cam = Row.from_config(cfg, "cam", self.protocol)
        self._crf = crf_parameters(cfg) if self.protocol.crf else None
        self._resize = DALNetMapper(cfg, is_train=False).resize
        self._model = load_model(cfg).eval()

    @torch.no_grad()
    def __call__(
        self, photo: np.ndarray, cam_classes: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Predict one photograph.

        Args:
            photo: RGB, uint8 [H, W, 3], as ``dalnet.data.images.read_photo`` returns it.
            cam_classes: classes to compute CAMs of; those found in the photograph where not given.

        Returns:
            ``labels``, uint8 [H, W], 0 for background and c + 1 for class c of 0..C-1;
            ``scores``, float32 tensor [C + 1, H, W] on the model's device, probabilities that
            ``labels`` are the arg max of; ``cams``, for each class by name float32 [H, W] in
            0..1, before any CRF. Each CAM is scaled to its own maximum, so it lights up somewhere
            also for a class that the photograph does not show.

        Raises:
            UsageError: no such photograph or class can be worked on, or memory ran out.
        """
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            raise UsageError(
                f"A photograph is {photo.dtype} {list(photo.shape)}; give RGB, uint8 [H, W, 3]."
            )
        with _memory_errors(photo):
            pixels = self._pixels(photo)
            passes, size = self._model.passes(pixels), photo.shape[:2]
            head = self._head
            scores = passes.probabilities("sem_seg", size, head.scales, head.protocol.flip)
            if self._crf is not None:
                scores = crf_probabilities(pixels, scores, **self._crf)
            # As argmax, which takes ten times as long on the CPU.
            labels = scores[0].max(dim=0).indices.to(torch.uint8).cpu().numpy()
            if cam_classes is None:
                cam_classes = [self.class_names[i] for i in np.unique(labels[labels > 0])]
            cams = self._cams(passes, size, cam_classes)
        return {"labels": labels, "scores": scores[0], "cams": cams}

    def _pixels(self, photo: np.ndarray) -> Tensor:
        """What the network sees: float [1, 3, h, w] in 0..255, resized as for an evaluation."""
        pixels = np.ascontiguousarray(resize_photo(photo, self._resize).transpose(2, 0, 1))
        return torch.from_numpy(pixels)[None].to(self._model.device).float()

    def _cams(
        self, passes: Passes, size: tuple[int, int], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        if not names:
            return {}
        index = [label - 1 for label in label_values(self.class_names, names)]
        cams = passes.cams("cam", self._cam.scales, self._cam.protocol.flip)[:, index]
        cams = F.interpolate(cams, size=size, mode="bilinear", align_corners=False)[0]
        return dict(zip(names, cams.cpu().numpy(), strict=True))


def label_values(class_names: Sequence[str], chosen: Sequence[str]) -> list[int]:
    """Labels 1..C of the ``chosen`` ones of ``class_names``, which has the background first.

    Raises:
        UsageError: a name that is not known.
    """
    values = {name: value for value, name in enumerate(class_names) if value > 0}
    unknown = next((name for name in chosen if name not in values), None)
    if unknown is not None:
        raise UsageError(f"The model knows no class {unknown!r}; it knows {', '.join(values)}.")
    return [values[name] for name in chosen]


def _for_prediction(cfg: CfgNode) -> CfgNode:
    if not cfg.MODEL.WEIGHTS:
        raise UsageError(
            "There is no model to predict with: name its checkpoint as MODEL.WEIGHTS "
            "(--opts MODEL.WEIGHTS output/…/model_final.pth)."
        )
    # It names the classes.
    check_datasets(cfg, cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    cfg = cfg.clone()
    cfg.defrost()
    expect_checkpoint(cfg)
    use_cpu_without_cuda(cfg)
    cfg.freeze()
    return cfg


@contextlib.contextmanager
def _memory_errors(photo: np.ndarray) -> Iterator[None]:
    """Turn running out of memory into a sentence: other photographs may be smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch's class for CUDA; on the CPU it has none.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise UsageError(
            f"The photograph of {photo.shape[1]} x {photo.shape[0]} pixels does not fit into "
            "memory; shrink it, or what the network sees of it with INPUT.MIN_SIZE_TEST 448."
        ) from error
