# SPDX-License-Identifier: Apache-2.0
"""Configs that cannot be meant are refused by a sentence with the key, or the file.

Further ones stand in tests/config/test_load.py and test_validation.py, and beside what reads a key:
about 70. Here are 236 values of 110 keys, 55 of the systems in projects/, and 27 files.
"""

import re
from pathlib import Path

import pytest
from detectron2.modeling import build_model
from helpers import refused
from PIL import Image

from dalnet.config import load_config
from dalnet.config.load import merge_options
from dalnet.config.validation import check_values
from dalnet.data.mapper import build_mapper
from dalnet.engine.optimizer import build_optimizer
from dalnet.engine.setup import check_config
from dalnet.engine.trainer import _check_view_sizes

BROKEN_CONFIG = pytest.mark.faults("broken configs")

PROJECTS = Path(__file__).parents[2] / "projects"
NAN, INF = float("nan"), float("inf")

# Values by key, each of which is refused.
BROKEN = {
    "SOLVER.BASE_LR": [-1.0, NAN, INF, "much", None, (0.1,)],
    "SOLVER.MAX_ITER": [0, -5, 1.5, NAN, 1e9, []],
    "SOLVER.IMS_PER_BATCH": [0, -4, 2.0, True],
    "SOLVER.ACCUMULATION_STEPS": [0, -1, 0.5],
    "SOLVER.WEIGHT_DECAY": [-0.1, NAN, INF],
    "SOLVER.WEIGHT_DECAY_NORM": [-0.1, NAN],
    "SOLVER.WEIGHT_DECAY_BIAS": [-0.1],
    "SOLVER.HEAD_LR_MULTIPLIER": [-1.0, NAN, INF],
    "SOLVER.BETAS": [(0.9,), (0.9, 1.0), (-0.1, 0.9), (), ("a", "b")],
    "SOLVER.EPS": [-1e-8, NAN],
    "SOLVER.MOMENTUM": [-0.1, 1.5, NAN],
    "SOLVER.WARMUP_ITERS": [-1, 0.5],
    "SOLVER.WARMUP_FACTOR": [-0.1, NAN, INF],
    "SOLVER.POLY_LR_POWER": [-1.0, NAN, INF],
    "SOLVER.POLY_LR_CONSTANT_ENDING": [-0.1, NAN],
    "SOLVER.MIN_LR_FACTOR": [-0.1, 1.5],
    "SOLVER.WARMUP_METHOD": ["bogus"],
    "SOLVER.REFERENCE_WORLD_SIZE": [-2],
    "OUTPUT_DIR": [""],
    "SOLVER.STEPS": [("a",), (1500, 1000)],
    "SOLVER.BIAS_LR_FACTOR": [2.0],
    "SOLVER.LR_SCHEDULER_NAME": ["Linear", ""],
    "SOLVER.OPTIMIZER": ["Adam", "adamw"],
    "SOLVER.CHECKPOINTS_KEPT": [-1, 1.0],
    "SOLVER.CHECKPOINT_PERIOD": [-1],
    "SOLVER.MAX_NONFINITE_STEPS": [-1],
    "SOLVER.AMP.DTYPE": ["float32", "half"],
    "SOLVER.AMP.ENABLED": ["maybe", 2],
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ["all"],
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": [-1.0, 0.0, NAN],
    "MODEL.CAM.SCALES": [(), (0.0,), (-1.0,), ("a",), (1.0, NAN), (1e9,)],
    "MODEL.CAM.LOW_THRESHOLD": [-0.1, 1.1, NAN, 0.9],
    "MODEL.CAM.HIGH_THRESHOLD": [1.5, 0.1],
    "MODEL.CAM.BACKGROUND_THRESHOLD": [-0.1, NAN],
    "MODEL.CAM.FLIP": ["both", True],
    "MODEL.CAM.NORMALIZE": ["none"],
    "MODEL.PAR.NUM_ITERS": [-1, 2.5],
    "MODEL.PAR.DILATIONS": [(), (0,), (1.5,), (-2,)],
    "MODEL.VIT.DROP_PATH": [-0.1, 1.1, NAN],
    "MODEL.VIT.PATCH_SIZE": [-8],
    "MODEL.VIT.EMBED_DIM": [-24, 25, 24 * 10**6],
    "MODEL.VIT.DEPTH": [-2, 10**6],
    "MODEL.VIT.NUM_HEADS": [-1, 5],
    "MODEL.VIT.IMG_SIZE": [-32, 8 * 10**6],
    "MODEL.VIT.INTERMEDIATE_BLOCK": [0, -1, 3],
    "MODEL.VIT.POS_EMBED": ["nearest"],
    "MODEL.VIT.COMPILE": ["fast"],
    "MODEL.VIT.NAME": ["vit_giant", "resnet50", "../vit"],
    "MODEL.VIT.WEIGHTS": ["nowhere.pth", "/etc/passwd", "a.pkl"],
    "MODEL.CNN.STRIDE": [0],
    "MODEL.CNN.NORM": ["GN"],
    "MODEL.BACKBONE.NAME": ["ResNet", "os.system"],
    "MODEL.SEM_SEG_HEAD.NAME": ["Head"],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": [21, 0, -1, 300],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": [0, -16, 10**9],
    "MODEL.SEM_SEG_HEAD.DILATION": [0, -1],
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": [0.5],
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": [3, -1],
    "MODEL.META_ARCHITECTURE": ["GeneralizedRCNN", ""],
    "MODEL.DEVICE": ["gpu", "cuda:99", "", "meta"],
    "MODEL.PROMPT_NAMES": [(1, 2)],
    "MODEL.PIXEL_MEAN": [[1.0], [NAN, 0.0, 0.0]],
    "MODEL.PIXEL_STD": [[0.0, 1.0, 1.0], [1.0, 1.0]],
    "MODEL.CLIP.SOURCE": ["openai"],
    "MODEL.CLIP.PROVIDER": ["timm"],
    "MODEL.CLIP.EMBED_DIM": [0, -1, 10**9],
    "MODEL.CLIP.TEMPLATE": ["a photo", "{} and {}"],
    "MODEL.DALNET.PROJECTION_DIM": [0, -1, 10**9],
    "MODEL.DALNET.TEXT_PROJECTION": ["none"],
    "MODEL.DALNET.OBJECT_MASK_THRESHOLD": [1.1, NAN],
    "MODEL.DALNET.LEA_TEMPERATURE": [0.0, -1.0, NAN, INF],
    "MODEL.DALNET.LEA_BACKGROUND_WEIGHT": [-0.1, INF],
    "MODEL.DALNET.GIA_SIMILARITY": ["cosine"],
    "MODEL.DALNET.CLASSIFIER_INIT": ["ones"],
    "MODEL.DALNET.LEA_NORMALIZE": ["none"],
    "MODEL.DALNET.LOCAL_MIN_COVERAGE": [1.1],
    "MODEL.DALNET.CLS_WEIGHT": [-1.0, NAN, INF],
    "MODEL.DALNET.PTC_WEIGHT": [NAN],
    "MODEL.DALNET.SEG_START_ITER": [-1],
    "MODEL.DALNET.ALIGN_START_ITER": [-1],
    "MODEL.DALNET.REG.SIGMA_RGB": [0.0, INF],
    "MODEL.DALNET.REG.SCALE": [0.0, NAN],
    "MODEL.DALNET.REG.METHOD": ["fast"],
    "SEED": [1 << 31, 1e9, "x"],
    "INPUT.CROP.SIZE": [[32], [0, 32], [30, 32], [32.0, 32.0], [-32, 32]],
    "INPUT.CROP.TYPE": ["relative"],
    "INPUT.FORMAT": ["BGR"],
    "INPUT.RANDOM_FLIP": ["vertical"],
    "INPUT.RESCALE_RANGE": [(2.0, 0.5), (0.0, 1.0), (1.0,), (NAN, NAN), (1.0, INF)],
    "INPUT.LONGER_SIDE_RANGE": [(1.5, 2.0), (9, 3), (5,)],
    "INPUT.MIN_SIZE_TRAIN": [(-1,), (1.5,)],
    "INPUT.MIN_SIZE_TEST": [-1],
    "INPUT.MAX_SIZE_TRAIN": [0],
    "INPUT.MAX_SIZE_TEST": [0, -5],
    "INPUT.DATASET_MAPPER_NAME": ["Mapper"],
    "INPUT.MULTI_CROP.GLOBAL_VIEWS": [0, 3],
    "INPUT.MULTI_CROP.LOCAL_VIEWS": [-1],
    "INPUT.MULTI_CROP.LOCAL_SIZE": [0, 15, -16],
    "INPUT.MULTI_CROP.GLOBAL_SCALE": [(0.0, 1.0), (0.9, 0.1), (0.5, 1.5)],
    "INPUT.MULTI_CROP.LOCAL_SCALE": [(NAN, 1.0), ()],
    "DATASETS.TRAIN": [(), ("nothing",), ("toy_train", "voc_2012_sem_seg_train")],
    "DATASETS.TEST": [("nothing",), ("voc_2012_sem_seg_val",)],
    "DATASETS.DESCRIPTION": ["nowhere.yaml", "/dev/zero"],
    "DATALOADER.NUM_WORKERS": [-1, 1.5],
    "TEST.MULTI_SCALE.SCALES": [(), (0.0,), (INF,)],
    "TEST.AUG.ENABLED": [True],
    "TEST.CRF.ITERS": [-1],
    "TEST.CRF.POS_XY_STD": [0.0, NAN],
    "TEST.CRF.BI_RGB_STD": [-5.0],
    "TEST.CRF.BACKEND": ["cuda"],
}
TOCO = {
    "MODEL.TOCO.CTC_WEIGHT": [0.0, NAN, INF],
    "MODEL.TOCO.TEMPERATURE": [0.0, -1.0],
    "MODEL.TOCO.MOMENTUM": [1.1, NAN],
    "MODEL.TOCO.MAX_BACKGROUND": [-0.1, NAN],
    "MODEL.TOCO.HIDDEN_DIM": [0],
    "MODEL.TOCO.OUT_DIM": [-1],
    "MODEL.DALNET.GIA": [True],
    "INPUT.DATASET_MAPPER_NAME": ["MultiCropMapper"],
}
CLIMS = {
    "MODEL.CLIMS.OTM_WEIGHT": [0.0, -1.0, NAN],
    "MODEL.CLIMS.BTM_WEIGHT": [-1.0, INF],
    "MODEL.CLIMS.CBS_THRESHOLD": [1.0, -0.1, NAN],
    "MODEL.CLIMS.CBS_REFERENCE_BATCH": [-1],
    "MODEL.CLIMS.CLIP_CHUNK": [-1],
    "MODEL.CLIMS.CLIP_PIXEL_MEAN": [(1.0,)],
    "MODEL.CLIMS.CLIP_PIXEL_STD": [(1.0, 1.0)],
    "MODEL.CLIMS.VARIANT": ["first"],
    "MODEL.CLIMS.WALK.RADIUS": [1],
    "MODEL.CLIMS.WALK.BETA": [-1.0, NAN],
    "MODEL.CLIMS.WALK.BACKGROUND_THRESHOLD": [1.1],
    "MODEL.CLIMS.CRF.BI_RGB_STD": [0.0],
    "MODEL.BACKBONE.NAME": ["TimmViT"],
    "MODEL.CLIP.SOURCE": ["codes"],
}
CODE = {
    "MODEL.CODE.NOUNS": [0],
    "MODEL.CODE.CONTEXT_TOKENS": [0, 75],
    "MODEL.CODE.DECODER_LAYERS": [-1],
    "MODEL.CODE.REGION_AFFINE": [(1.0,), (), (NAN, 0.0)],
    "MODEL.CODE.UNFREEZE_ITER": [-1],
    "MODEL.CODE.AREA": [1.1, NAN],
    "MODEL.CODE.WEIGHTS.KG": [-1.0, INF],
    "MODEL.CODE.WEIGHTS.HCL": [NAN],
    "MODEL.CODE.CAPTIONS.NOUNS": ["all"],
    "MODEL.CODE.CAPTIONS.SHUFFLE_BUFFER": [-1],
    "MODEL.CODE.CAPTIONS.CROP_SCALE": [(0.9, 1.1), (0.0, 1.0), ()],
    "MODEL.CODE.SCORES.BACKGROUND": [1.1],
    "MODEL.CODE.SCORES.CLIP_FRACTION": [-0.1],
    "MODEL.CODE.SCORES.REFINEMENT_STEPS": [-1],
    "SOLVER.ACCUMULATION_STEPS": [2],
}


# Texts of a config, which may name itself (c.yaml), a folder (folder) and an image (image.png).
FILES = {
    "a key twice": "SEED: 1\nSEED: 2\n",
    "a node twice": "MODEL: {DEVICE: cpu}\nMODEL: {WEIGHTS: a}\n",
    "tabs": "MODEL:\n\tDEVICE: cpu\n",
    "a colon too many": "SEED: 1: 2\n",
    "a quote that is not closed": "OUTPUT_DIR: 'a\n",
    "numbers for keys": "1: 2\n",
    "a list for a key": "? [a]\n: 2\n",
    "no for a key": "no: 2\n",
    "a key with spaces": "'MODEL. DEVICE': cpu\n",
    "an empty key": "'': 1\n",
    "a key that ends in a dot": "MODEL.: {}\n",
    "a key of Python": "MODEL: {__class__: 1}\n",
    "a key in small letters": "model: {device: cpu}\n",
    "a node for a value": "OUTPUT_DIR: {a: 1}\n",
    "a date": "OUTPUT_DIR: 2020-01-01\n",
    "a list for text": "OUTPUT_DIR: [a]\n",
    "text for a list": "MODEL: {CAM: {SCALES: all}}\n",
    "itself among its bases": "_BASE_: [c.yaml]\n",
    "a folder as its base": "_BASE_: folder\n",
    "an image as its base": "_BASE_: image.png\n",
    "a base upwards": "_BASE_: ../../../../nothing.yaml\n",
    "a base of lists": "_BASE_: [[c.yaml]]\n",
    "a base of another scheme": "_BASE_: catalog://nothing\n",
    "a base on the web": "_BASE_: http://127.0.0.1:9/c.yaml\n",
    "two documents": "SEED: 1\n---\nSEED: 2\n",
    "a merge of nothing": "<<: 3\n",
    "an alias of nothing": "SEED: *a\n",
}
RECIPES = {
    "ToCo/configs/toy_toco": TOCO,
    "CLIMS/configs/toy_clims": CLIMS,
    "CoDe/configs/toy_code": CODE,
}


def cases(table):
    return [(key, value) for key, values in table.items() for value in values]


def is_about(error, key, value):
    """Return whether an error names a key, or the data set or file that its value names."""
    text, named = str(error).lower(), value if isinstance(value, tuple) else (value,)
    return key.rpartition(".")[2].lower() in text or (
        key.startswith("DATASETS") and any(name in error.where for name in named)
    )


def prepare(cfg):
    """Go as far as the beginning of a training, without its images."""
    check_config(cfg)
    build_mapper(cfg, is_train=True)
    model = build_model(cfg)
    _check_view_sizes(cfg, model.backbone.patch_size)
    build_optimizer(cfg, model)


def test_there_are_as_many_as_is_said():
    others = sum(len(cases(table)) for table in RECIPES.values())
    counts = [len(cases(BROKEN)), len(BROKEN), others, len(FILES)]
    assert list(map(int, re.findall(r"\d+", __doc__)))[1:] == counts


@BROKEN_CONFIG
@pytest.mark.parametrize(("key", "value"), cases(BROKEN))
def test_a_value_that_cannot_be_meant(tiny_cfg, key, value):
    with refused("") as error:
        merge_options(tiny_cfg, [key, value])
        prepare(tiny_cfg)
    assert is_about(error.value, key, value)


@BROKEN_CONFIG
@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [(recipe, *case) for recipe, table in RECIPES.items() for case in cases(table)],
)
def test_a_value_of_another_system(recipe, key, value):
    cfg = load_config(str(PROJECTS / f"{recipe}.yaml"), ["MODEL.DEVICE", "cpu"])
    check_values(cfg)
    with refused("") as error:
        merge_options(cfg, [key, value])
        check_values(cfg)
    assert is_about(error.value, key, value)


@BROKEN_CONFIG
@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_meant(tmp_path, text):
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "image.png")
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with refused("") as error:
        load_config(str(path))
    assert str(tmp_path) in str(error.value)
