# SPDX-License-Identifier: Apache-2.0
"""Compute the weighted losses of a training step."""

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn

from dalnet.modeling.losses.counts import shares

from . import losses


class CLIMSCriterion(nn.Module):
    """Computes the losses that have a weight above 0.

    They are otm, object-text matching (L_OTM); btm, background-text matching (L_BTM); cbs,
    suppression of related backgrounds (L_CBS); and reg, the area of the maps (L_REG).

    Attributes:
        weights: above 0, by name of the loss.
        threshold: of L_CBS.
        reference_batch: number of images for which L_CBS is the published sum; 0 for any number.
        camera_ready: whether pairs are weighted by class and phrases belong to classes.
        across_processes: whether the two matching losses are means over the pairs of all processes,
            and L_CBS a sum over them; else over those of each process.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Read ``MODEL.CLIMS`` and ``SOLVER.GLOBAL_LOSS_STATISTICS``."""
        super().__init__()
        clims = cfg.MODEL.CLIMS
        weights = {name: clims[f"{name.upper()}_WEIGHT"] for name in ("otm", "btm", "cbs", "reg")}
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.threshold = clims.CBS_THRESHOLD
        self.reference_batch = clims.CBS_REFERENCE_BATCH
        self.camera_ready = clims.VARIANT == "camera_ready"
        self.across_processes = cfg.SOLVER.GLOBAL_LOSS_STATISTICS

    def forward(self, outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted scalars ``loss_otm``, ``loss_btm``, ``loss_cbs``, ``loss_reg``.

        Args:
            outputs: ``maps`` ``[N, C, h, w]`` in 0..1; features of length one of the K masked
                ``objects`` ``[K, d]`` and, where L_BTM has a weight, of the ``backgrounds``.
            targets: ``texts`` ``[K, d]`` of each pair's class and ``phrases`` ``[M, d]`` of
                backgrounds, of length one; ``related`` boolean ``[K, M]``, whether a phrase belongs
                to the pair's class; and ``pair_weights`` ``[K]``.
        """
        terms: dict[str, Callable[[], Tensor]] = {
            "otm": lambda: losses.object_matching(
                cosines(outputs["objects"], targets["texts"]), **self._matching(targets)
            ),
            "btm": lambda: losses.background_matching(
                cosines(outputs["backgrounds"], targets["texts"]), **self._matching(targets)
            ),
            "cbs": lambda: self._suppression(outputs, targets),
            "reg": lambda: losses.area(outputs["maps"]),
        }
        return {f"loss_{name}": weight * terms[name]() for name, weight in self.weights.items()}

    def _matching(self, targets: dict[str, Tensor]) -> dict[str, Any]:
        """Return the keyword arguments of the matching losses."""
        weights = targets["pair_weights"] if self.camera_ready else None
        return {
            "weights": weights,
            "clamp": not self.camera_ready,
            "across_processes": self.across_processes,
        }

    def _suppression(self, outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        objects, phrases = outputs["objects"], targets["phrases"]
        if self.camera_ready:
            loss = losses.related_suppression(objects, phrases, targets["related"])
        else:
            loss = losses.background_suppression(objects, phrases, self.threshold)
        if self.reference_batch:
            return self.reference_batch / len(outputs["maps"]) * loss
        # The gradients' mean is taken over the shares.
        return shares() * loss if self.across_processes else loss


def cosines(features: Tensor, texts: Tensor) -> Tensor:
    """Return the cosines ``[K]`` of rows of length one, both ``[K, d]``."""
    return (features * texts).sum(dim=1)
