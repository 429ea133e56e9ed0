# SPDX-License-Identifier: Apache-2.0
"""What the meta-architecture reads from the config, by subject."""

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode

from dalnet.errors import UsageError


@dataclass(frozen=True)
class LabelSettings:
    """How CAMs become masks and labels.

    Attributes:
        object_mask_threshold: beta of M_obj.
        local_min_coverage: share of a local view that a class must cover to label it.
        scales: of the multi-scale CAM.
        low, high: CAM thresholds; between them a pixel is ignored.
        ignore_value: label of ignored pixels.
    """

    object_mask_threshold: float
    local_min_coverage: float
    scales: tuple[float, ...]
    low: float
    high: float
    ignore_value: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "LabelSettings":
        """Read them from ``MODEL.DALNET``."""
        method = cfg.MODEL.DALNET
        return cls(
            object_mask_threshold=method.OBJECT_MASK_THRESHOLD,
            local_min_coverage=method.LOCAL_MIN_COVERAGE,
            scales=tuple(method.CAM.SCALES),
            low=method.CAM.LOW_THRESHOLD,
            high=method.CAM.HIGH_THRESHOLD,
            ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )


@dataclass(frozen=True)
class InferenceSettings:
    """What ``forward`` computes in evaluation.

    Attributes:
        scales, flip: passes that the head's scores are averaged over.
        crf: arguments of the dense CRF, or None for none.
        cams: return CAMs and pseudo labels too where image labels are given.
    """

    scales: tuple[float, ...]
    flip: bool
    crf: dict[str, float] | None
    cams: bool

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "InferenceSettings":
        """Read them from ``TEST``."""
        multi_scale = cfg.TEST.MULTI_SCALE
        return cls(
            scales=tuple(multi_scale.SCALES) if multi_scale.ENABLED else (1.0,),
            flip=multi_scale.ENABLED and multi_scale.FLIP,
            crf=crf_parameters(cfg) if cfg.TEST.CRF.ENABLED else None,
            cams=cfg.TEST.EVAL_CAM,
        )


def crf_parameters(cfg: CfgNode) -> dict[str, float]:
    """The arguments of :func:`dalnet.layers.dense_crf` that ``cfg.TEST.CRF`` states."""
    other = ("ENABLED", "BACKEND")
    return {key.lower(): value for key, value in cfg.TEST.CRF.items() if key not in other}


def amp_dtype(cfg: CfgNode) -> torch.dtype:
    """What ``SOLVER.AMP.DTYPE`` names.

    Raises:
        UsageError: neither of the two half precisions.
    """
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    if cfg.SOLVER.AMP.DTYPE not in dtypes:
        raise UsageError(
            f"SOLVER.AMP.DTYPE is {cfg.SOLVER.AMP.DTYPE!r}; set it to 'bfloat16' or 'float16'."
        )
    return dtypes[cfg.SOLVER.AMP.DTYPE]
