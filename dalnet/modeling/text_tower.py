# SPDX-License-Identifier: Apache-2.0
"""CLIP's text tower, built by OpenCLIP from a weights file alone; the image tower is left out."""

import logging
import os
from pathlib import Path
from typing import Any

import open_clip
import torch
from iopath.common.file_io import file_lock
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.transformer import QuickGELU, TextTransformer
from torch import nn

from dalnet.errors import UsageError
from dalnet.files import sha256
from dalnet.modeling.weight_files import local_file, read_state

logger = logging.getLogger(__name__)

_KEY = "MODEL.TEXT.WEIGHTS"
_CLIP_CACHE = os.path.expanduser("~/.cache/clip")  # where OpenAI's and OpenCLIP's loaders look
_HEAD_WIDTH = 64  # every published CLIP text tower; the state dict does not say
# What a CLIP checkpoint holds beside the text tower. The middle three are numbers that only
# OpenAI's TorchScript archives store.
_ARCHIVE_NUMBERS = ("input_resolution", "context_length", "vocab_size")
_NOT_TEXT = ("visual", "logit_scale", "logit_bias", "attn_mask", *_ARCHIVE_NUMBERS)
# Settings of OpenCLIP's model configs that leave the plain tower as OpenAI designed it.
_PLAIN_SETTINGS = {"context_length", "vocab_size", "width", "heads", "layers"}


def find_weights(name: str, weights: str) -> Path:
    """Local file of a CLIP checkpoint.

    Args:
        name: CLIP model, "ViT-B-16" (OpenCLIP's spelling) or "ViT-B/16" (OpenAI's).
        weights: "openai" (downloaded once) or a path; ``dalnet://`` is understood.

    Raises:
        UsageError: no such model, no such file, or no connection.
    """
    if weights == "openai":
        return _openai_weights(_open_clip_name(name))
    return local_file(weights, _KEY, (".safetensors", ".pt", ".pth"))


def load_text_tower(path: Path, name: str, openai: bool = False) -> TextTransformer:
    """The text tower of a CLIP checkpoint: float32, on the CPU, frozen, in eval mode.

    Sizes come from the file. The activation does not, as GELU and QuickGELU have no weights: it is
    QuickGELU for OpenAI's download, for OpenAI's archive (told by the three numbers it stores)
    and where OpenCLIP's config of ``name`` says so ("ViT-B-16-quickgelu"), else GELU.

    Args:
        path: ``.safetensors``, or ``.pt``/``.pth`` with a state dict (read with
            ``weights_only=True``) or one of OpenAI's TorchScript archives, known by their hash;
            OpenAI's and OpenCLIP's keys, with or without ``text.``.
        name: CLIP model, see :func:`find_weights`.
        openai: the file is known to hold OpenAI's weights.

    Raises:
        UsageError: unreadable, no text tower, or one of another design.
    """
    config = open_clip.get_model_config(_open_clip_name(name)) or {}
    special = sorted(set(config.get("text_cfg", {})) - _PLAIN_SETTINGS)
    if special:
        raise UsageError(
            f"The text tower of MODEL.TEXT.NAME {name!r} is not CLIP's own ({', '.join(special)}); "
            "choose one of OpenAI's or LAION's CLIP models."
        )
    state = _read_state(path)
    quick_gelu = openai or config.get("quick_gelu", False) or _ARCHIVE_NUMBERS[0] in state
    part = _text_part(state, path)
    logger.info("CLIP's text tower from %s, with %s.", path, "QuickGELU" if quick_gelu else "GELU")
    if not quick_gelu and _looks_like_openai(part):
        logger.warning(
            "%s holds half-precision numbers, as OpenAI's weights do; if they are OpenAI's, "
            "MODEL.TEXT.NAME must end in -quickgelu for the right activation.",
            path,
        )
    return _build_tower(part, path, quick_gelu)


def untrained_text_tower(embed_dim: int, seed: int) -> TextTransformer:
    """A small random tower, the same for the same seed; its embeddings are codes without meaning.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA as well
        tower = TextTransformer(width=128, heads=2, layers=2, output_dim=embed_dim)
    return tower.eval().requires_grad_(False)


def _open_clip_name(name: str) -> str:
    return name.replace("/", "-")


def _openai_weights(name: str) -> Path:
    """OpenAI's own server first: its failure is immediate and its files carry a checksum."""
    published = open_clip.get_pretrained_cfg(name, "openai")
    if not published:
        raise UsageError(
            f"OpenAI published no CLIP named {name!r} (MODEL.TEXT.NAME); there are "
            f"{', '.join(open_clip.list_openai_models())}."
        )
    url, hub = published["url"], published.get("hf_hub", "").strip("/")
    logger.info("Looking for OpenAI's weights of %s.", name)
    try:
        # One process per GPU gets here, and OpenCLIP downloads in place.
        with file_lock(os.path.join(_CLIP_CACHE, os.path.basename(url))):
            return Path(open_clip.download_pretrained_from_url(url, _CLIP_CACHE))
    except (OSError, RuntimeError) as error:
        logger.warning("%s cannot be fetched (%s); trying the Hugging Face hub.", url, error)
    try:
        return Path(download_pretrained_from_hf(hub, "open_clip_model.safetensors"))
    except (OSError, ValueError) as error:  # ValueError: the hub has no such repository name
        raise UsageError(
            f"CLIP's weights {os.path.basename(url)} are neither here nor downloadable: fetch "
            f"{url} on another machine and put it into {_CLIP_CACHE}, or set {_KEY} to its path."
        ) from error


def _read_state(path: Path) -> dict[str, Any]:
    # A TorchScript archive holds code, some of which runs as it is loaded: OpenAI's alone are.
    if path.suffix != ".safetensors" and sha256(path) in _openai_archives():
        return torch.jit.load(str(path), map_location="cpu").state_dict()
    return read_state(path, _KEY)


def _openai_archives() -> set[str]:
    """SHA-256 of OpenAI's published files, which their addresses contain."""
    published = (open_clip.get_pretrained_cfg(n, "openai") for n in open_clip.list_openai_models())
    return {cfg["url"].split("/")[-2] for cfg in published}


def _text_part(state: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    prefix = "text." if any(key.startswith("text.") for key in state) else ""
    part = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    part = {key: value for key, value in part.items() if key.split(".")[0] not in _NOT_TEXT}
    needed = ("token_embedding.weight", "positional_embedding", "text_projection")
    missing = [key for key in needed if not isinstance(part.get(key), torch.Tensor)]
    if missing:
        raise UsageError(
            f"{path} ({_KEY}) has no CLIP text tower in OpenAI's or OpenCLIP's layout: "
            f"{prefix}{missing[0]} is missing."
        )
    return part


def _looks_like_openai(part: dict[str, torch.Tensor]) -> bool:
    """OpenAI trained in half precision, and converted copies still hold just such numbers."""
    projection = part["text_projection"].float()
    return torch.equal(projection, projection.half().float())


def _build_tower(state: dict[str, torch.Tensor], path: Path, quick_gelu: bool) -> TextTransformer:
    vocab_size, width = state["token_embedding.weight"].shape
    vocabulary = open_clip.SimpleTokenizer().vocab_size
    if vocab_size != vocabulary or width % _HEAD_WIDTH:
        raise UsageError(
            f"{path} ({_KEY}) is not one of CLIP's text towers: it has {vocab_size} "
            f"words of width {width}, where {vocabulary} and a multiple of {_HEAD_WIDTH} are due."
        )
    blocks = {key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")}
    tower = TextTransformer(
        context_length=len(state["positional_embedding"]),
        vocab_size=vocab_size,
        width=width,
        heads=width // _HEAD_WIDTH,
        layers=len(blocks),
        output_dim=state["text_projection"].shape[1],
        act_layer=QuickGELU if quick_gelu else nn.GELU,
    )
    try:
        tower.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{path} ({_KEY}) does not hold a plain CLIP text tower: {reason}"
        ) from error
    return tower.eval().requires_grad_(False)
