# SPDX-License-Identifier: Apache-2.0
"""Learning from collages of pictures with labels: a vision transformer names what each part shows.

Parts are judged by their own tokens, which keeps the tokens local.
"""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

# Those of configs/toy_dalnet.yaml, which the encoder is trained for.
_PIXEL_MEAN = _PIXEL_STD = 127.5


class AttributeClassifier(nn.Module):
    """A ViT with a linear layer on the class token and one on the pooled patch tokens.

    The max-pooled patch tokens of each part name the attributes of its own picture, the class token
    names those of all.

    Attributes:
        vit: the encoder, timm's own model.
        attributes: number of values of each attribute; K is their sum.
    """

    def __init__(self, vit: VisionTransformer, attributes: dict[str, int], parts: int) -> None:
        """
        Args:
            vit: encoder without classifier, with a class token.
            attributes: number of values of each attribute by name, in the order of the labels.
            parts: pictures of a collage, Q.
        """
        super().__init__()
        self.vit, self.attributes, self.parts = vit, attributes, parts
        count = sum(attributes.values())
        self.cls_head = nn.Linear(vit.embed_dim, count)
        self.patch_head = nn.Linear(vit.embed_dim, count)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of naming the attributes, see :func:`attribute_losses`.

        Args:
            batch: ``images`` and ``owners`` as :meth:`logits` takes them, and ``labels``, long
                [N, Q, number of attributes].
        """
        of_collage, of_parts = self.logits(batch["images"], batch["owners"])
        return attribute_losses(of_collage, of_parts, batch["labels"], self.attributes)

    def logits(self, images: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of all attributes side by side.

        Args:
            images: uint8 [N, 3, S, S], RGB.
            owners: number 0..Q-1 of the part that each patch belongs to, long [N, h, w].

        Returns:
            Those of the whole collage [N, K], and those of its parts [N, Q, K].
        """
        tokens = self.vit.forward_features((images.float() - _PIXEL_MEAN) / _PIXEL_STD)
        patches = tokens[:, None, self.vit.num_prefix_tokens :]
        numbers = torch.arange(self.parts, device=owners.device)[:, None]
        others = owners.flatten(1)[:, None] != numbers
        pooled = patches.masked_fill(others[..., None], -torch.inf).amax(2)
        return self.cls_head(tokens[:, 0]), self.patch_head(pooled)


def attribute_losses(
    of_collage: Tensor, of_parts: Tensor, labels: Tensor, attributes: dict[str, int]
) -> dict[str, Tensor]:
    """Presence of each value in the collage, and cross-entropy per attribute of each picture.

    Args:
        of_collage: logits [N, K].
        of_parts: logits [N, Q, K].
        labels: values of each picture, long [N, Q, number of attributes].
        attributes: number of values of each attribute, K in all.

    Returns:
        Scalars: ``loss_collage``, which weighs as much as there are attributes, and one
        ``loss_<attribute>`` each.
    """
    sizes = list(attributes.values())
    present = torch.cat([F.one_hot(labels[..., i], n).amax(1) for i, n in enumerate(sizes)], dim=1)
    of_all = F.binary_cross_entropy_with_logits(of_collage, present.float())
    losses = {"loss_collage": len(sizes) * of_all}
    parts = zip(attributes, of_parts.split(sizes, dim=2), labels.unbind(2), strict=True)
    for name, logits, values in parts:
        losses[f"loss_{name}"] = F.cross_entropy(logits.flatten(0, 1), values.flatten())
    return losses
