# SPDX-License-Identifier: Apache-2.0
"""The network: OpenAI's CLIP in small, its loss, and its patch features."""

from collections.abc import Sequence

import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from dalnet.data.datasets.toy import SIZE
from dalnet.modeling.clip.passes import attend, run_block

from .vocabulary import CONTEXT, num_rows, tokenize

WIDTH = 128  # of both towers and of the common space
PATCH = 8  # pixels
GRID = SIZE // PATCH  # patches a side
_IMAGE_LAYERS, _TEXT_LAYERS = 6, 3
_CHUNK = 64  # images encoded at a time, so that what a layer computes fits a processor's cache
_MAX_LOGIT_SCALE = 100.0  # as CLIP's


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, fits: Tensor, scale: Tensor
) -> Tensor:
    """Return CLIP's loss for captions that may fit several images of the batch.

    The mean, over all captions that fit an image, of the negative log of their probability among
    all captions, averaged over images; likewise with images and captions exchanged; and the mean of
    both (Yang et al., UniCL, CVPR 2022, Eq. 3 to 5). Where each caption fits one image, CLIP's own.

    Args:
        image_features: ``[N, d]``, of length one.
        text_features: ``[M, d]``, of length one.
        fits: whether caption i fits image j, bool ``[M, N]``, with a True in each row and column.
        scale: factor of the cosines.
    """
    logits = scale * text_features @ image_features.T  # [M, N]
    targets = fits.to(logits.dtype)
    by_text = F.cross_entropy(logits, targets / targets.sum(1, keepdim=True))
    by_image = F.cross_entropy(logits.T, targets.T / targets.T.sum(1, keepdim=True))
    return (by_text + by_image) / 2


class ToyCLIP(nn.Module):
    """Both towers as OpenCLIP builds them, with the rows of the token table that captions use.

    Attributes:
        towers: ``open_clip.CLIP`` with QuickGELU, whose ``token_embedding`` has the rows of
            :mod:`dalnet_toyclip.vocabulary`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.towers = open_clip.CLIP(
            embed_dim=WIDTH,
            vision_cfg={
                "image_size": SIZE,
                "patch_size": PATCH,
                "width": WIDTH,
                "layers": _IMAGE_LAYERS,
            },
            text_cfg={
                "context_length": CONTEXT,
                "vocab_size": num_rows(),
                "width": WIDTH,
                "heads": WIDTH // 64,
                "layers": _TEXT_LAYERS,
            },
            quick_gelu=True,
        )
        self.register_buffer("mean", _channels(OPENAI_DATASET_MEAN), persistent=False)
        self.register_buffer("std", _channels(OPENAI_DATASET_STD), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss of a batch of :func:`dalnet_toyclip.batches.training_batches`.

        Whole images are embedded by the class token, tiles of collages by the mean of their
        patches. Since a tile is judged by its own patches, these stay local.
        """
        # Half the time of float32 where the processor has instructions for it.
        with torch.autocast("cpu", torch.bfloat16):
            whole = self._encode_seen(batch["images"], batch["patches"])
            tiles = self._encode_tiles(batch["collages"], batch["tiles"])
            texts = self.encode_tokens(batch["tokens"])
        images = F.normalize(torch.cat([whole, tiles]).float(), dim=1)
        scale = self.towers.logit_scale.exp().clamp(max=_MAX_LOGIT_SCALE)
        return {"loss_contrast": contrastive_loss(images, texts, batch["fits"], scale)}

    def _encode_seen(self, images: Tensor, seen: Tensor) -> Tensor:
        """Return the class token's embedding ``[N, 128]``, any length, if it sees some patches."""
        features = []
        for chunk, patches in zip(images.split(_CHUNK), seen.split(_CHUNK), strict=True):
            x, last = self._all_but_last_block(chunk, patches)
            first = x[:, :1] + attend(last, x)[:, :1]
            features.append(self._project(first + last.mlp(last.ln_2(first)))[:, 0])
        return torch.cat(features)

    def _encode_tiles(self, collages: Tensor, tiles: Tensor) -> Tensor:
        """Return the mean embedding of the patches of each tile ``[4 Q, 128]``, any length."""
        patches = self._encode_patches(collages)  # [Q, P, 128]
        belongs = F.one_hot(tiles, 4).to(patches.dtype)  # [Q, P, 4]
        return torch.einsum("qpd,qpt->qtd", patches, belongs / belongs.sum(1, True)).flatten(0, 1)

    def _encode_patches(self, images: Tensor) -> Tensor:
        x, last = self._all_but_last_block(images)
        return self._project(run_block(last, x[:, 1:], "self"))  # [N, P, 128]

    def _all_but_last_block(
        self, images: Tensor, seen: Tensor | None = None
    ) -> tuple[Tensor, ResidualAttentionBlock]:
        """Return tokens ``[N, 1 + P, D]`` and the block that comes next; P may be fewer patches."""
        visual = self.towers.visual
        *blocks, last = visual.transformer.resblocks
        positions = visual.positional_embedding
        x = visual.conv1(self.normalize(images)).flatten(2).mT + positions[1:]
        if seen is not None:
            x = x.gather(1, seen[..., None].expand(-1, -1, x.shape[2]))
        first = visual.class_embedding + positions[0]
        x = visual.ln_pre(torch.cat([first.expand(len(x), 1, -1), x], dim=1))
        for block in blocks:
            x = block(x)
        return x, last

    def _project(self, tokens: Tensor) -> Tensor:
        return self.towers.visual.ln_post(tokens) @ self.towers.visual.proj

    def encode_images(self, images: Tensor) -> Tensor:
        """Embed uint8 images ``[N, 3, 96, 96]``: float32 ``[N, 128]``, rows of length one."""
        chunks = self.normalize(images).split(_CHUNK)
        return F.normalize(torch.cat([self.towers.visual(chunk) for chunk in chunks]), dim=1)

    def encode_patches(self, images: Tensor) -> Tensor:
        """Embed each patch of uint8 ``[N, 3, 96, 96]``: ``[N, 128, 12, 12]``, of length one.

        In the last block a patch attends to itself alone (Zhou et al., MaskCLIP, ECCV 2022); skip
        connection and MLP of the block are kept.
        """
        return F.normalize(self._encode_patches(images), dim=2).mT.unflatten(2, (GRID, GRID))

    def encode_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Embed sentences: float32 ``[N, 128]``, rows of length one."""
        return self.encode_tokens(tokenize(sentences))

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Embed rows of the token table ``[N, L]``, L <= 77: ``[N, 128]``, rows of length one."""
        towers, length = self.towers, tokens.shape[1]
        x = towers.token_embedding(tokens) + towers.positional_embedding[:length]
        x = towers.transformer(x, attn_mask=towers.attn_mask[:length, :length])
        ends = tokens.argmax(dim=1)  # the end of the text has the highest row
        x = towers.ln_final(x[torch.arange(len(x)), ends]) @ towers.text_projection
        return F.normalize(x.float(), dim=1)

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 images with CLIP's mean and standard deviation, float32."""
        return (images / 255 - self.mean) / self.std


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]
