# SPDX-License-Identifier: Apache-2.0
"""The config keys of CoDe.

Sources: [C] the published code's experiment_configs.yml and default.yml, [D] decided here.
"""

from detectron2.config import CfgNode as CN

from dalnet.config import System
from dalnet.config.checks import (
    LatePart,
    Rule,
    are_finite,
    at_least,
    fraction,
    is_fraction_range,
    one_of,
)
from dalnet.data.mapper import INPUT_RULES
from dalnet.errors import UsageError

from .captions import CONTEXT_LENGTH
from .loader import build_caption_loader
from .nouns import FINDERS

_LOSSES = ("KG", "HLF", "HLI", "TV_IMG", "TV_MASK", "AREA", "NEG_AREA", "TSEG", "HCL")


def add_code_config(cfg: CN) -> None:
    """Add ``MODEL.CODE`` to ``cfg``, in place."""
    code = cfg.MODEL.CODE = CN()
    code.NOUNS = 2  # K, nouns drawn from each caption [C]
    code.CONTEXT_TOKENS = 16  # learned tokens before a noun [C]
    code.DECODER_LAYERS = 2  # each doubles the sides of the map of tokens [C]
    # First scale and shift of cosines: a cosine of 0.25 is a region's edge [C].
    code.REGION_AFFINE = (10.0, -2.5)
    code.WORD_AFFINE = (10.0, 0.0)
    # Learn what stands in the place of hidden pixels and words; otherwise it is zero [C].
    code.IMAGE_PROMPT = True
    code.WORD_PROMPT = True
    code.UNFREEZE_ITER = 30000  # iteration from which the copy of CLIP's last block is trained [C]
    # The published code's form of what depends on the number of processes: noun-to-image contrast
    # across processes, and averages of each process instead of all [D: False].
    code.AS_RELEASED = False
    code.AREA = 0.25  # fraction of an image that a noun's region covers on average [C]
    weights = code.WEIGHTS = CN()  # [C]
    weights.KG = 8.0  # learned prompts stay near CLIP's own
    weights.HLF = 0.1  # contrast of pooled features and nouns
    weights.HLI = 0.1  # contrast of regions and nouns
    weights.TV_IMG = 1.0  # total variation of features
    weights.TV_MASK = 1.0  # and of masks
    weights.AREA = 0.5  # regions cover AREA of their images on average
    weights.NEG_AREA = 0.05  # regions of other images' nouns cover nothing
    weights.TSEG = 1.0  # words against their pseudo labels
    weights.HCL = 0.5  # contrast of regions and words
    _add_captions(code)
    _add_scores(code)


def _add_captions(code: CN) -> None:
    captions = code.CAPTIONS = CN()
    # Files of captioned images, relative to DETECTRON2_DATASETS: .jsonl, or .tar with braces, as
    # ("cc3m/{00000..00331}.tar",).
    captions.FILES = ()
    captions.NOUNS = "none"  # what finds nouns: "nltk", "spacy", "none" (captions bring theirs)
    captions.NOUN_DATA = ""  # NLTK's folder of data, or spaCy's pipeline; "": the usual one
    captions.SHUFFLE_BUFFER = 1000  # images of .tar files that are mixed, in each worker [D]
    captions.CROP_SCALE = (0.9, 1.0)  # area of a training view as a fraction of its image [C]


def _add_scores(code: CN) -> None:
    scores = code.SCORES = CN()
    scores.BACKGROUND = 0.4  # its score everywhere, 0..1 [C]
    scores.CLIP_FRACTION = 0.3  # of the frozen CLIP's own maps (MaskCLIP) in the scores [C]
    scores.CLIP_AFFINE = (10.0, -2.5)  # scale and shift of its cosines [C]
    scores.REFINEMENT_STEPS = 10  # of PAMR on the masks; 0 switches it off [C]


def check_code(cfg: CN) -> None:
    """Refuse values that do not fit each other.

    Raises:
        UsageError: parts of batches whose nouns would be fewer than the recipe's.
    """
    if cfg.SOLVER.ACCUMULATION_STEPS > 1:
        raise UsageError(
            f"it is {cfg.SOLVER.ACCUMULATION_STEPS}, but the pairs of a batch are contrasted with "
            "each other",
            "SOLVER.ACCUMULATION_STEPS",
            "set it to 1",
        )


def _keys(*names: str) -> tuple[str, ...]:
    return tuple(f"MODEL.CODE.{name}" for name in names)


CODE = System(
    name="CoDe",
    add_config=add_code_config,
    rules=(
        *INPUT_RULES,
        at_least(0, *_keys(*(f"WEIGHTS.{name}" for name in _LOSSES), "UNFREEZE_ITER")),
        at_least(0, *_keys("CAPTIONS.SHUFFLE_BUFFER", "SCORES.REFINEMENT_STEPS", "DECODER_LAYERS")),
        at_least(1, *_keys("NOUNS")),
        fraction(*_keys("AREA", "SCORES.BACKGROUND", "SCORES.CLIP_FRACTION")),
        one_of(FINDERS, *_keys("CAPTIONS.NOUNS")),
        Rule(
            _keys("CONTEXT_TOKENS"),
            lambda value: 0 < value < CONTEXT_LENGTH - 2,
            f"it must leave room for a noun: from 1 to {CONTEXT_LENGTH - 3}",
        ),
        Rule(
            _keys("REGION_AFFINE", "WORD_AFFINE", "SCORES.CLIP_AFFINE"),
            lambda values: are_finite(values, 2),
            "give a scale and a shift, as (10.0, -2.5)",
        ),
        Rule(
            _keys("CAPTIONS.CROP_SCALE"),
            is_fraction_range,
            "give two fractions, the smaller one first, as (0.9, 1.0)",
        ),
    ),
    check=check_code,
    late_parts=(
        LatePart(
            key="MODEL.CODE.UNFREEZE_ITER",
            name="the copy of CLIP's last block",
            weights=_keys(*(f"WEIGHTS.{name}" for name in _LOSSES)),
        ),
    ),
    build_train_loader=build_caption_loader,
)
