# SPDX-License-Identifier: Apache-2.0
"""CLIP, frozen: its two towers, class prompts, and the class embeddings of a config."""

from .embeddings import build_text_embeddings
from .prompts import embed_names
from .towers import FrozenCLIP, load_clip

__all__ = ["FrozenCLIP", "build_text_embeddings", "embed_names", "load_clip"]
