# SPDX-License-Identifier: Apache-2.0
"""The config keys of ToCo beside DALNet's, which it shares the network and most losses with."""

import math

from detectron2.config import CfgNode as CN

from dalnet.config import System
from dalnet.config.checks import above_zero, at_least, fraction
from dalnet.config.dalnet import DALNET_RULES, SEGMENTATION_HEAD
from dalnet.errors import UsageError


def add_toco_config(cfg: CN) -> None:
    """Add ``MODEL.TOCO`` to ``cfg``, in place."""
    toco = cfg.MODEL.TOCO = CN()
    toco.CTC_WEIGHT = 0.5  # of class-token contrast
    # Widths of the projection head.
    toco.HIDDEN_DIM = 2048
    toco.BOTTLENECK_DIM = 256
    toco.OUT_DIM = 1024
    toco.MOMENTUM = 0.9  # what the teacher keeps of itself at each step
    toco.TEMPERATURE = 0.5
    # Largest mean region value (0..2) of a local view without objects.
    toco.MAX_BACKGROUND = 0.2


def check_toco(cfg: CN) -> None:
    """Refuse values that do not fit each other.

    Raises:
        UsageError: alignment losses, another mapper, or local views that have no place.
    """
    if cfg.MODEL.DALNET.GIA or cfg.MODEL.DALNET.LEA:
        raise UsageError(
            "ToCo aligns nothing with texts",
            where="MODEL.DALNET.GIA",
            hint="set it and MODEL.DALNET.LEA to False",
        )
    if cfg.INPUT.DATASET_MAPPER_NAME != "ToCoMapper":
        raise UsageError(
            f"it is {cfg.INPUT.DATASET_MAPPER_NAME!r}, but ToCo cuts its local views itself",
            where="INPUT.DATASET_MAPPER_NAME",
            hint="set it to 'ToCoMapper'",
        )
    views = cfg.INPUT.MULTI_CROP
    places = [side - views.LOCAL_SIZE + 1 for side in cfg.INPUT.CROP.SIZE]
    if not (min(places) >= 1 <= views.LOCAL_VIEWS <= math.prod(places)):
        raise UsageError(
            f"{views.LOCAL_VIEWS} local views of {views.LOCAL_SIZE} pixels have no place in "
            f"INPUT.CROP.SIZE {tuple(cfg.INPUT.CROP.SIZE)}",
            where="INPUT.MULTI_CROP",
            hint="ask for at least one view, no larger than the crop",
        )


TOCO = System(
    name="ToCo",
    add_config=add_toco_config,
    rules=(
        *DALNET_RULES,
        # Without L_ctc the projection head would learn nothing, which several processes refuse.
        above_zero("MODEL.TOCO.CTC_WEIGHT", "MODEL.TOCO.TEMPERATURE"),
        fraction("MODEL.TOCO.MOMENTUM"),
        at_least(0, "MODEL.TOCO.MAX_BACKGROUND"),
        at_least(1, *(f"MODEL.TOCO.{key}_DIM" for key in ("HIDDEN", "BOTTLENECK", "OUT"))),
    ),
    check=check_toco,
    late_parts=(SEGMENTATION_HEAD,),
)
