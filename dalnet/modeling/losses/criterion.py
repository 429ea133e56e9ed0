# SPDX-License-Identifier: Apache-2.0
"""The weighted sum of losses of Eq. 7 and 8: which terms act, and how much."""

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from .alignment import global_implicit_alignment, local_explicit_alignment
from .patch_contrast import patch_token_contrast
from .segmentation import balanced_cross_entropy, dense_energy


class DALNetCriterion(nn.Module):
    """Computes the weighted losses that DALNet's ``forward`` returns.

    Every method returns a dict of scalars that are already multiplied by their weight. A weight
    of 0 switches its loss off; ``gia`` and ``lea`` switch the alignment losses.
    """

    @configurable
    def __init__(
        self,
        *,
        weights: dict[str, float],
        gia: bool,
        lea: bool,
        cross_contrastive: bool,
        gia_similarity: str,
        lea_temperature: float,
        lea_background_weight: float,
        lea_normalize: str,
        energy: dict[str, float | str],
        ignore_value: int,
    ) -> None:
        """Keep the settings.

        Args:
            weights: factor per loss; keys cls, inter, gia, lea, ptc, ctc, seg, reg.
            gia, lea: whether Eq. 3 and Eq. 4 to 6 act.
            cross_contrastive: False keeps only the foreground positives (Table 4, w/o CCL).
            gia_similarity: "affine" or "clamp".
            lea_temperature, lea_background_weight: tau and lambda of Eq. 6.
            lea_normalize: "all" or "region".
            energy: keyword arguments of :func:`~dalnet.modeling.losses.dense_energy`.
            ignore_value: label of pixels that supervise nothing.
        """
        super().__init__()
        self.weights = weights
        self.gia = gia and weights["gia"] > 0
        self.lea = lea and weights["lea"] > 0
        self.cross_contrastive = cross_contrastive
        self.gia_similarity = gia_similarity
        self.lea_temperature = lea_temperature
        self.lea_background_weight = lea_background_weight
        self.lea_normalize = lea_normalize
        self.energy = energy
        self.ignore_value = ignore_value

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read ``cfg.MODEL.DALNET``."""
        dalnet = cfg.MODEL.DALNET
        names = ("cls", "inter", "gia", "lea", "ptc", "ctc", "seg", "reg")
        return {
            "weights": {name: float(dalnet[f"{name.upper()}_WEIGHT"]) for name in names},
            "gia": dalnet.GIA,
            "lea": dalnet.LEA,
            "cross_contrastive": dalnet.CROSS_CONTRASTIVE,
            "gia_similarity": dalnet.GIA_SIMILARITY,
            "lea_temperature": dalnet.LEA_TEMPERATURE,
            "lea_background_weight": dalnet.LEA_BACKGROUND_WEIGHT,
            "lea_normalize": dalnet.LEA_NORMALIZE,
            "energy": {
                "sigma_rgb": dalnet.REG.SIGMA_RGB,
                "sigma_xy": dalnet.REG.SIGMA_XY,
                "scale": dalnet.REG.SCALE,
                "method": dalnet.REG.METHOD,
            },
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    @property
    def aligns(self) -> bool:
        """Whether any alignment loss acts, so that text embeddings and projections are needed."""
        return self.gia or self.lea

    @property
    def segments(self) -> bool:
        """Whether the segmentation head is trained at all."""
        return self.weights["seg"] > 0 or self.weights["reg"] > 0

    def classification(
        self, logits: Tensor, inter_logits: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """L_cls and L_inter: multi-label soft margin on two logit vectors [N, C]."""
        losses = {}
        for name, values in (("cls", logits), ("inter", inter_logits)):
            loss = F.multilabel_soft_margin_loss(values.float(), labels)
            losses[f"loss_{name}"] = self.weights[name] * loss
        return losses

    def implicit_alignment(
        self, cls_tokens: Tensor, text: tuple[Tensor, Tensor], labels: Tensor, counted: Tensor
    ) -> dict[str, Tensor]:
        """L_im, Eq. 3: projected class tokens [V, d] of all views, labels [V, C], weights [V]."""
        loss = global_implicit_alignment(
            cls_tokens, *text, labels, self.cross_contrastive, self.gia_similarity, counted
        )
        return {"loss_gia": self.weights["gia"] * loss}

    def explicit_alignment(
        self, patch_tokens: Tensor, mask: Tensor, text: tuple[Tensor, Tensor], labels: Tensor
    ) -> dict[str, Tensor]:
        """L_ex, Eq. 4 to 6: projected patch tokens [N, P, d] and object-aware mask [N, P]."""
        loss = local_explicit_alignment(
            patch_tokens,
            mask,
            *text,
            labels,
            cross=self.cross_contrastive,
            temperature=self.lea_temperature,
            bg_weight=self.lea_background_weight,
            normalize=self.lea_normalize,
            similarity=self.gia_similarity,
        )
        return {"loss_lea": self.weights["lea"] * loss}

    def contrast(self, patch_tokens: Tensor, token_labels: Tensor) -> dict[str, Tensor]:
        """L_ptc: last block's patch tokens [N, D, h, w] against label maps [N, h, w]."""
        loss = patch_token_contrast(patch_tokens, token_labels, ignore=self.ignore_value)
        return {"loss_ptc": self.weights["ptc"] * loss}

    def segmentation(
        self, pixels: Tensor, logits: Tensor, pseudo_labels: Tensor, boxes: Tensor
    ) -> dict[str, Tensor]:
        """L_seg and L_reg of Eq. 8.

        Args:
            pixels: [N, 3, H, W], RGB in 0..255.
            logits: segmentation logits [N, C + 1, h, w]; enlarged here to H x W.
            pseudo_labels: [N, H, W], with the ignore value.
            boxes: [N, 4], (y0, y1, x0, x1).
        """
        logits = F.interpolate(
            logits.float(), size=pixels.shape[-2:], mode="bilinear", align_corners=False
        )
        losses = {}
        if self.weights["seg"] > 0:
            loss = balanced_cross_entropy(logits, pseudo_labels, ignore=self.ignore_value)
            losses["loss_seg"] = self.weights["seg"] * loss
        if self.weights["reg"] > 0:
            probs = logits.softmax(dim=1)
            loss = dense_energy(
                pixels, probs, boxes, pseudo_labels, ignore=self.ignore_value, **self.energy
            )
            losses["loss_reg"] = self.weights["reg"] * loss
        return losses
