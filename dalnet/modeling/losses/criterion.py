# SPDX-License-Identifier: Apache-2.0
"""Compute the weighted losses of a training step, whose sum is Eq. 7 and 8 of DALNet's paper.

Names of losses in code and paper: cls L_cls, inter L_inter, gia L_im, lea L_ex, ptc L_ptc, seg
L_seg, reg L_reg.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dalnet.modeling.resize import resize

from .alignment import global_implicit_alignment, local_explicit_alignment
from .classification import image_classification
from .patch_contrast import patch_token_contrast
from .segmentation import balanced_cross_entropy, dense_energy

Tensors = Mapping[str, Tensor]
Loss = Callable[[Tensors, Tensors], Tensor]


class DALNetCriterion(nn.Module):
    """Computes the weighted losses of DALNet's training step from its outputs and targets.

    A weight of 0 switches a loss off. The classification losses are computed even then, because
    DistributedDataParallel expects a gradient of every parameter, the classifiers' too.
    """

    @configurable
    def __init__(
        self,
        *,
        weights: dict[str, float],
        options: dict[str, dict[str, Any]],
        ignore_value: int,
        across_processes: bool = False,
    ) -> None:
        """
        Args:
            weights: factor of each loss, by name.
            options: for gia, lea and reg, keyword arguments of the function in
                :mod:`dalnet.modeling.losses` that computes the loss.
            ignore_value: label of pixels that the losses leave out.
            across_processes: losses that divide by a number of pairs, pixels, views or images
                count those of all processes, see :func:`.counts.total_count`.
        """
        super().__init__()
        self.weights = weights
        self.options = options
        self.ignore_value = ignore_value
        self.across_processes = across_processes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``MODEL.DALNET``."""
        dalnet = cfg.MODEL.DALNET
        names = ("cls", "inter", "gia", "lea", "ptc", "seg", "reg")
        weights = {name: float(dalnet[f"{name.upper()}_WEIGHT"]) for name in names}
        # Switches (True or False) for the ablation of Table 4.
        weights["gia"] *= dalnet.GIA
        weights["lea"] *= dalnet.LEA
        shared = {"cross": dalnet.CROSS_CONTRASTIVE, "similarity": dalnet.GIA_SIMILARITY}
        lea = {
            "temperature": dalnet.LEA_TEMPERATURE,
            "bg_weight": dalnet.LEA_BACKGROUND_WEIGHT,
            "normalize": dalnet.LEA_NORMALIZE,
        }
        reg = {key.lower(): value for key, value in dalnet.REG.items()}
        return {
            "weights": weights,
            "options": {"gia": shared, "lea": {**shared, **lea}, "reg": reg},
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "across_processes": cfg.SOLVER.GLOBAL_LOSS_STATISTICS,
        }

    def acts(self, *names: str) -> bool:
        """Return whether any of the named losses has a weight above 0."""
        return any(self.weights[name] > 0 for name in names)

    def forward(self, outputs: Tensors, targets: Tensors) -> dict[str, Tensor]:
        """Return every loss that has a weight and a target.

        Args:
            outputs: of the network, by name; the methods below say which each loss reads.
            targets: what the outputs are compared with, by name. Without ``pseudo_labels`` the
                segmentation head is not trained in this step.

        Returns:
            Scalars multiplied by their weights, as ``loss_<name>``.
        """
        outputs = dict(outputs)
        if "pseudo_labels" in targets:
            size = targets["pseudo_labels"].shape[-2:]
            outputs["large_logits"] = resize(outputs["seg_logits"].float(), size)
        losses = {}
        for name, (loss, target) in self.terms().items():
            always = name in ("cls", "inter")
            if target in targets and (always or self.acts(name)):
                losses[f"loss_{name}"] = self.weights[name] * loss(outputs, targets)
        if "loss_seg" not in losses and "loss_reg" not in losses:
            # A gradient of zeros, because DistributedDataParallel expects one of every parameter.
            losses["loss_seg"] = 0.0 * outputs["seg_logits"].sum()
        return losses

    def terms(self) -> dict[str, tuple[Loss, str]]:
        """Return by name each loss, and the name of the target that it cannot do without."""
        return {
            "cls": (partial(self.classification, "cls_logits"), "image_labels"),
            "inter": (partial(self.classification, "inter_logits"), "image_labels"),
            "gia": (self.implicit_alignment, "view_labels"),
            "lea": (self.explicit_alignment, "object_mask"),
            "ptc": (self.patch_contrast, "token_labels"),
            "seg": (self.segmentation, "pseudo_labels"),
            "reg": (self.regularization, "pseudo_labels"),
        }

    def classification(self, name: str, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return L_cls or L_inter of the logits ``outputs[name]`` ``[N, C]``."""
        labels, known = targets["image_labels"], targets["known_labels"]
        return image_classification(outputs[name], labels, known, self.across_processes)

    def implicit_alignment(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return L_im of ``view_tokens [V, d]``, ``view_labels [V, C]``, ``view_weights [V]``."""
        return global_implicit_alignment(
            outputs["view_tokens"],
            outputs["text_fg"],
            outputs["text_bg"],
            targets["view_labels"],
            sample_weight=targets["view_weights"],
            across_processes=self.across_processes,
            **self.options["gia"],
        )

    def explicit_alignment(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return L_ex of ``aligned_patches [N, P, d]`` and ``object_mask [N, P]``."""
        return local_explicit_alignment(
            outputs["aligned_patches"],
            targets["object_mask"],
            outputs["text_fg"],
            outputs["text_bg"],
            targets["image_labels"],
            sample_weight=targets["image_weights"],
            across_processes=self.across_processes,
            **self.options["lea"],
        )

    def patch_contrast(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return L_ptc of ``patch_tokens [N, D, h, w]`` and ``token_labels [N, h, w]``."""
        tokens, labels = outputs["patch_tokens"], targets["token_labels"]
        return patch_token_contrast(tokens, labels, self.ignore_value, self.across_processes)

    def segmentation(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return L_seg of logits ``[N, C + 1, H, W]`` and ``pseudo_labels [N, H, W]``."""
        logits, labels = outputs["large_logits"], targets["pseudo_labels"]
        return balanced_cross_entropy(logits, labels, self.ignore_value, self.across_processes)

    def regularization(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return L_reg of logits ``[N, C + 1, H, W]`` and ``images [N, 3, H, W]`` in 0..255."""
        return dense_energy(
            targets["images"],
            outputs["large_logits"].softmax(dim=1),
            targets["boxes"],
            targets["pseudo_labels"],
            ignore=self.ignore_value,
            **self.options["reg"],
        )
