# SPDX-License-Identifier: Apache-2.0
"""The config keys that every system has, their defaults and where these come from.

Sources: [P] stated by the DALNet paper, [T] taken from ToCo because the paper is silent,
[D] decided here because the paper is silent or ambiguous (see docs/decisions.md).
"""

import torch
from detectron2.config import CfgNode as CN
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from dalnet.errors import UsageError

from .checks import (
    Rule,
    are_integers,
    are_positive,
    at_least,
    fraction,
    is_range,
    one_of,
)


def add_base_config(cfg: CN) -> None:
    """Add the keys to ``cfg`` (as returned by ``detectron2.config.get_cfg``), in place."""
    _add_input(cfg)
    _add_backbone(cfg)
    _add_clip(cfg)
    _add_cam(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_input(cfg: CN) -> None:
    cfg.INPUT.FORMAT = "RGB"
    # What makes training views: a name of dalnet.data's registry of mappers.
    cfg.INPUT.DATASET_MAPPER_NAME = "MultiCropMapper"
    # Training: pixels on the short side before anything else, for images much larger than VOC's;
    # 0 keeps their own size [T].
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    # Training view: the image is rescaled by a factor drawn from this range [P], then cut or
    # padded to INPUT.CROP.SIZE = (height, width) [P].
    cfg.INPUT.RESCALE_RANGE = (0.5, 2.0)
    # Smallest and largest longer side in pixels, as (320, 640). Where given, an image is resized to
    # a longer side drawn from this range, and RESCALE_RANGE is not used (CLIMS).
    cfg.INPUT.LONGER_SIDE_RANGE = ()
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [448, 448]
    # DINO's color jitter, gray, blur and solarize on the training views [T].
    cfg.INPUT.PHOTOMETRIC = True
    # Evaluation at the image's own size [T].
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.INPUT.MULTI_CROP = CN()
    # Views of crop size: the main view, and a second random resized crop [P]. 1 or 2.
    cfg.INPUT.MULTI_CROP.GLOBAL_VIEWS = 2
    # Small views cut from the main view; 0 switches them off. The paper gives no number [T].
    cfg.INPUT.MULTI_CROP.LOCAL_VIEWS = 8
    cfg.INPUT.MULTI_CROP.LOCAL_SIZE = 96  # side in pixels [P]
    # Area of a view relative to what it is cut from: DINO's range [D], second view [T].
    cfg.INPUT.MULTI_CROP.GLOBAL_SCALE = (0.4, 1.0)
    cfg.INPUT.MULTI_CROP.LOCAL_SCALE = (0.05, 0.4)
    # Images without a single label cannot supervise: "skip" them (named in the log) or "refuse".
    cfg.DATASETS.UNLABELED_IMAGES = "skip"
    # All training views have one size, so grouping by aspect ratio would only delay images.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False


def _add_backbone(cfg: CN) -> None:
    cfg.MODEL.META_ARCHITECTURE = "DALNet"
    # C + 1 class names, background first, and C words for the text prompts. Filled from
    # DATASETS.TRAIN where they are empty; a checkpoint keeps them.
    cfg.MODEL.CLASS_NAMES = ()
    cfg.MODEL.PROMPT_NAMES = ()
    cfg.MODEL.BACKBONE.NAME = "TimmViT"
    # Pixel statistics in RGB, 0..255, of the pre-training (ImageNet; AugReg's ViTs use 127.5) [D].
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.VIT = CN()
    # Any timm vision transformer [P: ViT-B/16; this file of it D, DeiT's T].
    cfg.MODEL.VIT.NAME = "vit_base_patch16_224.augreg_in21k"
    # "timm": timm's published weights for NAME, downloaded once; a path to .safetensors, .pth (also
    # a training's checkpoint) or .npz (dalnet:// is the folder dalnet/assets); "": random.
    cfg.MODEL.VIT.WEIGHTS = "timm"
    # timm's name of a CNN in place of the patch embedding: a hybrid ViT, for few images and no
    # GPU. "" is none, as in the paper.
    cfg.MODEL.VIT.STEM = ""
    # Of the CNN: "timm", or a file of the whole classifier (.safetensors, .pth).
    cfg.MODEL.VIT.STEM_WEIGHTS = "timm"
    # F_inter is read after this block, counted from 1 [P: block 10 of 12].
    cfg.MODEL.VIT.INTERMEDIATE_BLOCK = 10
    # How the position embedding is resized to other grids: "bilinear" [P] or "bicubic" (ToCo).
    cfg.MODEL.VIT.POS_EMBED = "bilinear"
    # Stochastic depth: the last block is skipped with this probability, the others with less; also
    # in the passes that CAMs of a training step are made of.
    cfg.MODEL.VIT.DROP_PATH = 0.0
    # Recompute each block in the backward pass: less memory, more time.
    cfg.MODEL.VIT.GRAD_CHECKPOINTING = False
    # Compile the encoder's blocks by torch.compile in this mode: "default", "reduce-overhead" (with
    # CUDA graphs) or "max-autotune". "" does not; the first steps of the others take minutes.
    cfg.MODEL.VIT.COMPILE = ""
    # Architecture overrides for small models; 0 keeps what timm's NAME says.
    cfg.MODEL.VIT.IMG_SIZE = 0
    cfg.MODEL.VIT.PATCH_SIZE = 0
    cfg.MODEL.VIT.EMBED_DIM = 0
    cfg.MODEL.VIT.DEPTH = 0
    cfg.MODEL.VIT.NUM_HEADS = 0
    _add_cnn(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NAME = "LargeFOVHead"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 21  # background included
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 512  # [T]
    cfg.MODEL.SEM_SEG_HEAD.DILATION = 5  # [T]


def _add_cnn(cfg: CN) -> None:
    # The backbone "TimmCNN", for systems whose encoder is a CNN (CLIMS).
    cfg.MODEL.CNN = CN()
    cfg.MODEL.CNN.NAME = "resnet50.tv_in1k"  # any CNN of timm
    # "timm": timm's published weights for NAME, downloaded once; a path to .safetensors or .pth; ""
    # for random weights.
    cfg.MODEL.CNN.WEIGHTS = "timm"
    cfg.MODEL.CNN.STRIDE = 16  # pixels of the image for one place of the map
    # Dilate the layers behind a stride that is left out.
    cfg.MODEL.CNN.DILATE = False
    # "BN"; "FixedBN", with the statistics of the pre-training; "SyncBN", for several GPUs.
    cfg.MODEL.CNN.NORM = "BN"
    cfg.MODEL.CNN.FREEZE_STEM = True  # the first convolution, and scale and shift of its norm


def _add_clip(cfg: CN) -> None:
    cfg.MODEL.CLIP = CN()
    # Where the embeddings of the classes come from: "tower", CLIP's text tower [P]; "embeddings",
    # ready ones in a file; "untrained", a small seeded tower, whose embeddings are fixed codes
    # without meaning; "codes", one random direction each, at right angles to all others;
    # "checkpoint", those stored in the checkpoint that is loaded.
    cfg.MODEL.CLIP.SOURCE = "tower"
    # Package that builds CLIP's towers: "open_clip", or "clip", OpenAI's own (not installed with
    # this package); the embeddings are the same.
    cfg.MODEL.CLIP.PROVIDER = "open_clip"
    # CLIP model in OpenCLIP's spelling [D]; with a local copy of OpenAI's weights other than their
    # original archive, "ViT-B-16-quickgelu": their activation is not written in the file.
    cfg.MODEL.CLIP.NAME = "ViT-B-16"
    # SOURCE tower: "openai", OpenAI's weights for NAME, downloaded once; or a path to a CLIP
    # checkpoint (.safetensors, .pt, .pth). SOURCE embeddings: X.npy [K, EMBED_DIM] with X.txt
    # beside it (UTF-8, the K names, one a line), or .safetensors with "embeddings" and, in its
    # metadata, a JSON list "names". Rows are found by class name, then by prompt word.
    cfg.MODEL.CLIP.WEIGHTS = "openai"
    cfg.MODEL.CLIP.SEED = 0  # of the untrained tower or the codes
    cfg.MODEL.CLIP.EMBED_DIM = 512  # d_t, width of the text embedding [D]
    cfg.MODEL.CLIP.TEMPLATE = "a photo of {}"  # [P]
    # Word put into TEMPLATE for t_bg [P], or name of its row.
    cfg.MODEL.CLIP.BACKGROUND = "background"
    # Take the mean over all prompts off their embeddings: prompts of one template are so alike that
    # their cosines hardly tell the classes apart [D].
    cfg.MODEL.CLIP.CENTER = True
    # Where embeddings are kept between runs; "" is $DALNET_CACHE or ~/.cache/dalnet.
    cfg.MODEL.CLIP.CACHE_DIR = ""


def _add_cam(cfg: CN) -> None:
    # Multi-scale CAMs and the pseudo labels made of them [T].
    cfg.MODEL.CAM = CN()
    cfg.MODEL.CAM.SCALES = (1.0, 0.5, 1.5)
    # How an image's maps are joined with those of its flipped copy: "max" [T], "sum" (CLIMS) or
    # "none", without the copy.
    cfg.MODEL.CAM.FLIP = "max"
    # How the sum over the scales is brought to 0..1: "min_max" [T], or "max", which keeps the
    # minimum (CLIMS).
    cfg.MODEL.CAM.NORMALIZE = "min_max"
    cfg.MODEL.CAM.HIGH_THRESHOLD = 0.7
    cfg.MODEL.CAM.LOW_THRESHOLD = 0.25
    cfg.MODEL.CAM.BACKGROUND_THRESHOLD = 0.5  # of CAMs as evaluated
    cfg.MODEL.PAR = CN()
    cfg.MODEL.PAR.NUM_ITERS = 10
    cfg.MODEL.PAR.DILATIONS = (1, 2, 4, 8, 12, 24)


def _add_solver(cfg: CN) -> None:
    # Of mixed precision (SOLVER.AMP.ENABLED, on CUDA): "bfloat16", or "float16" with its loss
    # scaling for GPUs before Ampere [D].
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    cfg.SOLVER.OPTIMIZER = "AdamW"  # or "SGD", with SOLVER.MOMENTUM
    # An optimizer step is taken after so many parts of IMS_PER_BATCH, one after the other.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Rate, batch, length, warm-up from a rate of 1e-6 and power of the decay: VOC's [P].
    cfg.SOLVER.BASE_LR = 6e-5
    cfg.SOLVER.HEAD_LR_MULTIPLIER = 10.0  # everything but the backbone [T]
    cfg.SOLVER.BETAS = (0.9, 0.999)  # [T]
    # Decay acts on norms and biases too [T].
    cfg.SOLVER.WEIGHT_DECAY = 0.01
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.01
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.01
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.MAX_ITER = 20000
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    cfg.SOLVER.WARMUP_ITERS = 1500
    cfg.SOLVER.WARMUP_FACTOR = 1e-6 / 6e-5
    cfg.SOLVER.STEPS = ()


def _add_test(cfg: CN) -> None:
    # Averages of the head's scores over scales and flip [P, scales T].
    cfg.TEST.MULTI_SCALE = CN()
    cfg.TEST.MULTI_SCALE.ENABLED = False
    cfg.TEST.MULTI_SCALE.SCALES = (1.0, 1.25, 1.5)
    cfg.TEST.MULTI_SCALE.FLIP = True
    # Dense CRF on the averaged scores [P, numbers T].
    cfg.TEST.CRF = CN()
    cfg.TEST.CRF.ENABLED = False
    cfg.TEST.CRF.ITERS = 10
    cfg.TEST.CRF.POS_W = 1.0
    cfg.TEST.CRF.POS_XY_STD = 1.0
    cfg.TEST.CRF.BI_W = 4.0
    cfg.TEST.CRF.BI_XY_STD = 121.0
    cfg.TEST.CRF.BI_RGB_STD = 5.0
    # What tools/evaluate.py runs it with, on the CPU: "pydensecrf"; "torch", the built-in one,
    # which needs nothing and gives the same labels; "auto": pydensecrf where it is installed.
    cfg.TEST.CRF.BACKEND = "auto"
    # Evaluate CAMs and pseudo labels beside the segmentation head.
    cfg.TEST.EVAL_CAM = True


def _is_device(name: str) -> bool:
    try:
        device = torch.device(name)
    except RuntimeError:
        return False
    return device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()


BASE_RULES: tuple[Rule, ...] = (
    at_least(0, "MODEL.PAR.NUM_ITERS", "MODEL.VIT.DROP_PATH"),
    at_least(
        1,
        "SOLVER.IMS_PER_BATCH",
        "SOLVER.MAX_ITER",
        "SOLVER.ACCUMULATION_STEPS",
        "MODEL.CNN.STRIDE",
    ),
    fraction("MODEL.CAM.BACKGROUND_THRESHOLD", "MODEL.VIT.DROP_PATH"),
    Rule(
        ("MODEL.CAM.SCALES", "TEST.MULTI_SCALE.SCALES"),
        lambda values: len(values) > 0 and are_positive(values),
        "list positive scales, as (1.0, 0.5)",
    ),
    Rule(
        ("MODEL.PAR.DILATIONS",),
        lambda values: len(values) > 0 and are_integers(values, least=1),
        "list integer numbers of pixels, as (1, 2, 4)",
    ),
    Rule(
        ("INPUT.CROP.SIZE",),
        lambda values: len(values) == 2 and are_integers(values, least=1),
        "give height and width in pixels, as [448, 448]",
    ),
    Rule(
        ("INPUT.RESCALE_RANGE",),
        is_range,
        "give the smallest and the largest factor, both above 0, as (0.5, 2.0)",
    ),
    Rule(
        ("INPUT.LONGER_SIDE_RANGE",),
        lambda values: not values or (is_range(values) and are_integers(values, least=1)),
        "give the smallest and the largest side in pixels, as (320, 640), or none, as ()",
    ),
    one_of(("max", "sum", "none"), "MODEL.CAM.FLIP"),
    one_of(("min_max", "max"), "MODEL.CAM.NORMALIZE"),
    one_of(("bilinear", "bicubic"), "MODEL.VIT.POS_EMBED"),
    one_of(("BN", "FixedBN", "SyncBN"), "MODEL.CNN.NORM"),
    one_of(("", "default", "reduce-overhead", "max-autotune"), "MODEL.VIT.COMPILE"),
    one_of(("tower", "embeddings", "codes", "untrained", "checkpoint"), "MODEL.CLIP.SOURCE"),
    one_of(("open_clip", "clip"), "MODEL.CLIP.PROVIDER"),
    one_of(("bfloat16", "float16"), "SOLVER.AMP.DTYPE"),
    one_of(("AdamW", "SGD"), "SOLVER.OPTIMIZER"),
    one_of(("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR"), "SOLVER.LR_SCHEDULER_NAME"),
    Rule(
        ("MODEL.DEVICE",), _is_device, "set it to 'cpu', 'cuda' or a GPU that is there, as 'cuda:0'"
    ),
    Rule(
        ("MODEL.META_ARCHITECTURE",),
        META_ARCH_REGISTRY.__contains__,
        "no model of this name is registered; set it to 'DALNet', or install its package",
    ),
    Rule(
        ("MODEL.BACKBONE.NAME",),
        BACKBONE_REGISTRY.__contains__,
        "no backbone of this name is registered; set it to 'TimmViT' or 'TimmCNN'",
    ),
    Rule(
        ("MODEL.SEM_SEG_HEAD.NAME",),
        SEM_SEG_HEADS_REGISTRY.__contains__,
        "no head of this name is registered; set it to 'LargeFOVHead'",
    ),
)


def check_base(cfg: CN) -> None:
    """Refuse values that do not fit each other.

    Raises:
        UsageError: which keys, and how to mend them.
    """
    low, high = cfg.MODEL.CAM.LOW_THRESHOLD, cfg.MODEL.CAM.HIGH_THRESHOLD
    if not 0 <= low <= high <= 1:
        raise UsageError(
            f"MODEL.CAM.LOW_THRESHOLD is {low} and HIGH_THRESHOLD {high}; they must be "
            "0 <= LOW <= HIGH <= 1."
        )
    value, classes = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if value < classes:
        raise UsageError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {classes}, but label {value} means ignored pixels: "
            f"at most {value} classes with background can be told apart from it."
        )
