# SPDX-License-Identifier: Apache-2.0
"""The config keys of DALNet's own method, and the names that keys had before.

Sources [P], [T] and [D] as in ``base.py``.
"""

from detectron2.config import CfgNode as CN

from .base import add_base_config
from .checks import LatePart, Rule, above_zero, at_least, at_most, fraction, one_of
from .systems import System, register_system


def add_dalnet_config(cfg: CN) -> None:
    """Add every key of DALNet to ``cfg`` (of ``detectron2.config.get_cfg``), in place."""
    add_base_config(cfg)
    dalnet = cfg.MODEL.DALNET = CN()
    dalnet.PROJECTION_DIM = 512  # d, width of the common space [D]
    # How texts are projected into the common space: "orthogonal", fixed, keeps the angles between
    # them; "linear", learned, can satisfy Eq. 3 by sending all classes to one direction [D].
    dalnet.TEXT_PROJECTION = "orthogonal"
    # First weights of the two image classifiers: "uniform", PyTorch's, or "zeros", with which their
    # first CAMs come from the images and not from chance [D].
    dalnet.CLASSIFIER_INIT = "uniform"
    dalnet.OBJECT_MASK_THRESHOLD = 0.5  # beta of M_obj, of CAMs in 0..1 [P]

    # Alignment losses, Eq. 3 to 6. The three switches make the six cells of Table 4.
    dalnet.GIA = True
    dalnet.LEA = True
    dalnet.CROSS_CONTRASTIVE = True
    # L_im and L_ex act from this iteration on: before they have learned, CAMs are no guide to what
    # local views and patches show [D].
    dalnet.ALIGN_START_ITER = 0
    # How a cosine becomes the argument of Eq. 3's logarithm, and of LEA's without cross-contrast:
    # "affine", (1 + cos) / 2, or "clamp" [D].
    dalnet.GIA_SIMILARITY = "affine"
    dalnet.LEA_TEMPERATURE = 1.0  # tau, above 0 [P]
    dalnet.LEA_BACKGROUND_WEIGHT = 0.001  # lambda, 0 or more [P]
    # What LEA's sum is divided by: "all", N^2 as printed; "region", each region's patches [D].
    dalnet.LEA_NORMALIZE = "all"
    # A local view has the classes that cover this fraction of it in the main view's CAM labels [D].
    dalnet.LOCAL_MIN_COVERAGE = 0.2

    # Weights of Eq. 7 and 8, 0 or more; 0 switches a loss off [P].
    dalnet.CLS_WEIGHT = 1.0
    dalnet.INTER_WEIGHT = 1.0
    dalnet.GIA_WEIGHT = 1.0
    dalnet.LEA_WEIGHT = 1.0
    dalnet.PTC_WEIGHT = 0.2
    dalnet.SEG_WEIGHT = 1.0
    dalnet.REG_WEIGHT = 1.0
    dalnet.SEG_START_ITER = 2000  # L_seg and L_reg act after this iteration [T]
    dalnet.REG = CN()  # dense energy loss [T]
    dalnet.REG.SIGMA_RGB = 15.0  # deviation of its kernel in intensities of 0..255
    dalnet.REG.SIGMA_XY = 100.0  # deviation in pixels of the full size
    dalnet.REG.SCALE = 0.5  # image and scores are shrunk to this fraction of their side
    dalnet.REG.METHOD = "lattice"  # of the filter: "lattice", as published, or "exact"


_LOSSES = ("CLS", "INTER", "GIA", "LEA", "PTC", "SEG", "REG")
_REG = [f"MODEL.DALNET.REG.{name}" for name in ("SIGMA_RGB", "SIGMA_XY", "SCALE")]
# Of a checkpoint from elsewhere too, whose sizes could else fill the memory.
SIZE_RULES: tuple[Rule, ...] = (
    at_most(
        4096, "MODEL.SEM_SEG_HEAD.CONVS_DIM", "MODEL.CLIP.EMBED_DIM", "MODEL.DALNET.PROJECTION_DIM"
    ),
)
DALNET_RULES: tuple[Rule, ...] = (
    *SIZE_RULES,
    at_least(1, "MODEL.DALNET.PROJECTION_DIM"),
    at_least(0, "MODEL.DALNET.SEG_START_ITER", "MODEL.DALNET.ALIGN_START_ITER"),
    at_least(0, *(f"MODEL.DALNET.{loss}_WEIGHT" for loss in (*_LOSSES, "LEA_BACKGROUND"))),
    above_zero("MODEL.DALNET.LEA_TEMPERATURE", *_REG),
    fraction("MODEL.DALNET.OBJECT_MASK_THRESHOLD", "MODEL.DALNET.LOCAL_MIN_COVERAGE"),
    one_of(("affine", "clamp"), "MODEL.DALNET.GIA_SIMILARITY"),
    one_of(("uniform", "zeros"), "MODEL.DALNET.CLASSIFIER_INIT"),
    one_of(("all", "region"), "MODEL.DALNET.LEA_NORMALIZE"),
    one_of(("lattice", "exact"), "MODEL.DALNET.REG.METHOD"),
    one_of(("orthogonal", "linear"), "MODEL.DALNET.TEXT_PROJECTION"),
)

SEGMENTATION_HEAD = LatePart(
    key="MODEL.DALNET.SEG_START_ITER",
    name="the segmentation head",
    weights=("MODEL.DALNET.SEG_WEIGHT", "MODEL.DALNET.REG_WEIGHT"),
)
ALIGNMENT = LatePart(
    key="MODEL.DALNET.ALIGN_START_ITER",
    name="the alignment with texts",
    weights=("MODEL.DALNET.GIA", "MODEL.DALNET.LEA"),
)

register_system(
    System("DALNet", lambda cfg: None, DALNET_RULES, late_parts=(SEGMENTATION_HEAD, ALIGNMENT)),
)

# What keys and nodes of version 0.1 are called now, and further advice.
_TOCO = ", with MODEL.META_ARCHITECTURE ToCo (package projects/ToCo)"
RENAMED_KEYS = {
    "MODEL.DALNET.CAM": ("MODEL.CAM", ""),
    "MODEL.DALNET.PAR": ("MODEL.PAR", ""),
    "MODEL.TEXT.WEIGHTS": ("MODEL.CLIP.SOURCE", " for a kind, MODEL.CLIP.WEIGHTS for a file"),
    "MODEL.TEXT": ("MODEL.CLIP", ""),
    "MODEL.DALNET.CTC_WEIGHT": ("MODEL.TOCO.CTC_WEIGHT", _TOCO),
    "MODEL.DALNET.CTC": ("MODEL.TOCO", _TOCO),
    "INPUT.MULTI_CROP.LOCAL_CUT": ("INPUT.DATASET_MAPPER_NAME", ": ToCoMapper or MultiCropMapper"),
}
