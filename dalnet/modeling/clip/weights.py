# SPDX-License-Identifier: Apache-2.0
"""CLIP checkpoints: found or downloaded, and read without running anything they contain."""

import logging
import os
from pathlib import Path
from typing import Any

import open_clip
import torch
from iopath.common.file_io import file_lock
from open_clip.pretrained import download_pretrained_from_hf

from dalnet.errors import UsageError
from dalnet.io import sha256
from dalnet.modeling.weight_files import local_file, read_state

logger = logging.getLogger(__name__)

KEY = "MODEL.CLIP.WEIGHTS"
CLIP_CACHE = os.path.expanduser("~/.cache/clip")  # where OpenAI's and OpenCLIP's loaders look


def find_weights(name: str, weights: str) -> Path:
    """Return the local file of a CLIP checkpoint.

    Args:
        name: CLIP model, "ViT-B-16" (OpenCLIP's spelling) or "ViT-B/16" (OpenAI's).
        weights: "openai" (downloaded once) or a path; ``dalnet://`` is understood.

    Raises:
        UsageError: no such model, no such file, or no connection.
    """
    if weights != "openai":
        return local_file(weights, KEY, (".safetensors", ".pt", ".pth"))
    published = open_clip.get_pretrained_cfg(name.replace("/", "-"), "openai")
    if not published:
        raise UsageError(
            f"OpenAI published no CLIP named {name!r}",
            where="MODEL.CLIP.NAME",
            hint=f"choose one of {', '.join(open_clip.list_openai_models())}",
        )
    return _download(published["url"], published.get("hf_hub", "").strip("/"))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state dict of a CLIP checkpoint.

    Args:
        path: ``.safetensors``, or ``.pt``/``.pth`` with a state dict (read with
            ``weights_only=True``) or one of OpenAI's TorchScript archives, told by their hash.

    Raises:
        UsageError: damaged, or it holds objects other than tensors.
    """
    # A TorchScript archive holds code, some of which runs while it is loaded: only those that
    # OpenAI published are opened as such.
    if path.suffix != ".safetensors" and sha256(path) in _openai_archives():
        return torch.jit.load(str(path), map_location="cpu").state_dict()
    return read_state(path, KEY)


def _download(url: str, hub: str) -> Path:
    # OpenAI's own server first, because it fails at once and its files carry a checksum.
    try:
        # One process per GPU gets here, and OpenCLIP downloads in place: one at a time.
        with file_lock(os.path.join(CLIP_CACHE, os.path.basename(url))):
            return Path(open_clip.download_pretrained_from_url(url, CLIP_CACHE))
    except (OSError, RuntimeError) as error:
        logger.warning("%s cannot be fetched (%s); trying the Hugging Face hub.", url, error)
    try:
        return Path(download_pretrained_from_hf(hub, "open_clip_model.safetensors"))
    except (OSError, ValueError) as error:  # ValueError: the hub has no such repository name
        raise UsageError(
            f"CLIP's weights {os.path.basename(url)} are neither here nor downloadable",
            where=KEY,
            hint=f"fetch {url} on another machine and put it into {CLIP_CACHE}, or set the key to "
            "its path",
        ) from error


def _openai_archives() -> set[str]:
    """Return the SHA-256 of OpenAI's published files, which their addresses contain."""
    published = (open_clip.get_pretrained_cfg(n, "openai") for n in open_clip.list_openai_models())
    return {cfg["url"].split("/")[-2] for cfg in published}
