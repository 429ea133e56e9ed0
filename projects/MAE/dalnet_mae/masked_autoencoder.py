# SPDX-License-Identifier: Apache-2.0
"""Learning without labels: a vision transformer completes photographs of which it sees a quarter.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
"""

from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dalnet.errors import UsageError

_EPS = 1e-6  # of the published code, for layer norms and the variance of a patch


def to_patches(images: Tensor, side: int) -> Tensor:
    """Cut [N,3,H,W] into patches, row by row: [N, P, 3 * side * side], colours outermost."""
    return F.pixel_unshuffle(images, side).flatten(2).mT


def to_images(patches: Tensor, side: int, rows: int) -> Tensor:
    """The inverse of :func:`to_patches` for ``rows`` rows of patches: [N,3,H,W]."""
    return F.pixel_shuffle(patches.mT.unflatten(2, (rows, -1)), side)


def random_orders(count: int, patches: int) -> Tensor:
    """One shuffling of the patches per image, long [count, patches].

    Drawn on the CPU from torch's global generator, so that it is the same on every device.
    """
    return torch.rand(count, patches).argsort(dim=1)


def sincos_positions(vit: VisionTransformer, width: int, prefix: int) -> Tensor:
    """Sine-cosine codes of the vit's patches behind ``prefix`` zeros, [1, prefix + P, width]."""
    codes = build_sincos2d_pos_embed(list(vit.patch_embed.grid_size), width)
    return F.pad(codes, (0, 0, prefix, 0))[None]


class MaskedAutoencoder(nn.Module):
    """A ViT that encodes the visible patches, and a light decoder that predicts the hidden ones.

    An ``order`` says what is visible: a permutation of the P patches for each image, long [N, P],
    of which the first V are visible. A block does not mind in which order tokens come, so the
    decoder keeps it, and only the positions are put into the same order.

    Attributes:
        vit: the encoder, timm's own model. Prefix tokens (class token) are always encoded.
        num_visible: V, the number of patches of an image that the encoder sees.
    """

    def __init__(
        self, vit: VisionTransformer, mask_ratio: float, width: int, depth: int, heads: int
    ) -> None:
        """
        Args:
            vit: encoder without classifier. Its weights are drawn anew as published: Xavier for
                linear layers, sine-cosine positions. Positions do not learn here.
            mask_ratio: share of the patches that are hidden (0.75 in the paper).
            width: of the decoder's tokens, a multiple of 4 and of ``heads`` (512 in the paper).
            depth: blocks of the decoder (8 in the paper).
            heads: of the decoder's attention (16 in the paper).

        Raises:
            UsageError: these numbers do not go together.
        """
        super().__init__()
        patches: int = vit.patch_embed.num_patches
        self.vit, self.num_visible = vit, int(patches * (1 - mask_ratio))
        _check_sizes(patches, self.num_visible, vit.embed_dim, width, depth, heads)
        self.patch_size: int = vit.patch_embed.patch_size[0]
        norm = partial(nn.LayerNorm, eps=_EPS)
        self.narrow = nn.Linear(vit.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        )
        self.norm = norm(width)
        self.pixels = nn.Linear(width, 3 * self.patch_size**2)
        positions = sincos_positions(vit, width, vit.num_prefix_tokens)
        self.register_buffer("positions", positions, persistent=False)
        self._draw_weights()

    def forward(self, images: Tensor, order: Tensor | None = None) -> Tensor:
        """Loss of predicting what is hidden.

        Args:
            images: [N, 3, S, S], normalised, S the vit's ``img_size``.
            order: long [N, P], see the class; drawn at random where it is not given.

        Returns:
            Scalar; float32 under autocast.
        """
        if order is None:
            order = random_orders(len(images), self.vit.patch_embed.num_patches)
        order = order.to(images.device)
        return self.loss(self.decode(self.encode(images, order), order), images, order)

    def encode(self, images: Tensor, order: Tensor) -> Tensor:
        """Tokens of the prefix and of the visible patches, [N, prefix + V, D]."""
        vit = self.vit
        # timm's own handling of prefix tokens and positions, which differs between its families.
        tokens = vit._pos_embed(vit.patch_embed(images))
        prefix, patches = tokens.tensor_split([vit.num_prefix_tokens], dim=1)
        visible = _take(patches, order[:, : self.num_visible])
        tokens = vit.norm_pre(vit.patch_drop(torch.cat([prefix, visible], dim=1)))
        return vit.norm(vit.blocks(tokens))

    def decode(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Predicted content of the hidden patches, in their order: [N, P - V, p * p * 3]."""
        tokens = self.narrow(tokens)
        hidden = self.mask_token.expand(len(order), order.shape[1] - self.num_visible, -1)
        prefix, places = self.positions.tensor_split([self.vit.num_prefix_tokens], dim=1)
        places = torch.cat([prefix.expand(len(order), -1, -1), places[0][order]], dim=1)
        tokens = self.blocks(torch.cat([tokens, hidden], dim=1) + places)
        return self.pixels(self.norm(tokens[:, -hidden.shape[1] :]))

    def loss(self, predictions: Tensor, images: Tensor, order: Tensor) -> Tensor:
        """Mean squared error over the hidden patches, each normalised by itself (norm_pix_loss).

        Args:
            predictions: [N, P - V, p * p * 3], as :meth:`decode` returns them.
            images: [N, 3, S, S].
            order: long [N, P].

        Returns:
            Scalar; float32 under autocast.
        """
        patches = _take(to_patches(images, self.patch_size), order[:, self.num_visible :])
        mean, scale = _patch_statistics(patches)
        return F.mse_loss(predictions, (patches - mean) / scale)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """The images as the encoder sees them and as the decoder completes them.

        The prediction of a hidden patch is given the true mean and contrast of that patch, which
        the loss does not ask for.

        Args:
            images: [N, 3, S, S], normalised.
            order: long [N, P].

        Returns:
            Hidden patches 0, and hidden patches predicted; both [N, 3, S, S], normalised.
        """
        patches = to_patches(images, self.patch_size)
        hidden = order[:, self.num_visible :]
        mean, scale = _patch_statistics(_take(patches, hidden))
        predicted = self.decode(self.encode(images, order), order) * scale + mean
        index = hidden[..., None].expand_as(predicted)
        rows = images.shape[2] // self.patch_size
        masked, completed = patches.scatter(1, index, 0), patches.scatter(1, index, predicted)
        return tuple(to_images(x, self.patch_size, rows) for x in (masked, completed))

    def _draw_weights(self) -> None:
        vit = self.vit
        vit.init_weights("jax")  # timm's name for Xavier's scheme
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        with torch.no_grad():
            vit.pos_embed.copy_(sincos_positions(vit, vit.embed_dim, prefix))
        vit.pos_embed.requires_grad_(False)
        nn.init.normal_(self.mask_token, std=0.02)
        decoder = (self.narrow, *self.blocks.modules(), self.pixels)
        for module in (m for m in decoder if isinstance(m, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def _check_sizes(
    patches: int, visible: int, encoder_width: int, width: int, depth: int, heads: int
) -> None:
    if not 0 < visible < patches:
        raise UsageError(
            f"The mask ratio leaves {visible} of {patches} patches visible; choose one between 0 "
            "and 1 that leaves and hides at least one."
        )
    if encoder_width % 4:
        raise UsageError(
            f"The encoder's width is {encoder_width}; sine-cosine positions need a multiple of 4."
        )
    if min(width, depth, heads) < 1 or width % 4 or width % heads:
        raise UsageError(
            f"A decoder of width {width}, depth {depth} and {heads} heads cannot be built: the "
            "width must be a multiple of 4 and of the heads, and the depth at least 1."
        )


def _take(patches: Tensor, index: Tensor) -> Tensor:
    """Patches [N, P, D] at the places [N, K]: [N, K, D]."""
    return patches.gather(1, index[..., None].expand(-1, -1, patches.shape[2]))


def _patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch, [N, K, 1]; the latter is never 0."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return mean, (variance + _EPS).sqrt()
