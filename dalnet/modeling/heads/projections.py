# SPDX-License-Identifier: Apache-2.0
"""Linear maps of tokens and texts into the space in which they are aligned."""

from torch import nn


class AlignmentProjections(nn.Module):
    """Linear maps of visual tokens and of text embeddings into the common space.

    ``visual(tokens [..., d_v])`` serves class and patch tokens, ``text(embeddings [..., d_t])``
    foreground and background texts; both return ``[..., d]``.
    """

    def __init__(
        self, visual_dim: int, text_dim: int, dim: int, text_projection: str = "orthogonal"
    ) -> None:
        """Take the widths and how texts are projected.

        Args:
            visual_dim: d_v, width of the tokens.
            text_dim: d_t, width of the text embeddings.
            dim: d, width of the common space.
            text_projection: "orthogonal", fixed orthogonal rows or columns, which for d >= d_t
                keep all cosines; or "linear", learned, with bias.

        Raises:
            ValueError: unknown ``text_projection``.
        """
        super().__init__()
        if text_projection not in ("orthogonal", "linear"):
            raise ValueError(f"text_projection {text_projection!r}: choose orthogonal or linear")
        fixed = text_projection == "orthogonal"
        self.visual = nn.Linear(visual_dim, dim)
        self.text = nn.Linear(text_dim, dim, bias=not fixed)
        if fixed:
            nn.init.orthogonal_(self.text.weight)
            self.text.requires_grad_(False)
