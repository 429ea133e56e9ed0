# SPDX-License-Identifier: Apache-2.0
"""Compute, cache or read the text embeddings of a config's classes (paper, section 3.2).

They never change in training, so that the text tower need not stay in memory.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from open_clip import SimpleTokenizer
from open_clip.transformer import TextTransformer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dalnet.errors import UsageError
from dalnet.io import atomic_write, cache_folder, sha256
from dalnet.modeling.cpu import use_onednn_products
from dalnet.modeling.precision import unit_vectors

from .embedding_files import read_class_embeddings
from .prompts import embed_names
from .towers import load_clip
from .weights import find_weights

logger = logging.getLogger(__name__)

_SAME = 1e-5  # cosines closer to 1 are those of one text, to rounding


def build_text_embeddings(cfg: CfgNode) -> tuple[Tensor, Tensor]:
    """Return the embeddings of the classes and of the background.

    Args:
        cfg: whose ``MODEL.CLIP`` says where they come from, and whose ``MODEL.PROMPT_NAMES`` (C
            words) and ``MODEL.CLASS_NAMES`` (C + 1 names, background first) name the classes. The
            background is the mean of the words of ``MODEL.CLIP.BACKGROUND``.

    Returns:
        t_fg ``[C, EMBED_DIM]`` and t_bg ``[1, EMBED_DIM]``, float32 on the CPU, rows of length
        one, centered (:func:`center`) if ``MODEL.CLIP.CENTER``; zeros where ``MODEL.CLIP.SOURCE``
        is "checkpoint", to be filled by the loaded checkpoint.

    Raises:
        UsageError: weights that are missing, unreadable, without one of the classes or of another
            width, a template without "{}", two classes with the same text, or more classes than
            ``EMBED_DIM`` has room for codes.
        ValueError: an unknown source.
    """
    # Before the first product, so that the first model of a process has the texts of all others.
    use_onednn_products()
    clip = cfg.MODEL.CLIP
    background = background_words(clip.BACKGROUND)
    words = [*cfg.MODEL.PROMPT_NAMES, *background]
    if clip.SOURCE == "checkpoint":
        embeddings = torch.zeros(len(words), clip.EMBED_DIM)
    elif clip.SOURCE == "untrained":
        tower = untrained_text_tower(clip.EMBED_DIM, clip.SEED)
        embeddings = embed_names(words, [clip.TEMPLATE], SimpleTokenizer(), tower)
    elif clip.SOURCE == "codes":
        embeddings = class_codes(len(words), clip.EMBED_DIM, clip.SEED)
    elif clip.SOURCE == "embeddings":
        foreground = zip(cfg.MODEL.CLASS_NAMES[1:], cfg.MODEL.PROMPT_NAMES, strict=True)
        wanted = [*foreground, *((word,) for word in background)]
        embeddings = read_class_embeddings(clip.WEIGHTS, wanted)
    elif clip.SOURCE == "tower":
        embeddings = _cached_embeddings(clip, words)
    else:
        raise ValueError(f"MODEL.CLIP.SOURCE is {clip.SOURCE!r}")
    if embeddings.shape[1] != clip.EMBED_DIM:
        raise UsageError(
            f"it is {clip.EMBED_DIM}, but the texts of {clip.NAME} ({clip.WEIGHTS}) have the width "
            f"{embeddings.shape[1]}",
            where="MODEL.CLIP.EMBED_DIM",
            hint="set it to that",
        )
    if clip.SOURCE != "checkpoint":
        _refuse_equal_rows(embeddings, [*cfg.MODEL.CLASS_NAMES[1:], *background])
    fg, bg = embeddings.split([len(words) - len(background), len(background)])
    if len(background) > 1:
        bg = unit_vectors(bg.mean(dim=0, keepdim=True))  # [B, d] -> [1, d]
    if clip.CENTER:
        fg, bg = center(torch.cat([fg, bg])).split([len(fg), 1])
    return fg, bg


def _refuse_equal_rows(embeddings: Tensor, names: Sequence[str]) -> None:
    """Refuse text embeddings ``[K, d]`` of which two point in the same direction."""
    rows = unit_vectors(embeddings)
    cosines = (rows @ rows.T).fill_diagonal_(0.0)
    if not len(rows) or cosines.amax() < 1 - _SAME:
        return
    first, second = (int(i) for i in (cosines == cosines.amax()).nonzero()[0])
    raise UsageError(
        f"{names[first]!r} and {names[second]!r} have the same text, which could not tell them "
        "apart",
        where="MODEL.PROMPT_NAMES",
        hint="give each class a word of its own",
    )


def background_words(value: str) -> list[str]:
    """Return the words of ``MODEL.CLIP.BACKGROUND``, which commas separate.

    Raises:
        UsageError: an empty word, or one twice.
    """
    words = [word.strip() for word in value.split(",")]
    if not all(words) or len({*words}) < len(words):
        raise UsageError(
            f"{value!r} has an empty word or one twice",
            where="MODEL.CLIP.BACKGROUND",
            hint="write it as in 'sky, grass, wall'",
        )
    return words


def center(embeddings: Tensor) -> Tensor:
    """Return ``[K, d]`` embeddings without their mean row, each row again of length one.

    Embeddings of sentences of one template are nearly parallel. What is left without their mean
    tells the classes and the background apart. A row that equals the mean becomes zero.
    """
    return unit_vectors(embeddings - embeddings.mean(dim=0))


def class_codes(count: int, width: int, seed: int) -> Tensor:
    """Return ``[count, width]`` random orthonormal rows, the same for the same seed.

    With them an experiment shows what alignment does without any language. The global random
    state does not change.

    Raises:
        UsageError: more rows than there are dimensions.
    """
    if count > width:
        raise UsageError(
            f"it is {width}, but MODEL.CLIP.SOURCE 'codes' needs a dimension for each of the "
            f"{count} classes, background included",
            where="MODEL.CLIP.EMBED_DIM",
            hint="raise it",
        )
    generator = torch.Generator().manual_seed(seed)
    return nn.init.orthogonal_(torch.empty(count, width), generator=generator)


def untrained_text_tower(embed_dim: int, seed: int) -> TextTransformer:
    """Return a small text tower with random weights, the same for the same seed.

    Its embeddings are fixed codes without meaning. The global random state does not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA as well
        tower = TextTransformer(width=128, heads=2, layers=2, output_dim=embed_dim)
    return tower.eval().requires_grad_(False)


def _cached_embeddings(clip: CfgNode, words: Sequence[str]) -> Tensor:
    weights = find_weights(clip.NAME, clip.WEIGHTS)
    # Part of the key, because with OpenAI's weights the tower has another activation.
    openai = clip.WEIGHTS == "openai"
    identity = [clip.PROVIDER, clip.NAME, openai, sha256(weights), clip.TEMPLATE, list(words)]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    folder = Path(clip.CACHE_DIR).expanduser() if clip.CACHE_DIR else cache_folder()
    file = folder / f"text-{key}.safetensors"
    embeddings = _read_cache(file, len(words))
    if embeddings is None:
        towers = load_clip(clip.NAME, clip.WEIGHTS, clip.PROVIDER)
        embeddings = embed_names(words, [clip.TEMPLATE], towers.tokenize, towers.encode_text)
        _write_cache(file, embeddings)
    return embeddings


def _read_cache(file: Path, rows: int) -> Tensor | None:
    if not os.path.isfile(file):  # False, not an error, also for a folder that may not be read
        return None
    try:
        embeddings = load_file(file)["embeddings"]
        if embeddings.ndim != 2 or len(embeddings) != rows or not embeddings.isfinite().all():
            raise ValueError(f"holds {tuple(embeddings.shape)}")
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        logger.warning("Cached text embeddings %s are unusable (%s): computed anew.", file, error)
        return None
    logger.info("Text embeddings read from %s.", file)
    return embeddings


def _write_cache(file: Path, embeddings: Tensor) -> None:
    # Several processes may write the same file; each replaces it as a whole, with the same content.
    try:
        with atomic_write(file) as unfinished:
            save_file({"embeddings": embeddings}, unfinished)
    except (SafetensorError, UsageError) as error:
        logger.warning("Text embeddings cannot be cached in %s (%s).", file.parent, error)
    else:
        logger.info("Text embeddings kept in %s.", file)
