# SPDX-License-Identifier: Apache-2.0
"""Frozen CLIP with the texts that images are compared with."""

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dalnet.errors import UsageError
from dalnet.modeling.clip import FrozenCLIP, embed_names, load_clip
from dalnet.modeling.precision import unit_vectors

from .texts import Texts, read_texts


class CLIPMatching(nn.Module):
    """CLIP's image tower beside the embeddings of all texts, which are computed once.

    Attributes:
        class_texts: ``[C, d]``, of length one, as are the others.
        phrase_texts: ``[M, d]``, of the phrases for backgrounds.
        related: boolean ``[C, M]``, whether a phrase belongs to a class (camera-ready variant).
        class_weights: ``[C]``, of a class's pairs in the matching losses.
    """

    class_texts: Tensor
    phrase_texts: Tensor
    related: Tensor
    class_weights: Tensor

    def __init__(
        self,
        clip: FrozenCLIP,
        template: str,
        texts: Texts,
        class_names: tuple[str, ...],
        chunk: int,
    ) -> None:
        """
        Args:
            clip: both towers.
            template: sentence with one "{}" for a word.
            texts: of the classes and of backgrounds.
            class_names: C names, without background.
            chunk: images that go through CLIP at a time; 0 for no limit.

        Raises:
            UsageError: CLIP has no image tower.
        """
        super().__init__()
        self.clip = clip
        self.image_size = clip.image_size
        self.chunk = chunk
        # Those of classes first: a phrase that several classes share stands there several times.
        of_classes = [
            (name, phrase) for name in class_names for phrase in texts.related.get(name, ())
        ]
        phrases = [phrase for _, phrase in of_classes] or texts.background
        words = [texts.words[name] for name in class_names]
        rows = embed_names([*words, *phrases], [template], clip.tokenize, clip.encode_text)
        related = [[name == owner for owner, _ in of_classes] for name in class_names]
        weights = [float(texts.weights.get(name, 1)) for name in class_names]
        self.register_buffer("class_texts", rows[: len(words)])
        self.register_buffer("phrase_texts", rows[len(words) :])
        self.register_buffer("related", torch.tensor(related, dtype=torch.bool))
        self.register_buffer("class_weights", torch.tensor(weights))

    def embed(self, images: Tensor) -> Tensor:
        """Return the features ``[K, d]``, float32, of length one, of images ``[K, 3, S, S]``."""
        if not len(images):
            # CLIP takes no empty batch; this keeps the graph, as several processes need it.
            return images.flatten(1)[:, : self.class_texts.shape[1]]
        parts = images.split(self.chunk or len(images))
        if len(parts) == 1 or not torch.is_grad_enabled():
            features = [self.clip.encode_image(part) for part in parts]
        else:
            encode = self.clip.encode_image
            features = [checkpoint(encode, part, use_reentrant=False) for part in parts]
        return unit_vectors(torch.cat(features).float())


def build_matching(cfg: CfgNode) -> CLIPMatching:
    """Return what ``MODEL.CLIP`` and ``MODEL.CLIMS`` describe, on the CPU.

    Raises:
        UsageError: CLIP or the texts are missing or unusable.
    """
    clip, clims = cfg.MODEL.CLIP, cfg.MODEL.CLIMS
    class_names = tuple(cfg.MODEL.CLASS_NAMES[1:])
    texts = read_texts(clims.TEXTS, class_names)
    if clims.VARIANT == "improved":
        texts = Texts(texts.words, texts.background)
    elif not any(texts.related.get(name) for name in class_names):
        raise UsageError(
            "no class has phrases under 'related', which the camera-ready variant suppresses",
            where="MODEL.CLIMS.TEXTS",
            hint="add some, or set MODEL.CLIMS.VARIANT to 'improved'",
        )
    if clims.CBS_WEIGHT and not (texts.background or texts.related):
        raise UsageError(
            "there are no phrases for backgrounds",
            where="MODEL.CLIMS.TEXTS",
            hint="list some under 'background', or set MODEL.CLIMS.CBS_WEIGHT to 0",
        )
    towers = load_clip(clip.NAME, clip.WEIGHTS, clip.PROVIDER)
    return CLIPMatching(towers, clip.TEMPLATE, texts, class_names, clims.CLIP_CHUNK)
