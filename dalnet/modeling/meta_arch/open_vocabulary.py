# SPDX-License-Identifier: Apache-2.0
"""What systems share that segment whatever classes they are asked for."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from dalnet.errors import UsageError
from dalnet.modeling.clip import FrozenCLIP, embed_names
from dalnet.modeling.clip.vocabulary import check_vocabulary

from .segmentor import Batch, WeakSegmentor

Texts = TypeVar("Texts")  # what a system makes of the names of classes


class OpenVocabularySegmentor(WeakSegmentor[Batch], Generic[Batch, Texts]):
    """A system that compares pixels with texts in the joint space of a CLIP.

    The source ``sem_seg`` has scores in 0..1: a constant of the background, and each class's.

    Attributes:
        clip: frozen, and not part of checkpoints.
        name_tokens: room that a name has in a text, in tokens.
    """

    clip: FrozenCLIP
    name_tokens: int
    _texts: Texts | None = None  # of the classes, once they are needed

    @abstractmethod
    def similarities(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return cosines ``[N, K, h, w]`` of normalized images ``[N, 3, H, W]`` and texts.

        Args:
            images: of any size.
            texts: ``[K, d]``, of length one.
        """

    @abstractmethod
    def embed_classes(self, names: Sequence[str]) -> Texts:
        """Return what the source ``sem_seg`` needs to know of the classes ``names``."""

    def embed_texts(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Return CLIP's embeddings of names ``[K, d]``, of length one, means over templates.

        Args:
            names: may be any words, those for the background too.
            templates: sentences with one "{}".
        """
        return embed_names(names, templates, self.clip.tokenize, self.clip.encode_text)

    def set_vocabulary(self, names: Sequence[str]) -> None:
        """Predict the classes ``names`` from now on.

        Args:
            names: C different ones, without the background, which is class 0 by itself.

        Raises:
            UsageError: a name that is empty, occurs twice or is too long for CLIP.
        """
        check_vocabulary(names, self.name_tokens)
        self.class_names = ("background", *names)
        self._texts = None

    @torch.no_grad()
    def class_texts(self) -> Texts:
        """Return :meth:`embed_classes` of the vocabulary, computed once until something changes."""
        if self._texts is None:
            if not self.class_names[1:]:
                raise UsageError("there is no vocabulary", "MODEL.CLASS_NAMES", "name the classes")
            self._texts = self.embed_classes(self.class_names[1:])
        return self._texts

    def train(self, mode: bool = True) -> "OpenVocabularySegmentor[Batch, Texts]":
        """Switch between training and evaluation; the classes are embedded anew."""
        self._texts = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # Of .to(), .cuda(), .half() and their like.
        self._texts = None
        return super()._apply(fn, recurse)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights; the classes are embedded anew."""
        self._texts = None
        return super().load_state_dict(state_dict, *args, **kwargs)
