# SPDX-License-Identifier: Apache-2.0
"""A vision transformer that learns without labels to complete images of which it sees a quarter.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
"""

from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

_EPS = 1e-6  # of the published code, for layer norms and the variance of a patch


def to_patches(images: Tensor, side: int) -> Tensor:
    """Cut [N, 3, H, W] into patches, row by row: [N, P, 3 * side * side], channels outermost."""
    return F.pixel_unshuffle(images, side).flatten(2).mT


def to_images(patches: Tensor, side: int, rows: int) -> Tensor:
    """Undo :func:`to_patches` for ``rows`` rows of patches: [N, 3, H, W]."""
    return F.pixel_shuffle(patches.mT.unflatten(2, (rows, -1)), side)


def random_orders(count: int, patches: int) -> Tensor:
    """Return one permutation of the patches per image, long [count, patches].

    Drawn on the CPU from torch's global generator, so that it is the same on every device.
    """
    return torch.rand(count, patches).argsort(dim=1)


def sincos_positions(vit: VisionTransformer, width: int, prefix: int) -> Tensor:
    """Return ``prefix`` zeros, then sine-cosine codes of the patches: [1, prefix + P, width]."""
    codes = build_sincos2d_pos_embed(list(vit.patch_embed.grid_size), width)
    return F.pad(codes, (0, 0, prefix, 0))[None]


class MaskedAutoencoder(nn.Module):
    """A ViT that encodes the visible patches, and a light decoder that predicts the hidden ones.

    All methods take normalized ``images`` [N, 3, S, S], S the ViT's ``img_size``, and an ``order``
    that says what is visible: a permutation of the P patches for each image, long [N, P], of which
    the first V are visible. Since a transformer treats its tokens alike wherever they stand, the
    decoder keeps this order, and only the positions are permuted to match it.

    Attributes:
        vit: the encoder, timm's own model. Prefix tokens (class token) are always encoded.
        num_visible: V, the number of patches of an image that the encoder sees.
    """

    def __init__(
        self, vit: VisionTransformer, mask_ratio: float, width: int, depth: int, heads: int
    ) -> None:
        """
        Args:
            vit: encoder without classifier. Its weights are initialized as published: Xavier for
                linear layers, sine-cosine positions, which do not learn.
            mask_ratio: fraction of the patches that are hidden (0.75 in the paper).
            width: of the decoder's tokens, a multiple of 4 and of ``heads`` (512 in the paper).
            depth: blocks of the decoder (8 in the paper).
            heads: of the decoder's attention (16 in the paper).

        Raises:
            ValueError, AssertionError: no patch is visible or none hidden; a width does not fit.
        """
        super().__init__()
        patches: int = vit.patch_embed.num_patches
        self.vit, self.num_visible = vit, int(patches * (1 - mask_ratio))
        if not 0 < self.num_visible < patches:
            raise ValueError(f"{self.num_visible} of {patches} patches are visible")
        self.patch_size: int = vit.patch_embed.patch_size[0]
        norm = partial(nn.LayerNorm, eps=_EPS)
        self.narrow = nn.Linear(vit.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        blocks = (Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(width)
        self.pixels = nn.Linear(width, 3 * self.patch_size**2)
        positions = sincos_positions(vit, width, vit.num_prefix_tokens)
        self.register_buffer("positions", positions, persistent=False)
        self._init_weights()

    def forward(self, images: Tensor, order: Tensor | None = None) -> Tensor:
        """Return the loss, see :meth:`loss`, of a random order where none is given."""
        if order is None:
            order = random_orders(len(images), self.vit.patch_embed.num_patches)
        order = order.to(images.device)
        return self.loss(self.decode(self.encode(images, order), order), images, order)

    def encode(self, images: Tensor, order: Tensor) -> Tensor:
        """Return the tokens of the prefix and of the visible patches, [N, prefix + V, D]."""
        vit = self.vit
        # timm's own handling of prefix tokens and positions, which differs between its families.
        tokens = vit._pos_embed(vit.patch_embed(images))
        prefix, patches = tokens.tensor_split([vit.num_prefix_tokens], dim=1)
        visible = patches.take_along_dim(order[:, : self.num_visible, None], dim=1)
        tokens = vit.norm_pre(vit.patch_drop(torch.cat([prefix, visible], dim=1)))
        return vit.norm(vit.blocks(tokens))

    def decode(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Return what the hidden patches are predicted to be, in their order: [N, P - V, 3 p p]."""
        tokens = self.narrow(tokens)
        hidden = self.mask_token.expand(len(order), order.shape[1] - self.num_visible, -1)
        prefix, places = self.positions.tensor_split([self.vit.num_prefix_tokens], dim=1)
        places = torch.cat([prefix.expand(len(order), -1, -1), places[0][order]], dim=1)
        tokens = self.blocks(torch.cat([tokens, hidden], dim=1) + places)
        return self.pixels(self.norm(tokens[:, -hidden.shape[1] :]))

    def loss(self, predictions: Tensor, images: Tensor, order: Tensor) -> Tensor:
        """Return the mean squared error of what :meth:`decode` returns, as a float32 scalar.

        Each hidden patch is normalized by itself (the paper's norm_pix_loss).
        """
        patches = to_patches(images, self.patch_size)
        patches = patches.take_along_dim(order[:, self.num_visible :, None], dim=1)
        mean, std = _patch_statistics(patches)
        return F.mse_loss(predictions, (patches - mean) / std)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalized images, their hidden patches 0 in one and predicted in the other.

        The prediction of a hidden patch is given the true mean and contrast of that patch, which
        the loss does not ask for.
        """
        patches = to_patches(images, self.patch_size)
        index = order[:, self.num_visible :, None]
        mean, std = _patch_statistics(patches.take_along_dim(index, dim=1))
        predicted = self.decode(self.encode(images, order), order) * std + mean
        index = index.expand_as(predicted)
        rows = images.shape[2] // self.patch_size
        masked, completed = patches.scatter(1, index, 0), patches.scatter(1, index, predicted)
        return tuple(to_images(x, self.patch_size, rows) for x in (masked, completed))

    def _init_weights(self) -> None:
        vit = self.vit
        vit.init_weights("jax")  # timm's name for Xavier's scheme
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        with torch.no_grad():
            vit.pos_embed.copy_(sincos_positions(vit, vit.embed_dim, prefix))
        vit.pos_embed.requires_grad_(False)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.narrow, *self.blocks.modules(), self.pixels):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)


def _patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each patch, [N, K, 1]; the latter is never 0."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return mean, (variance + _EPS).sqrt()
