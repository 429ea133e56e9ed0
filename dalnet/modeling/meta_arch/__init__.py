# SPDX-License-Identifier: Apache-2.0
"""The meta-architectures: what all systems share, and DALNet."""

from .dalnet import DALNet
from .open_vocabulary import OpenVocabularySegmentor
from .segmentor import Source, WeakSegmentor

__all__ = ["DALNet", "OpenVocabularySegmentor", "Source", "WeakSegmentor"]
