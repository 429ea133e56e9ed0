# SPDX-License-Identifier: Apache-2.0
"""That every key of the method reaches the part that it is for."""

from detectron2.modeling import build_model

from dalnet.modeling.settings import LabelSettings
from dalnet.modeling.uncertain_crops import UncertainCrops


def build(cfg, *options):
    cfg = cfg.clone()
    cfg.merge_from_list(list(options))
    return build_model(cfg)


def test_every_key_of_the_method_reaches_its_part(tiny_cfg):
    """Values unlike each other and unlike the defaults, so that no two can be mixed up."""
    model = build(
        tiny_cfg,
        *("MODEL.DALNET.OBJECT_MASK_THRESHOLD", 0.41, "MODEL.DALNET.LOCAL_MIN_COVERAGE", 0.31),
        *("MODEL.DALNET.CAM.LOW_THRESHOLD", 0.21, "MODEL.DALNET.CAM.HIGH_THRESHOLD", 0.81),
        *("MODEL.DALNET.CAM.SCALES", (1.0, 0.75), "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 99),
        *("MODEL.DALNET.LEA_TEMPERATURE", 0.7, "MODEL.DALNET.LEA_BACKGROUND_WEIGHT", 0.03),
        *("MODEL.DALNET.LEA_NORMALIZE", "region", "MODEL.DALNET.GIA_SIMILARITY", "clamp"),
        *("MODEL.DALNET.REG.SIGMA_RGB", 14.0, "MODEL.DALNET.REG.SIGMA_XY", 90.0),
        *("MODEL.DALNET.REG.SCALE", 0.6, "MODEL.DALNET.REG.METHOD", "exact"),
        *("MODEL.DALNET.PAR.NUM_ITERS", 3, "MODEL.DALNET.PAR.DILATIONS", (1, 3)),
        *("MODEL.DALNET.SEG_START_ITER", 7),
    )
    assert model.label_settings == LabelSettings(
        object_mask_threshold=0.41,
        local_min_coverage=0.31,
        scales=(1.0, 0.75),
        low=0.21,
        high=0.81,
        ignore_value=99,
    )
    criterion = model.criterion
    assert (criterion.lea_temperature, criterion.lea_background_weight) == (0.7, 0.03)
    assert (criterion.lea_normalize, criterion.gia_similarity) == ("region", "clamp")
    assert criterion.energy == {"sigma_rgb": 14, "sigma_xy": 90, "scale": 0.6, "method": "exact"}
    assert criterion.ignore_value == 99
    assert (model.par.num_iters, model.par.dilations) == (3, (1, 3))
    assert model.seg_start_iter == 7


def test_every_key_of_tocos_contrast_reaches_its_part(tiny_cfg):
    model = build(
        tiny_cfg,
        *("MODEL.DALNET.GIA", False, "MODEL.DALNET.LEA", False, "MODEL.DALNET.CTC_WEIGHT", 0.5),
        *("MODEL.DALNET.CTC.HIDDEN_DIM", 16, "MODEL.DALNET.CTC.BOTTLENECK_DIM", 8),
        *("MODEL.DALNET.CTC.OUT_DIM", 12, "INPUT.MULTI_CROP.LOCAL_CUT", "uncertain"),
        *("MODEL.DALNET.CTC.MOMENTUM", 0.8, "MODEL.DALNET.CTC.TEMPERATURE", 0.6),
        *("MODEL.DALNET.CTC.MAX_BACKGROUND", 0.3, "MODEL.DALNET.CAM.LOW_THRESHOLD", 0.21),
        *("MODEL.DALNET.CAM.HIGH_THRESHOLD", 0.81, "INPUT.MULTI_CROP.LOCAL_VIEWS", 3),
    )
    contrast = model.class_contrast
    assert (contrast.momentum, contrast.temperature) == (0.8, 0.6)
    assert contrast.crops == UncertainCrops(
        number=3, size=16, low=0.21, high=0.81, max_background=0.3
    )
    shapes = [tuple(p.shape) for p in contrast.student.parameters() if p.dim() > 1]
    assert shapes == [(12, 8), (16, 24), (16, 16), (8, 16)]
