# SPDX-License-Identifier: Apache-2.0
"""A vision transformer that names what each tile of a collage shows."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .cnn_tokens import CNNTokens

# Those of configs/toy_dalnet.yaml, which the encoder is trained for.
_PIXEL_MEAN = _PIXEL_STD = 127.5


class AttributeClassifier(nn.Module):
    """An encoder with a linear layer on the first token and one on the pooled patch tokens.

    The max-pooled patch tokens of each tile name the attributes of that tile, the class token names
    those of all. Since a tile is judged by its own tokens, these stay local.

    Attributes:
        vit: the encoder, timm's own ViT or a CNN that gives tokens as it does.
        attributes: number of values of each attribute by name; K is their sum.
    """

    def __init__(
        self, vit: VisionTransformer | CNNTokens, attributes: dict[str, int], num_tiles: int
    ) -> None:
        """
        Args:
            vit: encoder without classifier, with a class token.
            attributes: number of values of each attribute by name, in the order of the labels.
            num_tiles: tiles of a collage, Q.
        """
        super().__init__()
        self.vit, self.attributes, self.num_tiles = vit, attributes, num_tiles
        count = sum(attributes.values())
        self.cls_head = nn.Linear(vit.embed_dim, count)
        self.patch_head = nn.Linear(vit.embed_dim, count)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of the collage's values and of each attribute of its tiles.

        Args:
            batch: ``images`` and ``tile_map`` as :meth:`logits` takes them, and ``labels``, the
                value of each attribute of each tile, long [N, Q, number of attributes].

        Returns:
            Scalars: ``loss_collage``, which weighs as much as there are attributes, and one
            ``loss_<attribute>`` each.
        """
        collage_logits, tile_logits = self.logits(batch["images"], batch["tile_map"])
        labels, sizes = batch["labels"].unbind(2), list(self.attributes.values())
        pairs = zip(labels, sizes, strict=True)
        occurs = torch.cat([F.one_hot(x, size).amax(1) for x, size in pairs], dim=1)
        collage_loss = F.binary_cross_entropy_with_logits(collage_logits, occurs.float())
        losses = {"loss_collage": len(sizes) * collage_loss}
        parts = zip(self.attributes, tile_logits.split(sizes, dim=2), labels, strict=True)
        for name, logits, values in parts:
            losses[f"loss_{name}"] = F.cross_entropy(logits.flatten(0, 1), values.flatten())
        return losses

    def logits(self, images: Tensor, tile_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of all values of all attributes side by side.

        Args:
            images: uint8 [N, 3, S, S], RGB.
            tile_map: number 0..Q-1 of the tile that each patch belongs to, long [N, h, w].

        Returns:
            Those of the whole collage [N, K], and those of its tiles [N, Q, K].
        """
        tokens = self.vit.forward_features((images.float() - _PIXEL_MEAN) / _PIXEL_STD)
        patches = tokens[:, None, self.vit.num_prefix_tokens :]  # [N, 1, P, D]
        tiles = torch.arange(self.num_tiles, device=tile_map.device)
        outside = tile_map.flatten(1)[:, None] != tiles[:, None]  # [N, Q, P]
        pooled = patches.masked_fill(outside[..., None], -torch.inf).amax(2)  # [N, Q, D]
        return self.cls_head(tokens[:, 0]), self.patch_head(pooled)
