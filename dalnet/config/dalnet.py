# SPDX-License-Identifier: Apache-2.0
"""The config keys of DALNet's own method, and the names that keys had before.

Sources [P], [T] and [D] as in ``base.py``.
"""

from detectron2.config import CfgNode as CN

from .base import add_base_config
from .checks import Rule, above_zero, at_least, fraction, one_of
from .systems import System, register_system

_LOSSES = ("CLS", "INTER", "GIA", "LEA", "PTC", "SEG", "REG")


def add_dalnet_config(cfg: CN) -> None:
    """Add every key of DALNet to ``cfg`` (of ``detectron2.config.get_cfg``), in place."""
    add_base_config(cfg)
    dalnet = cfg.MODEL.DALNET = CN()
    dalnet.PROJECTION_DIM = 512  # d, width of the common space [D]
    # Of the texts into the common space: "orthogonal", fixed, keeps the angles between them;
    # "linear", learned, can satisfy Eq. 3 by sending all classes to one direction [D].
    dalnet.TEXT_PROJECTION = "orthogonal"
    dalnet.OBJECT_MASK_THRESHOLD = 0.5  # beta of M_obj [P]

    # Alignment losses, Eq. 3 to 6. The three switches make the six cells of Table 4.
    dalnet.GIA = True
    dalnet.LEA = True
    dalnet.CROSS_CONTRASTIVE = True
    # How a cosine becomes the argument of Eq. 3's logarithm, and of LEA's without cross-contrast:
    # "affine" or "clamp" [D].
    dalnet.GIA_SIMILARITY = "affine"
    dalnet.LEA_TEMPERATURE = 1.0  # tau [P]
    dalnet.LEA_BACKGROUND_WEIGHT = 0.001  # lambda [P]
    # "all": 1/N^2 as printed; "region": mean over each region's patches [D].
    dalnet.LEA_NORMALIZE = "all"
    # A local view carries a class that covers at least this fraction of it in the main view's CAM
    # label map [D].
    dalnet.LOCAL_MIN_COVERAGE = 0.2

    # Weights of Eq. 7 and 8 [P]; 0 switches a loss off.
    dalnet.CLS_WEIGHT = 1.0
    dalnet.INTER_WEIGHT = 1.0
    dalnet.GIA_WEIGHT = 1.0
    dalnet.LEA_WEIGHT = 1.0
    dalnet.PTC_WEIGHT = 0.2
    dalnet.SEG_WEIGHT = 1.0
    dalnet.REG_WEIGHT = 1.0
    dalnet.SEG_START_ITER = 2000  # L_seg and L_reg act after this iteration [T]

    # Dense energy loss [T].
    dalnet.REG = CN()
    dalnet.REG.SIGMA_RGB = 15.0
    dalnet.REG.SIGMA_XY = 100.0  # pixels at full size
    dalnet.REG.SCALE = 0.5  # image and scores are shrunk to this fraction of their side
    dalnet.REG.METHOD = "lattice"  # "lattice" (as published) or "exact"


def _keys(*names: str) -> tuple[str, ...]:
    return tuple(f"MODEL.DALNET.{name}" for name in names)


DALNET_RULES: tuple[Rule, ...] = (
    at_least(0, *_keys(*(f"{loss}_WEIGHT" for loss in _LOSSES), "LEA_BACKGROUND_WEIGHT")),
    above_zero(*_keys("LEA_TEMPERATURE", "REG.SIGMA_RGB", "REG.SIGMA_XY", "REG.SCALE")),
    fraction(*_keys("OBJECT_MASK_THRESHOLD", "LOCAL_MIN_COVERAGE")),
    one_of(("affine", "clamp"), *_keys("GIA_SIMILARITY")),
    one_of(("all", "region"), *_keys("LEA_NORMALIZE")),
    one_of(("lattice", "exact"), *_keys("REG.METHOD")),
    one_of(("orthogonal", "linear"), *_keys("TEXT_PROJECTION")),
)

register_system(System("DALNet", lambda cfg: None, DALNET_RULES))

# What keys and nodes of version 0.1 are called now, and what else there is to say of it.
_TOCO = ", with MODEL.META_ARCHITECTURE ToCo (package projects/ToCo)"
RENAMED_KEYS = {
    "MODEL.DALNET.CAM": ("MODEL.CAM", ""),
    "MODEL.DALNET.PAR": ("MODEL.PAR", ""),
    "MODEL.TEXT.WEIGHTS": (
        "MODEL.CLIP.SOURCE",
        " for a kind, MODEL.CLIP.WEIGHTS for a file",
    ),
    "MODEL.TEXT": ("MODEL.CLIP", ""),
    "MODEL.DALNET.CTC_WEIGHT": ("MODEL.TOCO.CTC_WEIGHT", _TOCO),
    "MODEL.DALNET.CTC": ("MODEL.TOCO", _TOCO),
    "INPUT.MULTI_CROP.LOCAL_CUT": ("INPUT.DATASET_MAPPER_NAME", ": ToCoMapper or MultiCropMapper"),
}
