# SPDX-License-Identifier: Apache-2.0
"""What a config is refused for before anything is built: values that fail late or silently."""

import math
import operator
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from dalnet.data import check_datasets
from dalnet.errors import UsageError

# Each rule: keys, what is right, what to say else.
_Rule = tuple[tuple[str, ...], Callable[[Any], bool], str]
_LOSSES = ("CLS", "INTER", "GIA", "LEA", "PTC", "CTC", "SEG", "REG")
_SCHEDULES = ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR")


def _are_whole(values: Sequence[Any], least: int) -> bool:
    return all(isinstance(value, int) and value >= least for value in values)


def _are_positive(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and value > 0 for value in values)


def _is_range(values: Sequence[Any]) -> bool:
    return len(values) == 2 and _are_positive(values) and values[0] <= values[1]


def _is_device(name: str) -> bool:
    try:
        device = torch.device(name)
    except RuntimeError:
        return False
    return device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()


def _method(*names: str) -> tuple[str, ...]:
    return tuple(f"MODEL.DALNET.{name}" for name in names)


_RULES: tuple[_Rule, ...] = (
    (
        _method(*(f"{loss}_WEIGHT" for loss in _LOSSES), "LEA_BACKGROUND_WEIGHT", "PAR.NUM_ITERS"),
        lambda value: value >= 0,
        "it must be 0, which switches it off, or more",
    ),
    (
        _method("LEA_TEMPERATURE", "CTC.TEMPERATURE", "REG.SIGMA_RGB", "REG.SIGMA_XY", "REG.SCALE"),
        lambda value: value > 0,
        "it must be above 0",
    ),
    (
        ("SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER"),
        lambda value: value > 0,
        "it must be 1 or more",
    ),
    (
        _method("OBJECT_MASK_THRESHOLD", "LOCAL_MIN_COVERAGE")
        + _method("CAM.BACKGROUND_THRESHOLD", "CTC.MOMENTUM"),
        lambda value: 0 <= value <= 1,
        "it must be from 0 to 1",
    ),
    (
        (*_method("CAM.SCALES"), "TEST.MULTI_SCALE.SCALES"),
        lambda values: len(values) > 0 and _are_positive(values),
        "list positive scales, as (1.0, 0.5)",
    ),
    (
        _method("PAR.DILATIONS"),
        lambda values: len(values) > 0 and _are_whole(values, least=1),
        "list whole numbers of pixels, as (1, 2, 4)",
    ),
    (
        ("INPUT.CROP.SIZE",),
        lambda values: len(values) == 2 and _are_whole(values, least=1),
        "give height and width in pixels, as [448, 448]",
    ),
    (
        ("INPUT.RESCALE_RANGE",),
        _is_range,
        "give the smallest and the largest factor, both above 0, as (0.5, 2.0)",
    ),
    (_method("GIA_SIMILARITY"), ("affine", "clamp").__contains__, "set it to 'affine' or 'clamp'"),
    (_method("LEA_NORMALIZE"), ("all", "region").__contains__, "set it to 'all' or 'region'"),
    (_method("REG.METHOD"), ("lattice", "exact").__contains__, "set it to 'lattice' or 'exact'"),
    (
        ("SOLVER.LR_SCHEDULER_NAME",),
        _SCHEDULES.__contains__,
        f"set it to one of {', '.join(_SCHEDULES)}",
    ),
    (("MODEL.DEVICE",), _is_device, "set it to 'cpu', 'cuda' or a GPU that is there, as 'cuda:0'"),
    (
        ("MODEL.META_ARCHITECTURE",),
        META_ARCH_REGISTRY.__contains__,
        "no model of this name is registered; set it to 'DALNet'",
    ),
    (
        ("MODEL.BACKBONE.NAME",),
        BACKBONE_REGISTRY.__contains__,
        "no backbone of this name is registered; set it to 'TimmViT'",
    ),
    (
        ("MODEL.SEM_SEG_HEAD.NAME",),
        SEM_SEG_HEADS_REGISTRY.__contains__,
        "no head of this name is registered; set it to 'LargeFOVHead'",
    ),
)


def check_config(cfg: CfgNode) -> None:
    """Refuse what would only fail, or silently go wrong, later.

    Raises:
        UsageError: unknown names, impossible sizes or thresholds, OUTPUT_DIR not writable.
    """
    check_datasets(cfg, cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    for name in cfg.DATASETS.TEST:
        check_datasets(cfg, [name], "DATASETS.TEST")
    for keys, is_right, remedy in _RULES:
        for key in keys:
            value = reduce(operator.getitem, key.split("."), cfg)
            if not is_right(value):
                raise UsageError(f"{key} is {value!r}; {remedy}.")
    low, high = cfg.MODEL.DALNET.CAM.LOW_THRESHOLD, cfg.MODEL.DALNET.CAM.HIGH_THRESHOLD
    if not 0 <= low <= high <= 1:
        raise UsageError(
            f"MODEL.DALNET.CAM thresholds must be 0 <= LOW <= HIGH <= 1, not {low} and {high}."
        )
    _check_ignore_value(cfg)
    _check_class_token_contrast(cfg)
    _check_output_dir(cfg.OUTPUT_DIR)


def _check_ignore_value(cfg: CfgNode) -> None:
    value, classes = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        ignored = MetadataCatalog.get(name).get("ignore_label", value)
        if value != ignored:
            raise UsageError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {value}, but the masks of {name} mark ignored "
                f"pixels with {ignored}: set the key to it."
            )
    if value < classes:
        raise UsageError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {classes}, but label {value} means ignored pixels: "
            f"at most {value} classes with background can be told apart from it."
        )


def _check_class_token_contrast(cfg: CfgNode) -> None:
    views, acts = cfg.INPUT.MULTI_CROP, cfg.MODEL.DALNET.CTC_WEIGHT > 0
    if acts != (views.LOCAL_CUT == "uncertain"):
        raise UsageError(
            f"MODEL.DALNET.CTC_WEIGHT is {cfg.MODEL.DALNET.CTC_WEIGHT} and INPUT.MULTI_CROP."
            f'LOCAL_CUT is "{views.LOCAL_CUT}": L_ctc and only L_ctc uses "uncertain" local views; '
            'set both, or a weight of 0 and "random".'
        )
    places = [side - views.LOCAL_SIZE + 1 for side in cfg.INPUT.CROP.SIZE]
    if acts and not (min(places) >= 1 <= views.LOCAL_VIEWS <= math.prod(places)):
        raise UsageError(
            f"INPUT.MULTI_CROP asks for {views.LOCAL_VIEWS} local views of {views.LOCAL_SIZE} "
            f"pixels, for which INPUT.CROP.SIZE {tuple(cfg.INPUT.CROP.SIZE)} has no place; L_ctc "
            "needs at least one view, no larger than the crop."
        )


def check_crop_size(cfg: CfgNode, patch_size: int) -> None:
    """Refuse training views that are no whole number of patches.

    Raises:
        UsageError: a side of a view is not divisible by the backbone's patch size.
    """
    sides = {"INPUT.CROP.SIZE": cfg.INPUT.CROP.SIZE}
    if cfg.INPUT.MULTI_CROP.LOCAL_VIEWS:
        sides["INPUT.MULTI_CROP.LOCAL_SIZE"] = [cfg.INPUT.MULTI_CROP.LOCAL_SIZE]
    for key, values in sides.items():
        if any(value % patch_size for value in values):
            raise UsageError(
                f"{key} is {values}, but the backbone's patches are {patch_size} pixels wide; "
                f"choose multiples of {patch_size}."
            )


def _check_output_dir(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(
            f"OUTPUT_DIR {path} cannot be written to ({error.strerror}); choose another folder."
        ) from error
