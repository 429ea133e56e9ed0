# SPDX-License-Identifier: Apache-2.0
"""The order in which training sees its images: Detectron2's samplers, from any place on."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import Sampler

from dalnet.config.checks import check_rules, one_of
from dalnet.errors import UsageError

_RULES = (one_of(("TrainingSampler", "RepeatFactorTrainingSampler"), "DATALOADER.SAMPLER_TRAIN"),)


class ResumableSampler(Sampler[tuple[int, int]]):
    """An endless order of images that can begin anywhere, shared by all processes.

    Attributes:
        start_index: how many samples of all processes are left out, read when iteration begins.
    """

    def __init__(self, order: TrainingSampler | RepeatFactorTrainingSampler) -> None:
        """``order``: one of Detectron2's samplers, whose order is the same in all processes."""
        self.order = order
        self.start_index = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield this process's samples: their number in the training, and the index of the image.

        Number n belongs to process n modulo the number of processes. Steps of the same batch size
        over all processes so see the same samples, however many processes share them.
        """
        numbered = enumerate(self.order._infinite_indices())
        return islice(numbered, self.start_index + comm.get_rank(), None, comm.get_world_size())


def build_sampler(cfg: CfgNode, dicts: Sequence[dict[str, Any]], seed: int = 0) -> ResumableSampler:
    """Build the order that ``DATALOADER.SAMPLER_TRAIN`` names, over the images of ``dicts``.

    Raises:
        UsageError: an unknown sampler, or a threshold that repeats no image.
    """
    check_rules(cfg, _RULES)
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    if cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler":
        return ResumableSampler(TrainingSampler(len(dicts), seed=seed))
    if not 0 < threshold <= 1:
        raise UsageError(
            f"it is {threshold}",
            where="DATALOADER.REPEAT_THRESHOLD",
            hint="set it to the fraction of the images below which those of a class are repeated, "
            "above 0 and at most 1",
        )
    factors = repeat_factors(dicts, threshold)
    return ResumableSampler(RepeatFactorTrainingSampler(factors, seed=seed))


def repeat_factors(dicts: Sequence[dict[str, Any]], threshold: float) -> Tensor:
    """Return how often each image is to be seen in one round: float32 [N], 1 or more.

    The factor of a class that a fraction f of the images shows is max(1, sqrt(threshold / f)), that
    of an image the largest of its classes' (LVIS, Gupta et al., CVPR 2019, appendix B.2).
    """
    annotated = [
        {"annotations": [{"category_id": label} for label in record["image_labels"]]}
        for record in dicts
    ]
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(annotated, threshold)
