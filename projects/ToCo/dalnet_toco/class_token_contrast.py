# SPDX-License-Identifier: Apache-2.0
"""Class-token contrast (ToCo, CVPR 2023, Sec. 3.4): local views against the whole image."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalnet.modeling.losses.counts import is_first_pass, total_count
from dalnet.modeling.precision import full_precision

_WEIGHT_STD = 0.02
_EPS = 1e-4  # in both denominators, as published


class ProjectionHead(nn.Module):
    """DINO's head: three linear layers, then cosines with the rows of a weight matrix.

    ``forward(tokens [..., D])`` returns ``[..., out_dim]`` in -1..1.
    """

    def __init__(self, in_dim: int, hidden_dim: int, bottleneck_dim: int, out_dim: int) -> None:
        """Take the widths of the tokens, the hidden layers, the last layer's input, the output."""
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        # Weight normalization whose gain is fixed at 1 leaves rows of length 1.
        self.rows = nn.Parameter(torch.empty(out_dim, bottleneck_dim))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=_WEIGHT_STD)
            else:
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Project class tokens."""
        return F.linear(F.normalize(self.mlp(tokens), dim=-1), F.normalize(self.rows, dim=-1))


class ClassTokenContrast(nn.Module):
    """Projects class tokens by a student and by its moving average, the teacher.

    The teacher has the student's layers, gets no gradient, and moves once before each step.
    """

    def __init__(self, head: ProjectionHead, momentum: float) -> None:
        """
        Args:
            head: the student.
            momentum: what the teacher keeps of itself at each step, 0..1.
        """
        super().__init__()
        self.student = head
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.momentum = momentum

    def forward(self, global_tokens: Tensor, local_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Project the class tokens of N images.

        Args:
            global_tokens: ``[N, G, D]`` of the views of (nearly) the whole image.
            local_tokens: ``[N, L, D]`` of the local views.

        Returns:
            The teacher's projections of the global views, ``[N, G, K]``, and the student's of
            global and local views, ``[N, G + L, K]``.
        """
        with torch.no_grad():
            if is_first_pass():
                self._move_teacher()
            targets = self.teacher(global_tokens)
        return targets, self.student(torch.cat([global_tokens, local_tokens], dim=1))

    def _move_teacher(self) -> None:
        for kept, current in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            kept.lerp_(current, 1 - self.momentum)


@full_precision
def class_token_contrast(
    targets: Tensor,
    views: Tensor,
    positive: Tensor,
    temperature: float = 0.5,
    sample_weight: Tensor | None = None,
    across_processes: bool = False,
) -> Tensor:
    """Class-token contrast L_ctc (ToCo, CVPR 2023, Eq. 5, as in its public code).

    With ``e_j = exp(t . s_j / temperature)``, E their sum over the negative views and P the
    positive ones, a teacher's view t gives ``sum_{j in P} -log(e_j / (e_j + E + 1e-4)) -
    log(1 / (1 + E + 1e-4))``; the mean over the teacher's views, divided by ``|P| + 1e-4``.

    Args:
        targets: ``[N, G, K]`` teacher's projections of the global views.
        views: ``[N, V, K]`` student's projections of global and local views.
        positive: boolean ``[N, V]``.
        temperature: see above.
        sample_weight: ``[N]``, 1 for images that the mean is taken over and 0 for those without an
            object, which have nothing that views could share; all images where not given.
        across_processes: sum the weights of all processes, see
            :func:`dalnet.modeling.losses.counts.total_count`.

    Returns:
        Scalar, the mean over the images; 0 if none counts.
    """
    products = targets @ views.transpose(1, 2) / temperature
    negatives = products.masked_fill(positive[:, None], -math.inf)
    # In logarithms: exp(t . s) leaves float32's range when the projections agree.
    rest = F.pad(negatives, (1, 0), value=math.log(_EPS)).logsumexp(dim=2)
    attract = (F.softplus(rest[:, :, None] - products) * positive[:, None]).sum(dim=2)
    num_positive = positive.to(products.dtype).sum(dim=1)
    per_image = (attract + F.softplus(rest)).mean(dim=1) / (num_positive + _EPS)
    weight = torch.ones_like(per_image) if sample_weight is None else sample_weight
    total, shares = total_count(weight.sum(), across_processes)
    return (per_image * weight).sum() / (total.clamp(min=1) / shares)
