# SPDX-License-Identifier: Apache-2.0
"""The config keys of CLIMS, and the rules that their values keep.

Values are those of PASCAL VOC in the published code, in the variant that it recommends.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode as CN

from dalnet.config import System
from dalnet.config.checks import (
    Rule,
    above_zero,
    are_counts,
    are_finite,
    are_positive,
    at_least,
    fraction,
    one_of,
)
from dalnet.errors import UsageError

_LOSSES = ("OTM_WEIGHT", "BTM_WEIGHT", "CBS_WEIGHT", "REG_WEIGHT")
_SOURCES = ("tower", "checkpoint")


def add_clims_config(cfg: CN) -> None:
    """Add ``MODEL.CLIMS`` to ``cfg``, in place."""
    clims = cfg.MODEL.CLIMS = CN()
    # Words for the classes and phrases for backgrounds: "voc", "coco" or "toy", which come with the
    # package, or a YAML file like those in clims/texts.
    clims.TEXTS = "voc"
    # Weights of the losses; 0 leaves one out.
    clims.OTM_WEIGHT = 10.0  # the object matches its text
    clims.BTM_WEIGHT = 24.0  # the rest does not
    clims.CBS_WEIGHT = 1.0  # the object matches no phrase for backgrounds
    clims.REG_WEIGHT = 0.2  # the maps are small
    clims.CBS_THRESHOLD = 0.26  # a cosine with a phrase up to this does no harm
    # The published L_CBS is a sum, which grows with the batch. With this number of images, N, it is
    # multiplied by N / (images of the batch on one GPU); 0 is as published.
    clims.CBS_REFERENCE_BATCH = 0
    # Pixel statistics, RGB in 0..255, that images are normalized with for CLIP. () is as published:
    # CLIP gets them as the CAM network does.
    clims.CLIP_PIXEL_MEAN = ()
    clims.CLIP_PIXEL_STD = ()
    # Masked images that go through CLIP at a time; with more of them, what CLIP computes is
    # computed again in the backward pass instead of kept. 0 is no limit.
    clims.CLIP_CHUNK = 0
    # Losses: "improved", or "camera_ready", those of the version behind the paper's figures.
    clims.VARIANT = "improved"
    _add_refinement(clims)


def _add_refinement(clims: CN) -> None:
    # The dense CRF of confident labels, see python -m clims.refine; its thresholds are those of
    # MODEL.CAM.
    clims.CRF = CN()
    clims.CRF.ITERS = 10
    clims.CRF.POS_W = 3.0
    clims.CRF.POS_XY_STD = 3.0
    clims.CRF.BI_W = 10.0
    clims.CRF.BI_XY_STD = 50.0
    clims.CRF.BI_RGB_STD = 5.0
    # The edge network: a folder of confident labels, and the distance, in places of 4 pixels, below
    # which two places are a pair.
    clims.EDGES = CN()
    clims.EDGES.LABELS = ""
    clims.EDGES.RADIUS = 10
    # The segmentation network at the end: a folder of label maps, and the dilations of its head.
    clims.SEGMENTATION = CN()
    clims.SEGMENTATION.LABELS = ""
    clims.SEGMENTATION.DILATIONS = (6, 12, 18)
    # The random walk: distance of neighbors, exponent of their affinities, number of steps, score
    # of the background.
    clims.WALK = CN()
    clims.WALK.RADIUS = 5
    clims.WALK.BETA = 10.0
    clims.WALK.STEPS = 256
    clims.WALK.BACKGROUND_THRESHOLD = 0.20


def check_clims(cfg: CN) -> None:
    """Refuse values that do not fit each other.

    Raises:
        UsageError: which key, and how to correct it.
    """
    check_backbone(cfg)
    clims = cfg.MODEL.CLIMS
    for key, are_right in (("CLIP_PIXEL_MEAN", _are_three), ("CLIP_PIXEL_STD", _are_above_zero)):
        if not (are_right(clims[key]) if clims.CLIP_PIXEL_MEAN else not clims[key]):
            raise UsageError(
                f"{tuple(clims[key])} are not three numbers"
                + ", all above 0" * (key == "CLIP_PIXEL_STD"),
                where=f"MODEL.CLIMS.{key}",
                hint="give both statistics, or neither",
            )
    if cfg.MODEL.CLIP.SOURCE not in _SOURCES:
        raise UsageError(
            f"{cfg.MODEL.CLIP.SOURCE!r} has no image tower, by which CLIMS looks at images",
            where="MODEL.CLIP.SOURCE",
            hint="set it to 'tower'",
        )


def _are_three(values: Sequence[object]) -> bool:
    return are_finite(values, 3)


def _are_above_zero(values: Sequence[object]) -> bool:
    return len(values) == 3 and are_positive(values)


def check_edges(cfg: CN) -> None:
    """Refuse crops in which no place has neighbors.

    Raises:
        UsageError: ``INPUT.CROP.SIZE`` is too small for the radius.
    """
    height, width = (side // 4 for side in cfg.INPUT.CROP.SIZE)
    reach = cfg.MODEL.CLIMS.EDGES.RADIUS - 1
    if height <= reach or width <= 2 * reach:
        raise UsageError(
            f"crops of {tuple(cfg.INPUT.CROP.SIZE)} have {height} x {width} places, none of which "
            f"has all neighbors within {reach}",
            where="MODEL.CLIMS.EDGES.RADIUS",
            hint="lower it, or enlarge INPUT.CROP.SIZE",
        )


def check_backbone(cfg: CN) -> None:
    """Refuse an encoder that is no CNN.

    Raises:
        UsageError: ``MODEL.BACKBONE.NAME`` is not ``TimmCNN``.
    """
    if cfg.MODEL.BACKBONE.NAME != "TimmCNN":
        raise UsageError(
            f"{cfg.MODEL.BACKBONE.NAME!r} is not the encoder that CLIMS and its baseline have",
            where="MODEL.BACKBONE.NAME",
            hint="set it to 'TimmCNN'",
        )


_REFINEMENT_RULES = (
    at_least(0, "MODEL.CLIMS.CRF.POS_W", "MODEL.CLIMS.CRF.BI_W"),
    at_least(0, "MODEL.CLIMS.CRF.ITERS", "MODEL.CLIMS.WALK.STEPS", "MODEL.CLIMS.WALK.BETA"),
    above_zero(*(f"MODEL.CLIMS.CRF.{key}_STD" for key in ("POS_XY", "BI_XY", "BI_RGB"))),
    at_least(2, "MODEL.CLIMS.WALK.RADIUS"),
    fraction("MODEL.CLIMS.WALK.BACKGROUND_THRESHOLD"),
)
CLIMS_SYSTEM = System(
    name="CLIMS",
    add_config=add_clims_config,
    rules=(
        at_least(0, *(f"MODEL.CLIMS.{key}" for key in _LOSSES)),
        at_least(0, "MODEL.CLIMS.CBS_REFERENCE_BATCH", "MODEL.CLIMS.CLIP_CHUNK"),
        # Without it no map would be larger than 0.
        above_zero("MODEL.CLIMS.OTM_WEIGHT"),
        Rule(
            ("MODEL.CLIMS.CBS_THRESHOLD",),
            lambda value: 0 <= value < 1,
            "it is a cosine of at least 0 and below 1",
        ),
        one_of(("improved", "camera_ready"), "MODEL.CLIMS.VARIANT"),
        *_REFINEMENT_RULES,
    ),
    check=check_clims,
)
EDGE_SYSTEM = System(
    name="EdgeNetwork",
    add_config=lambda cfg: None,
    rules=(
        at_least(2, "MODEL.CLIMS.EDGES.RADIUS"),
        Rule(
            ("INPUT.CROP.SIZE",),
            lambda size: all(side % 4 == 0 for side in size),
            "the edge network needs multiples of 4",
        ),
        one_of(("EdgeMapper",), "INPUT.DATASET_MAPPER_NAME"),
    ),
    check=check_edges,
)
SEGMENTATION_SYSTEM = System(
    name="LabelMapSegmentor",
    add_config=lambda cfg: None,
    rules=(
        Rule(
            ("MODEL.CLIMS.SEGMENTATION.DILATIONS",),
            lambda values: len(values) == 3 and are_counts(values),
            "give three integers, as (6, 12, 18)",
        ),
        one_of(("BN", "SyncBN", "GN"), "MODEL.SEM_SEG_HEAD.NORM"),
        one_of(("LabelMapMapper",), "INPUT.DATASET_MAPPER_NAME"),
    ),
    check=check_backbone,
)
CAM_BASELINE_SYSTEM = System(
    name="CAMBaseline",
    add_config=lambda cfg: None,
    rules=_REFINEMENT_RULES,
    check=check_backbone,
)
