# SPDX-License-Identifier: Apache-2.0
"""Class prompts and their embeddings by CLIP's frozen text tower (paper, section 3.2).

The embeddings never change in training: they are computed once, kept on disk under a key that
names model, weights, prompts and classes, and handed out as plain tensors; no tower stays in
memory. The towers themselves are in :mod:`dalnet.modeling.text_tower`.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from open_clip import SimpleTokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from dalnet.errors import UsageError
from dalnet.files import complete_or_absent, sha256
from dalnet.modeling.precision import unit_vectors
from dalnet.modeling.text_tower import find_weights, load_text_tower, untrained_text_tower

logger = logging.getLogger(__name__)

_BATCH = 16  # prompts encoded at a time: a step of the progress bar


def build_text_embeddings(
    cfg: CfgNode, prompt_names: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed ``TEMPLATE.format(name)`` for every class, and ``TEMPLATE.format(BACKGROUND)``.

    Args:
        cfg: whose ``MODEL.TEXT`` says which CLIP, which weights and which prompts.
        prompt_names: the C words for the foreground classes.

    Returns:
        t_fg [C, EMBED_DIM] and t_bg [1, EMBED_DIM], float32 on the CPU, rows of length one, centred
        (:func:`center`) if ``MODEL.TEXT.CENTER``; zeros where ``MODEL.TEXT.WEIGHTS`` is
        "checkpoint", to be filled by the loaded checkpoint.

    Raises:
        UsageError: weights missing, unreadable or of another width, a template without "{}", or
            more prompts than ``EMBED_DIM`` has room for codes.
    """
    text = cfg.MODEL.TEXT
    prompts = _prompts(text.TEMPLATE, [*prompt_names, text.BACKGROUND])
    if text.WEIGHTS == "checkpoint":
        embeddings = torch.zeros(len(prompts), text.EMBED_DIM)
    elif text.WEIGHTS == "untrained":
        embeddings = encode_prompts(untrained_text_tower(text.EMBED_DIM, text.SEED), prompts)
    elif text.WEIGHTS == "codes":
        embeddings = class_codes(len(prompts), text.EMBED_DIM, text.SEED)
    else:
        embeddings = _cached_embeddings(text, prompts, list(prompt_names))
    if embeddings.shape[1] != text.EMBED_DIM:
        raise UsageError(
            f"MODEL.TEXT.EMBED_DIM is {text.EMBED_DIM}, but the text tower of {text.NAME} "
            f"({text.WEIGHTS}) has the width {embeddings.shape[1]}; set EMBED_DIM to that."
        )
    if text.CENTER:
        embeddings = center(embeddings)
    return embeddings[:-1], embeddings[-1:]


def center(embeddings: torch.Tensor) -> torch.Tensor:
    """Subtract the mean over the rows and bring each row back to length one.

    Sentences of one template share most of their direction. What is left of them is what tells
    one class, or the background, from the others.

    Args:
        embeddings: [K, d_t], rows of length one.

    Returns:
        [K, d_t]; a row that equals the mean is zero.
    """
    return unit_vectors(embeddings - embeddings.mean(dim=0))


def class_codes(count: int, width: int, seed: int) -> torch.Tensor:
    """Directions at right angles to each other, drawn once: texts that say nothing.

    What alignment does with them owes nothing to language.

    Args:
        count: classes and background, at most ``width``.
        width: d_t.
        seed: the same for the same directions; the global random state is left as it was.

    Returns:
        [count, width], float32, orthonormal rows.

    Raises:
        UsageError: more rows than there are dimensions.
    """
    if count > width:
        raise UsageError(
            f"MODEL.TEXT.WEIGHTS 'codes' needs a dimension for each of the {count} classes "
            f"(background included), but MODEL.TEXT.EMBED_DIM is {width}; raise it."
        )
    generator = torch.Generator().manual_seed(seed)
    return nn.init.orthogonal_(torch.empty(count, width), generator=generator)


@torch.no_grad()
def encode_prompts(tower: nn.Module, prompts: Sequence[str]) -> torch.Tensor:
    """Tokenise and embed ``prompts``: [len(prompts), width], float32, rows of length one.

    Args:
        tower: OpenCLIP's ``TextTransformer``; its context length truncates longer prompts.
        prompts: sentences in any case (CLIP's tokeniser lowers them).
    """
    tokens = SimpleTokenizer(context_length=tower.context_length)(list(prompts))
    batches = tqdm(tokens.split(_BATCH), desc="Embedding the class prompts", leave=False)
    return F.normalize(torch.cat([tower(batch) for batch in batches]).float(), dim=1)


def _prompts(template: str, names: Sequence[str]) -> list[str]:
    try:
        prompts = [template.format(name) for name in names]
    except (IndexError, KeyError, ValueError):
        prompts = []
    if not all(name in prompt for name, prompt in zip(names, prompts, strict=False)) or not prompts:
        raise UsageError(
            f"MODEL.TEXT.TEMPLATE is {template!r}; it needs one {{}} for the class name, as in "
            "'a photo of {}'."
        )
    return prompts


def _cached_embeddings(text: CfgNode, prompts: list[str], names: list[str]) -> torch.Tensor:
    weights = find_weights(text.NAME, text.WEIGHTS)
    identity = [text.NAME, text.WEIGHTS == "openai", sha256(weights), prompts, names]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    file = _cache_dir(text.CACHE_DIR) / f"text-{key}.safetensors"
    embeddings = _read_cache(file, len(prompts))
    if embeddings is None:
        tower = load_text_tower(weights, text.NAME, openai=text.WEIGHTS == "openai")
        embeddings = encode_prompts(tower, prompts)
        _write_cache(file, embeddings)
    return embeddings


def _cache_dir(configured: str) -> Path:
    return Path(configured or os.environ.get("DALNET_CACHE") or "~/.cache/dalnet").expanduser()


def _read_cache(file: Path, rows: int) -> torch.Tensor | None:
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


def _write_cache(file: Path, embeddings: torch.Tensor) -> None:
    # Several processes may write the same key: the last one wins.
    try:
        with complete_or_absent(file) as unfinished:
            save_file({"embeddings": embeddings}, unfinished)
    except (SafetensorError, UsageError) as error:
        logger.warning("Text embeddings cannot be cached in %s (%s).", file.parent, error)
    else:
        logger.info("Text embeddings kept in %s.", file)
