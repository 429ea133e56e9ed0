# SPDX-License-Identifier: Apache-2.0
"""Define the config keys that every system has, with their defaults and sources.

Sources: [P] stated by the DALNet paper, [T] taken from ToCo because the paper is silent,
[D] decided here because the paper is silent or ambiguous (see docs/decisions.md).
"""

import operator
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode as CN
from detectron2.modeling import BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import Registry

from dalnet.errors import UsageError

from .checks import (
    Rule,
    above_zero,
    are_counts,
    are_finite,
    are_positive,
    at_least,
    fraction,
    is_fraction_range,
    is_range,
    is_size,
    one_of,
)


def add_base_config(cfg: CN) -> None:
    """Add the keys to ``cfg`` (as returned by ``detectron2.config.get_cfg``), in place."""
    _add_data(cfg)
    _add_backbone(cfg)
    _add_clip(cfg)
    _add_cam(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_data(cfg: CN) -> None:
    # Images without a label cannot supervise: "skip" them (named in the log) or "refuse" them [D].
    cfg.DATASETS.UNLABELED_IMAGES = "skip"
    # YAML file of one's own tagged images, the data sets tagged_train and tagged_val; "" for none.
    cfg.DATASETS.DESCRIPTION = ""
    # All training views have one size, so grouping by aspect ratio would only delay images [D].
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    # Training images that cannot be read: False leaves them out and names them in the log, True
    # ends the run [D].
    cfg.DATALOADER.STRICT = False
    cfg.INPUT.FORMAT = "RGB"  # the order of the channels; no other is supported [D]
    cfg.INPUT.DATASET_MAPPER_NAME = "MultiCropMapper"  # makes the views: a mapper of dalnet.data
    # Pixels on the short side of a training image before anything else; 0 keeps its size [T].
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    # A training view is the image rescaled by a factor from this range, both above 0 [P], then cut
    # or padded to (height, width) in pixels, multiples of the patch size [P].
    cfg.INPUT.RESCALE_RANGE = (0.5, 2.0)
    # Smallest and largest longer side in pixels, as (320, 640). Where given, an image is resized to
    # a longer side drawn from this range, and RESCALE_RANGE is not used (CLIMS).
    cfg.INPUT.LONGER_SIDE_RANGE = ()
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [448, 448]
    cfg.INPUT.PHOTOMETRIC = True  # DINO's color jitter, gray, blur and solarize in training [T]
    cfg.INPUT.MIN_SIZE_TEST = 0  # pixels on the short side in evaluation; 0 is the image's own [T]
    crops = cfg.INPUT.MULTI_CROP = CN()
    # Views of INPUT.CROP.SIZE: 1, the main view alone; 2, also a random resized crop [P].
    crops.GLOBAL_VIEWS = 2
    crops.LOCAL_VIEWS = 8  # small views, cut from the main view; 0 switches them off [T]
    crops.LOCAL_SIZE = 96  # their side in pixels, a multiple of the patch size [P]
    crops.GLOBAL_SCALE = (0.4, 1.0)  # area of the second view as a fraction of its image [T]
    crops.LOCAL_SCALE = (0.05, 0.4)  # area of small views as a fraction of the main one: DINO's [D]


def _add_backbone(cfg: CN) -> None:
    cfg.MODEL.META_ARCHITECTURE = "DALNet"  # the system
    # C + 1 class names, background first, and C words for the text prompts. Where they are empty,
    # DATASETS.TRAIN fills them; a checkpoint keeps them.
    cfg.MODEL.CLASS_NAMES = ()
    cfg.MODEL.PROMPT_NAMES = ()
    cfg.MODEL.BACKBONE.NAME = "TimmViT"
    # Mean and standard deviation of pixels in the pre-training, RGB in 0..255: ImageNet's [D].
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    vit = cfg.MODEL.VIT = CN()
    # Any vision transformer of timm. ViT-B/16 is [P], these weights of it [D], DeiT's weights [T].
    vit.NAME = "vit_base_patch16_224.augreg_in21k"
    # "timm": timm's published weights for NAME, downloaded once; a path to .safetensors, .pth (also
    # a training's checkpoint) or .npz (dalnet:// is the folder dalnet/assets); "": random.
    vit.WEIGHTS = "timm"
    # timm's name of a CNN that replaces the patch embedding, which helps with few images and
    # without a GPU; "": none [P].
    vit.STEM = ""
    vit.STEM_WEIGHTS = "timm"  # of that CNN; or a file of the classifier (.safetensors, .pth)
    vit.INTERMEDIATE_BLOCK = 10  # F_inter is read after this block, counted from 1 [P: 10 of 12]
    vit.POS_EMBED = "bilinear"  # how the position embedding is resized [P]; or "bicubic" (ToCo)
    # Stochastic depth in training: the last block is skipped with this probability, earlier ones
    # with a smaller one, also in the passes from which a training step makes its CAMs.
    vit.DROP_PATH = 0.0
    vit.GRAD_CHECKPOINTING = False  # compute blocks again in the backward pass: less memory, slower
    # Mode in which torch.compile compiles the blocks: "default", "reduce-overhead" (with CUDA
    # graphs) or "max-autotune", whose first steps take minutes; "" compiles nothing.
    vit.COMPILE = ""
    # Sizes to change, for small models; 0 keeps the size of timm's model NAME.
    vit.IMG_SIZE = 0  # pixels
    vit.PATCH_SIZE = 0  # pixels
    vit.EMBED_DIM = 0  # width of a token
    vit.DEPTH = 0  # blocks
    vit.NUM_HEADS = 0  # of each block
    _add_cnn(cfg)
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME = "LargeFOVHead"
    head.NUM_CLASSES = 21  # C + 1, background included: VOC's
    head.CONVS_DIM = 512  # channels of its convolutions [T]
    head.DILATION = 5  # their dilation in tokens [T]


def _add_cnn(cfg: CN) -> None:
    cnn = cfg.MODEL.CNN = CN()  # the backbone "TimmCNN", for systems whose encoder is a CNN (CLIMS)
    cnn.NAME = "resnet50.tv_in1k"  # any CNN of timm
    cnn.WEIGHTS = "timm"  # as those of MODEL.VIT, but no .npz
    cnn.STRIDE = 16  # pixels of the image for each cell of the map
    cnn.DILATE = False  # dilate the layers after a stride that was removed to reach STRIDE
    # "BN"; "FixedBN", with the statistics of the pre-training; "SyncBN", for several GPUs.
    cnn.NORM = "BN"
    cnn.FREEZE_STEM = True  # the first convolution, and scale and shift of its norm


def _add_clip(cfg: CN) -> None:
    clip = cfg.MODEL.CLIP = CN()
    # Where the embeddings of the classes come from: "tower", CLIP's text tower [P]; "embeddings",
    # ready ones in a file; "untrained", a small seeded tower, whose embeddings are fixed codes
    # without meaning; "codes", random directions at right angles to each other;
    # "checkpoint", those stored in the checkpoint that is loaded.
    clip.SOURCE = "tower"
    # Package that builds CLIP's towers: "open_clip" [D], or "clip", OpenAI's own, which you have to
    # install yourself.
    clip.PROVIDER = "open_clip"
    # CLIP model in OpenCLIP's spelling [D]; with a local copy of OpenAI's weights other than their
    # original archive, "ViT-B-16-quickgelu": their activation is not written in the file.
    clip.NAME = "ViT-B-16"
    # SOURCE tower: "openai", OpenAI's weights for NAME, downloaded once; or a path to a CLIP
    # checkpoint (.safetensors, .pt, .pth). SOURCE embeddings: X.npy [K, EMBED_DIM] with X.txt
    # beside it (UTF-8, the K names, one a line), or .safetensors with "embeddings" and, in its
    # metadata, a JSON list "names". Rows are found by class name, then by prompt word.
    clip.WEIGHTS = "openai"
    clip.SEED = 0  # of the untrained tower or the codes
    clip.EMBED_DIM = 512  # d_t, width of the text embedding [D]
    clip.TEMPLATE = "a photo of {}"  # the prompt, with {} for a word [P]
    # The word for t_bg [P], or the name of its row in a file; of several, as in "sky, grass, wall",
    # t_bg is the mean [D].
    clip.BACKGROUND = "background"
    # Subtract the mean over all prompts from their embeddings: prompts of one template are so alike
    # that their cosines hardly tell the classes apart [D].
    clip.CENTER = True
    # Folder that keeps embeddings between runs; "" is $DALNET_CACHE or ~/.cache/dalnet.
    clip.CACHE_DIR = ""


def _add_cam(cfg: CN) -> None:
    cam = cfg.MODEL.CAM = CN()
    cam.SCALES = (1.0, 0.5, 1.5)  # factors of the image's size that CAMs are summed over [T]
    # How maps are joined with those of the flipped image: "max" [T], "sum" (CLIMS), "none".
    cam.FLIP = "max"
    # How the sum over scales is brought to 0..1: "min_max" [T]; "max" keeps the minimum (CLIMS).
    cam.NORMALIZE = "min_max"
    cam.HIGH_THRESHOLD = 0.7  # above it a pixel of a pseudo label has the class, 0..1 [T]
    cam.LOW_THRESHOLD = 0.25  # up to it the background; between the two it is ignored [T]
    cam.BACKGROUND_THRESHOLD = 0.5  # the background's score in CAMs as evaluated, 0..1 [T]
    cfg.MODEL.PAR = CN()  # pixel-adaptive refinement
    cfg.MODEL.PAR.NUM_ITERS = 10  # steps [T]
    cfg.MODEL.PAR.DILATIONS = (1, 2, 4, 8, 12, 24)  # distances of neighbors in pixels [T]


def _add_solver(cfg: CN) -> None:
    solver = cfg.SOLVER
    # Mixed precision (SOLVER.AMP.ENABLED, on CUDA alone) uses "bfloat16", or "float16" with its
    # loss scaling for GPUs before Ampere [D].
    solver.AMP.DTYPE = "bfloat16"
    solver.OPTIMIZER = "AdamW"  # [T]; or "SGD", with SOLVER.MOMENTUM
    solver.IMS_PER_BATCH = 4  # images of an optimizer step, over all processes [P]
    solver.ACCUMULATION_STEPS = 1  # parts that a batch is cut into, one after the other [D]
    solver.MAX_ITER = 20000  # optimizer steps: VOC's [P]
    # Whether losses that divide by a number of pairs, pixels, views or images count those of all
    # processes and parts, so that their number changes no loss; else of each. To count over parts,
    # each first runs without gradient [D].
    solver.GLOBAL_LOSS_STATISTICS = True
    # How many steps in a row may be left out because losses or gradients are not finite [D].
    solver.MAX_NONFINITE_STEPS = 5
    # Seconds for which processes wait for one of them in a step, but for the first one; then it is
    # taken to hang, and the training ends. 0: 30 minutes, as outside of steps [D].
    solver.STEP_TIMEOUT = 20
    # How many of the newest checkpoints are kept; 0 for all. Two, as the last may be damaged [D].
    solver.CHECKPOINTS_KEPT = 2
    solver.BASE_LR = 6e-5  # of the backbone [P]
    solver.HEAD_LR_MULTIPLIER = 10.0  # factor for everything but the backbone [T]
    solver.BETAS = (0.9, 0.999)  # AdamW's two moments [T]
    solver.EPS = 1e-8  # added to the root of AdamW's second moment: PyTorch's default
    # Decay of weights, and of norms and biases too [T].
    solver.WEIGHT_DECAY = solver.WEIGHT_DECAY_NORM = solver.WEIGHT_DECAY_BIAS = 0.01
    solver.DECAY_VECTORS = True  # False: one-dimensional parameters are not decayed at all (CoDe)
    # Beside Detectron2's "value" and "norm", which act on each parameter, SOLVER.CLIP_GRADIENTS has
    # the CLIP_TYPE "full_model", which acts on the norm of all gradients together (CoDe).
    # The rate rises linearly from FACTOR times BASE_LR in WARMUP_ITERS steps [P: from 1e-6] ...
    solver.WARMUP_ITERS = 1500
    solver.WARMUP_FACTOR = 1e-6 / 6e-5
    # ... while it decays as (1 - iteration / MAX_ITER) to this power [P], in the end to nothing.
    solver.LR_SCHEDULER_NAME = "WarmupPolyLR"
    solver.POLY_LR_POWER = 0.9
    solver.POLY_LR_CONSTANT_ENDING = 0.0
    # For WarmupThenCosineLR, which decays after the warm-up: last rate / base rate (CoDe).
    solver.MIN_LR_FACTOR = 0.0
    solver.STEPS = ()  # iterations at which WarmupMultiStepLR lowers the rate


def _add_test(cfg: CN) -> None:
    multi_scale = cfg.TEST.MULTI_SCALE = CN()  # averages of the head's scores [P, scales T]
    multi_scale.ENABLED = False
    multi_scale.SCALES = (1.0, 1.25, 1.5)  # factors of the image's size
    multi_scale.FLIP = True  # also over the flipped image
    crf = cfg.TEST.CRF = CN()  # dense CRF on the averaged scores [P, numbers T]
    crf.ENABLED = False
    crf.ITERS = 10  # mean-field steps
    crf.POS_W = 1.0  # weight of the kernel of positions alone ...
    crf.POS_XY_STD = 1.0  # ... and its standard deviation in pixels
    crf.BI_W = 4.0  # weight of the kernel of positions and colors ...
    crf.BI_XY_STD = 121.0  # ... its standard deviation in pixels ...
    crf.BI_RGB_STD = 5.0  # ... and in intensities of 0..255
    # Which CRF evaluation runs on the CPU: "pydensecrf"; "torch", the built-in one, which needs no
    # package and gives the same labels; "auto": pydensecrf where it is installed.
    crf.BACKEND = "auto"
    cfg.TEST.EVAL_CAM = True  # evaluate CAMs and pseudo labels beside the segmentation head [D]


def _is_device(name: str) -> bool:
    try:
        device = torch.device(name)
    except RuntimeError:
        return False
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())


def _registered(registry: Registry, key: str, known: str) -> Rule:
    hint = f"nothing of this name is registered; set it to {known}, or install its package"
    return Rule((key,), registry.__contains__, hint)


def _keys(node: str, names: str) -> Iterator[str]:
    return (f"{node}.{name}" for name in names.split())


_DECAYS = "WEIGHT_DECAY WEIGHT_DECAY_NORM WEIGHT_DECAY_BIAS"
_PERIODS = "WARMUP_ITERS STEP_TIMEOUT CHECKPOINT_PERIOD"
_RATES = "BASE_LR HEAD_LR_MULTIPLIER WARMUP_FACTOR POLY_LR_POWER POLY_LR_CONSTANT_ENDING EPS"
_COUNTS = "IMS_PER_BATCH MAX_ITER ACCUMULATION_STEPS"
SEEDS = 1 << 31  # number of seeds; PyTorch and NumPy know more, Detectron2 draws these
_MOST_TIMES = 16  # that an image is enlarged before CAMs or predictions are made of it

BASE_RULES: tuple[Rule, ...] = (
    at_least(0, "MODEL.PAR.NUM_ITERS", "SOLVER.CHECKPOINTS_KEPT", "SOLVER.MAX_NONFINITE_STEPS"),
    at_least(0, *_keys("SOLVER", f"{_RATES} {_DECAYS} {_PERIODS}")),
    at_least(1, *_keys("SOLVER", _COUNTS)),
    at_least(0, *_keys("MODEL.VIT", "IMG_SIZE PATCH_SIZE EMBED_DIM DEPTH NUM_HEADS")),
    at_least(1, *_keys("MODEL.SEM_SEG_HEAD", "CONVS_DIM DILATION"), "MODEL.CLIP.EMBED_DIM"),
    at_least(1, "MODEL.CNN.STRIDE", "INPUT.MULTI_CROP.LOCAL_SIZE"),
    at_least(1, "INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST"),
    at_least(0, "INPUT.MULTI_CROP.LOCAL_VIEWS", "INPUT.MIN_SIZE_TEST", "DATALOADER.NUM_WORKERS"),
    at_least(0, *_keys("TEST.CRF", "ITERS POS_W BI_W")),
    above_zero(*_keys("TEST.CRF", "POS_XY_STD BI_XY_STD BI_RGB_STD")),
    above_zero("SOLVER.CLIP_GRADIENTS.CLIP_VALUE"),
    fraction("SOLVER.MOMENTUM"),
    one_of(("auto", "pydensecrf", "torch"), "TEST.CRF.BACKEND"),
    Rule(
        ("SOLVER.BETAS",),
        lambda values: are_finite(values, 2) and all(0 <= value < 1 for value in values),
        "give two numbers from 0 to below 1, as (0.9, 0.999)",
    ),
    Rule(
        ("MODEL.PIXEL_MEAN",),
        lambda values: are_finite(values, 3),
        "give three numbers, for red, green and blue",
    ),
    Rule(
        ("MODEL.PIXEL_STD",),
        lambda values: len(values) == 3 and are_positive(values),
        "give three numbers above 0, for red, green and blue",
    ),
    Rule(
        ("INPUT.MIN_SIZE_TRAIN",),
        lambda values: len(values) > 0 and all(isinstance(v, int) and v >= 0 for v in values),
        "list numbers of pixels, as (375,), or (0,) for the images' own size",
    ),
    Rule(
        ("INPUT.MULTI_CROP.GLOBAL_SCALE", "INPUT.MULTI_CROP.LOCAL_SCALE"),
        is_fraction_range,
        "give two fractions of the area, the smaller one first, as (0.4, 1.0)",
    ),
    fraction("MODEL.CAM.BACKGROUND_THRESHOLD", "MODEL.VIT.DROP_PATH"),
    fraction("MODEL.CAM.LOW_THRESHOLD", "MODEL.CAM.HIGH_THRESHOLD"),
    Rule(
        ("MODEL.CAM.SCALES", "TEST.MULTI_SCALE.SCALES"),
        lambda values: are_positive(values) and max(values) <= _MOST_TIMES,
        f"list scales above 0, of {_MOST_TIMES} at most",
    ),
    Rule(("MODEL.PAR.DILATIONS",), are_counts, "list integer numbers of pixels, as (1, 2, 4)"),
    Rule(("INPUT.CROP.SIZE",), is_size, "give height and width in pixels, as [448, 448]"),
    Rule(("INPUT.RESCALE_RANGE",), is_range, "give two factors above 0, as (0.5, 2.0)"),
    Rule(
        ("INPUT.LONGER_SIDE_RANGE",),
        lambda values: not values or (is_range(values) and are_counts(values)),
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
    one_of(
        ("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR", "WarmupThenCosineLR"),
        "SOLVER.LR_SCHEDULER_NAME",
    ),
    one_of(("value", "norm", "full_model"), "SOLVER.CLIP_GRADIENTS.CLIP_TYPE"),
    fraction("SOLVER.MIN_LR_FACTOR"),
    Rule(
        ("MODEL.CLASS_NAMES", "MODEL.PROMPT_NAMES"),
        lambda names: all(isinstance(name, str) for name in names),
        "list texts, as ('cat', 'dog')",
    ),
    Rule(
        ("SOLVER.STEPS",),
        lambda steps: all(isinstance(step, int) for step in steps) and list(steps) == sorted(steps),
        "list iterations in their order, as (1000, 1500)",
    ),
    one_of(("linear", "constant"), "SOLVER.WARMUP_METHOD"),
    at_least(0, "SOLVER.REFERENCE_WORLD_SIZE"),
    Rule(("OUTPUT_DIR",), bool, "name a folder"),
    # Keys of Detectron2 that would be taken for read.
    Rule(("TEST.AUG.ENABLED",), operator.not_, "dalnet evaluate --protocols ms+flip does that"),
    Rule(
        ("SOLVER.BIAS_LR_FACTOR",), lambda factor: factor == 1, "leave it at 1.0; nothing reads it"
    ),
    Rule(
        ("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",),
        lambda weight: weight == 1,
        "leave it at 1.0, and set the weight of the system's own loss, as MODEL.DALNET.SEG_WEIGHT",
    ),
    Rule(("SEED",), lambda value: value < SEEDS, f"it must be below {SEEDS}; -1 draws one"),
    Rule(("MODEL.DEVICE",), _is_device, "set it to 'cpu', 'cuda' or a GPU that exists here"),
    _registered(BACKBONE_REGISTRY, "MODEL.BACKBONE.NAME", "'TimmViT' or 'TimmCNN'"),
    _registered(SEM_SEG_HEADS_REGISTRY, "MODEL.SEM_SEG_HEAD.NAME", "'LargeFOVHead'"),
)


def check_base(cfg: CN) -> None:
    """Refuse values that do not fit each other.

    Raises:
        UsageError: ``where`` is the key to correct.
    """
    cam = cfg.MODEL.CAM
    if cam.LOW_THRESHOLD > cam.HIGH_THRESHOLD:
        what = f"it is {cam.LOW_THRESHOLD}, above HIGH_THRESHOLD {cam.HIGH_THRESHOLD}"
        raise UsageError(what, "MODEL.CAM.LOW_THRESHOLD", "set it to that or less")
    if cfg.SOLVER.OPTIMIZER == "SGD" and cfg.SOLVER.NESTEROV and not cfg.SOLVER.MOMENTUM:
        raise UsageError("it is True without momentum", "SOLVER.NESTEROV", "set it to False")
    ignored, classes = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if ignored < classes:
        what = f"it is {classes}, but label {ignored} (IGNORE_VALUE) means ignored pixels"
        raise UsageError(what, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", f"set it to {ignored} or less")
