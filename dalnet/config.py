# SPDX-License-Identifier: Apache-2.0
"""Every key that DALNet adds to Detectron2's config, its default and where it comes from.

Sources: [P] stated by the paper, [T] taken from ToCo because the paper is silent,
[D] decided here because the paper is silent or ambiguous (see docs/decisions.md).
"""

from detectron2.config import CfgNode as CN


def add_dalnet_config(cfg: CN) -> None:
    """Add DALNet's keys to ``cfg`` (as returned by ``detectron2.config.get_cfg``), in place."""
    _add_input(cfg)
    _add_backbone(cfg)
    _add_text(cfg)
    add_clip_config(cfg)
    _add_method(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def _add_input(cfg: CN) -> None:
    cfg.INPUT.FORMAT = "RGB"
    # Training: pixels on the short side before anything else, for photographs much larger than
    # VOC's; 0 keeps their own size [T].
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    # Training view: the photograph is rescaled by a factor drawn from this range [P], then cut or
    # padded to INPUT.CROP.SIZE = (height, width) [P].
    cfg.INPUT.RESCALE_RANGE = (0.5, 2.0)
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [448, 448]
    # DINO's colour jitter, grey, blur and solarise on the training views [T].
    cfg.INPUT.PHOTOMETRIC = True
    # Evaluation at the photograph's own size [T].
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.INPUT.MULTI_CROP = CN()
    # Views of crop size: the main view, and a second random resized crop [P]. 1 or 2.
    cfg.INPUT.MULTI_CROP.GLOBAL_VIEWS = 2
    # Small views cut from the main view; 0 switches them off. The paper gives no number [T].
    cfg.INPUT.MULTI_CROP.LOCAL_VIEWS = 8
    cfg.INPUT.MULTI_CROP.LOCAL_SIZE = 96  # side in pixels [P]
    # Where local views are cut: "random", anywhere in the main view and of any size; "uncertain",
    # LOCAL_SIZE pixels of it where the CAM is not sure of an object (ToCo).
    cfg.INPUT.MULTI_CROP.LOCAL_CUT = "random"
    # Area of a view relative to what it is cut from: DINO's range [D], second view [T].
    cfg.INPUT.MULTI_CROP.GLOBAL_SCALE = (0.4, 1.0)
    cfg.INPUT.MULTI_CROP.LOCAL_SCALE = (0.05, 0.4)
    # Images without a single label cannot supervise: "skip" them (named in the log) or "refuse".
    cfg.DATASETS.UNLABELED_IMAGES = "skip"
    # All training views have one size, so grouping by aspect ratio would only delay images.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False


def _add_backbone(cfg: CN) -> None:
    cfg.MODEL.META_ARCHITECTURE = "DALNet"
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
    # timm's name of a CNN in place of the patch embedding: a hybrid ViT, for few photographs and no
    # GPU. "" is none, as in the paper.
    cfg.MODEL.VIT.STEM = ""
    # Of the CNN: "timm", or a file of the whole classifier (.safetensors, .pth).
    cfg.MODEL.VIT.STEM_WEIGHTS = "timm"
    # F_inter is read after this block, counted from 1 [P: block 10 of 12].
    cfg.MODEL.VIT.INTERMEDIATE_BLOCK = 10
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


def _add_text(cfg: CN) -> None:
    cfg.MODEL.TEXT = CN()
    # CLIP model in OpenCLIP's spelling [D]; with a local copy of OpenAI's weights other than their
    # original archive, "ViT-B-16-quickgelu": their activation is not written in the file.
    cfg.MODEL.TEXT.NAME = "ViT-B-16"
    # "openai": OpenAI's weights for NAME, downloaded once; a path to a CLIP checkpoint
    # (.safetensors, .pt, .pth); "untrained": a small seeded tower, whose class embeddings are
    # fixed codes without meaning; "codes": one random direction each, at right angles to all
    # others; "checkpoint": the embeddings stored in MODEL.WEIGHTS.
    cfg.MODEL.TEXT.WEIGHTS = "openai"
    cfg.MODEL.TEXT.SEED = 0  # of the untrained tower or the codes
    cfg.MODEL.TEXT.EMBED_DIM = 512  # d_t, width of the text embedding [D]
    cfg.MODEL.TEXT.TEMPLATE = "a photo of {}"  # [P]
    cfg.MODEL.TEXT.BACKGROUND = "background"  # word put into TEMPLATE for t_bg [P]
    # Take the mean over all prompts off their embeddings: prompts of one template are so alike that
    # their cosines hardly tell the classes apart [D].
    cfg.MODEL.TEXT.CENTER = True
    # Where embeddings are kept between runs; "" is $DALNET_CACHE or ~/.cache/dalnet.
    cfg.MODEL.TEXT.CACHE_DIR = ""


def add_clip_config(cfg: CN) -> None:
    """Add the names of the classes and what their text embeddings are made of, in place."""
    # Filled from DATASETS.TRAIN: the C + 1 class names, background first, and the C words for the
    # foreground classes in prompts ("dining table" for VOC's diningtable [D]).
    cfg.MODEL.CLASS_NAMES = ()
    cfg.MODEL.PROMPT_NAMES = ()
    cfg.MODEL.CLIP = CN()
    # Where the embeddings of the classes come from: "tower", CLIP's text tower [P]; "embeddings",
    # ready ones in a file; "untrained", a small seeded tower, whose embeddings are fixed codes
    # without meaning; "codes", one random direction each, at right angles to all others;
    # "checkpoint", those stored in MODEL.WEIGHTS.
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


def _add_method(cfg: CN) -> None:
    cfg.MODEL.SEM_SEG_HEAD.NAME = "LargeFOVHead"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 21  # background included
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 512  # [T]
    cfg.MODEL.SEM_SEG_HEAD.DILATION = 5  # [T]

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
    # A local view carries a class that covers at least this share of it in the main view's CAM
    # label map [D].
    dalnet.LOCAL_MIN_COVERAGE = 0.2

    # Weights of Eq. 7 and 8 [P]; 0 switches a loss off.
    dalnet.CLS_WEIGHT = 1.0
    dalnet.INTER_WEIGHT = 1.0
    dalnet.GIA_WEIGHT = 1.0
    dalnet.LEA_WEIGHT = 1.0
    dalnet.PTC_WEIGHT = 0.2
    # Class-token contrast: 0.5 in ToCo, not part of DALNet. Needs MULTI_CROP.LOCAL_CUT "uncertain".
    dalnet.CTC_WEIGHT = 0.0
    _add_class_token_contrast(dalnet)
    dalnet.SEG_WEIGHT = 1.0
    dalnet.REG_WEIGHT = 1.0
    dalnet.SEG_START_ITER = 2000  # L_seg and L_reg act after this iteration [T]

    # Dense energy loss [T].
    dalnet.REG = CN()
    dalnet.REG.SIGMA_RGB = 15.0
    dalnet.REG.SIGMA_XY = 100.0  # pixels at full size
    dalnet.REG.SCALE = 0.5  # image and scores are shrunk to this share of their side
    dalnet.REG.METHOD = "lattice"  # "lattice" (as published) or "exact"

    # Multi-scale CAM and pseudo labels [T].
    dalnet.CAM = CN()
    dalnet.CAM.SCALES = (1.0, 0.5, 1.5)
    dalnet.CAM.HIGH_THRESHOLD = 0.7
    dalnet.CAM.LOW_THRESHOLD = 0.25
    dalnet.CAM.BACKGROUND_THRESHOLD = 0.5  # of CAMs as evaluated
    dalnet.PAR = CN()
    dalnet.PAR.NUM_ITERS = 10
    dalnet.PAR.DILATIONS = (1, 2, 4, 8, 12, 24)


def _add_class_token_contrast(dalnet: CN) -> None:
    # Class-token contrast [T]: widths of the projection head, what the teacher keeps at each step,
    # temperature, largest mean region value (0..2) of a local view without objects.
    dalnet.CTC = CN()
    dalnet.CTC.HIDDEN_DIM = 2048
    dalnet.CTC.BOTTLENECK_DIM = 256
    dalnet.CTC.OUT_DIM = 1024
    dalnet.CTC.MOMENTUM = 0.9
    dalnet.CTC.TEMPERATURE = 0.5
    dalnet.CTC.MAX_BACKGROUND = 0.2


def _add_solver(cfg: CN) -> None:
    # Of mixed precision (SOLVER.AMP.ENABLED, on CUDA): "bfloat16", or "float16" with its loss
    # scaling for GPUs before Ampere [D].
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
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
    # Averages of the head's scores over scales and the mirror image [P, scales T].
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
