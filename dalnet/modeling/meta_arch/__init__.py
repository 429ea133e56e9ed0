# SPDX-License-Identifier: Apache-2.0
"""The meta-architectures: what all systems share, and DALNet."""

from .dalnet import DALNet
from .segmentor import Source, WeakSegmentor

__all__ = ["DALNet", "Source", "WeakSegmentor"]
