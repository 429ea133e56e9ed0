# SPDX-License-Identifier: Apache-2.0
"""All comparisons of ours with the published ways, in the order of the table.

Errors are relative L2 unless a case says otherwise.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.compare import Case, Pair, differing_fraction, relative_l2
from benchmarks.inputs import sample_images, smooth_cams, smooth_scores
from benchmarks.network import make_config, make_items, make_model, make_step
from benchmarks.plain.bilateral import gaussian_sum, published_lattice
from benchmarks.plain.cam import materialized_attention, published_multi_scale_cam
from benchmarks.plain.dense_crf import published_dense_crf
from benchmarks.plain.dense_energy import published_dense_energy
from benchmarks.plain.par import published_par, published_refine
from benchmarks.plain.patch_contrast import published_patch_contrast
from benchmarks.plain.train_step import PublishedDALNet
from dalnet.layers import PixelAdaptiveRefinement, bilateral_filter, dense_crf
from dalnet.modeling import DALNet
from dalnet.modeling.backbone import TimmViT
from dalnet.modeling.cpu import use_onednn_products
from dalnet.modeling.heads import CAMClassifier
from dalnet.modeling.losses import dense_energy, patch_token_contrast
from dalnet.modeling.multi_scale import MultiScaleFlip
from dalnet.modeling.pseudo_labels import refine

_SIGMAS = (15.0, 50.0)  # of the colors in 0..255, of the position in pixels
_SCALES = (1.0, 0.5, 1.5)
_IGNORE = 255


def lattice_bounds(images: Tensor, sigma_rgb: float, sigma_xy: float) -> list[float]:
    """Return the largest filtered value of a constant, per image [N, 3, H, W]."""
    ones = torch.ones_like(images[:, :1])
    return bilateral_filter(images, ones, sigma_rgb, sigma_xy).amax(dim=(1, 2, 3)).tolist()


def value_and_gradient(loss: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scalar ``loss`` and its gradient in ``inputs``."""
    (gradient,) = torch.autograd.grad(loss, inputs)
    return loss.detach(), gradient


def make_par(device: str, tiny: bool, plain_on_a_core: bool = False) -> Pair:
    """Compare PAR; ``plain_on_a_core`` leaves one of the four images to the plain form, on the CPU.

    All four would keep a core busy for half a minute.
    """
    side, classes = (20, 3) if tiny else (224, 21)
    images = sample_images(4, side, side, tiny).to(device).float() / 255
    masks = smooth_scores(4, classes, side, side).to(device)
    par = PixelAdaptiveRefinement().to(device)
    if not plain_on_a_core:
        return Pair(lambda: par(images, masks), lambda: published_par(images, masks))
    image, mask = images[:1].cpu(), masks[:1].cpu()
    return Pair(
        lambda: par(images, masks),
        lambda: published_par(image, mask),
        lambda ours, plain: relative_l2(ours[:1], plain),
        plain_fraction=0.25,
    )


def make_refine(device: str, tiny: bool) -> Pair:
    """Compare pseudo labels of a training step; the error is the fraction of differing labels."""
    side, classes = (40, 5) if tiny else (448, 20)
    images = sample_images(4, side, side, tiny).to(device).float() / 255
    cams = smooth_cams(4, classes, side, side).to(device)
    present = torch.rand(4, classes, generator=torch.Generator().manual_seed(0)).topk(3).indices
    labels = torch.zeros(4, classes).scatter_(1, present, 1.0).to(device)
    boxes = torch.tensor([[0, side, side // 8, side]] * 4, device=device)
    par = PixelAdaptiveRefinement().to(device)
    inputs = (images, cams, labels, boxes, 0.25, 0.7)
    return Pair(
        lambda: refine(par, *inputs),
        lambda: published_refine(published_par, *inputs),
        differing_fraction,
    )


def make_lattice(device: str, tiny: bool) -> Pair:
    """Compare building the lattice and filtering once; the plain form is on the CPU always."""
    n, classes, side = (2, 3, 24) if tiny else (4, 21, 224)
    images = sample_images(n, side, side, tiny).to(device).float()
    values = smooth_scores(n, classes, side, side).to(device)
    bounds = lattice_bounds(images, *_SIGMAS)
    return Pair(
        lambda: bilateral_filter(images, values, *_SIGMAS),
        lambda: published_lattice(images, values, *_SIGMAS, bounds),
    )


def make_exact(device: str, tiny: bool) -> Pair:
    """Compare the exact filter with all pairs of pixels in double precision."""
    # All pairs of 4 x 224 x 224 pixels keep a CPU busy for the better part of an hour.
    n, side = (4, 224) if device == "cuda" else (1, 112)
    n, classes, side = (1, 3, 16) if tiny else (n, 21, side)
    images = sample_images(n, side, side, tiny).to(device).float()
    values = smooth_scores(n, classes, side, side).to(device)
    return Pair(
        lambda: bilateral_filter(images, values, *_SIGMAS, method="exact"),
        lambda: gaussian_sum(images, values, *_SIGMAS),
    )


def make_dense_crf(device: str, tiny: bool) -> Pair:
    """Compare ten iterations; the error is the fraction of pixels with another arg max."""
    classes, height, width = (3, 24, 31) if tiny else (21, 375, 500)
    images = sample_images(1, height, width, tiny).permute(0, 2, 3, 1).contiguous().to(device)
    probs = smooth_scores(1, classes, height, width).to(device)
    return Pair(
        lambda: dense_crf(images, probs),
        lambda: published_dense_crf(images, probs),
        lambda ours, plain: differing_fraction(ours.argmax(dim=1), plain.argmax(dim=1)),
    )


def make_dense_energy(device: str, tiny: bool) -> Pair:
    """Compare L_reg and its gradient; the error is that of the value.

    The published gradient differs where the gate does.
    """
    n, classes, side = (2, 3, 32) if tiny else (4, 21, 448)
    images = sample_images(n, side, side, tiny).to(device).float()
    probs = smooth_scores(n, classes, side, side).to(device).requires_grad_()
    confidence, labels = smooth_scores(n, classes, side, side, seed=1).to(device).max(dim=1)
    labels = labels.masked_fill(confidence < 0.6, _IGNORE)
    boxes = torch.tensor([[0, side, 0, side]] * n, device=device)
    bounds = lattice_bounds(F.interpolate(images, scale_factor=0.5), 15.0, 50.0)
    return Pair(
        lambda: value_and_gradient(dense_energy(images, probs, boxes, labels), probs),
        lambda: value_and_gradient(published_dense_energy(images, probs, labels, bounds), probs),
        lambda ours, plain: relative_l2(ours[0], plain[0]),
    )


def make_patch_contrast(device: str, tiny: bool) -> Pair:
    """Compare L_ptc on five kinds of label and ignored tokens; the error is the gradient's."""
    n, width, side = (2, 16, 5) if tiny else (4, 768, 28)
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(n, width, side, side, generator=rng).to(device).requires_grad_()
    kinds = torch.tensor([0, 1, 2, 3, 4, _IGNORE])
    labels = kinds[torch.randint(len(kinds), (n, side, side), generator=rng)].to(device)
    return Pair(
        lambda: value_and_gradient(patch_token_contrast(tokens, labels), tokens),
        lambda: value_and_gradient(published_patch_contrast(tokens, labels), tokens),
        lambda ours, plain: relative_l2(ours[1], plain[1]),
    )


def make_products(device: str, tiny: bool) -> Pair:
    """Compare oneDNN with PyTorch's default on a linear layer of DeiT-Tiny and its gradients.

    Where oneDNN would lose digits the default is used, and both are the same.
    """
    tokens, width, hidden = (20, 24, 96) if tiny else (8 * 197, 192, 768)
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(tokens, width, generator=rng).to(device).requires_grad_()
    weight = torch.randn(hidden, width, generator=rng).to(device).requires_grad_()
    torch.set_float32_matmul_precision("highest")
    use_onednn_products.cache_clear()
    use_onednn_products()
    quick = torch.get_float32_matmul_precision()

    def multiply(precision: str) -> tuple[Tensor, ...]:
        torch.set_float32_matmul_precision(precision)
        products = F.linear(inputs, weight)
        gradients = torch.autograd.grad(products.square().sum(), (inputs, weight))
        torch.set_float32_matmul_precision(quick)
        return (products.detach(), *gradients)

    return Pair(partial(multiply, quick), partial(multiply, "highest"))


def make_multi_scale_cam(device: str, tiny: bool) -> Pair:
    """Compare the CAMs of a training step, final and intermediate, of one image.

    Ours as in training: the plain pass at scale 1 exists already, and on CUDA the encoder runs in
    bfloat16. The published form is in single precision, so the error there shows both.
    """
    name, side = ("vit_tiny_patch16_224", 96) if tiny else ("vit_base_patch16_224", 448)
    torch.manual_seed(0)
    encoder = TimmViT(name=name, weights="", intermediate_block=10).to(device).eval()
    heads = [CAMClassifier(encoder.embed_dim, 20).to(device) for _ in range(2)]
    images = sample_images(1, side, side, tiny).to(device).float() / 127.5 - 1
    maps = {
        "cam": lambda tokens: heads[0].cam(tokens["patch_tokens"]),
        "cam_inter": lambda tokens: heads[1].cam(tokens["inter_tokens"]),
    }
    mixed = torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")
    with torch.no_grad(), mixed:
        tokens = encoder(images)

    @torch.no_grad()
    def ours() -> tuple[Tensor, ...]:
        with mixed:
            passes = MultiScaleFlip(encoder, lambda name, found: maps[name](found), images)
            passes.reuse(tokens)
            return tuple(passes.cams(name, _SCALES, flip=True) for name in maps)

    def raw_cams(views: Tensor) -> tuple[Tensor, ...]:
        found = encoder(views)
        return tuple(read(found) for read in maps.values())

    def plain() -> tuple[Tensor, ...]:
        with materialized_attention(encoder):
            return published_multi_scale_cam(raw_cams, images, _SCALES)

    return Pair(ours, plain)


def make_train_step(device: str, tiny: bool) -> Pair:
    """Compare the training step of four images in single precision: losses and gradients."""
    cfg = make_config("voc_dalnet", device, tiny)
    items = make_items(cfg, 2 if tiny else 4, synthetic=tiny, all_views=False)
    ours, plain = make_model(DALNet, cfg), make_model(PublishedDALNet, cfg)
    return Pair(
        partial(make_step(ours, torch.float32), items),
        partial(make_step(plain, torch.float32), items),
    )


CASES = (
    Case("par", make_par),
    # Quick on a GPU only; on a CPU it would say the same as the row above.
    Case("par_on_a_core", partial(make_par, plain_on_a_core=True), devices=("cuda",), threads=1),
    Case("par_as_used", make_refine),
    # The published lattice has one thread.
    Case("lattice", make_lattice, threads=1, by_pydensecrf=True),
    Case("exact", make_exact),
    Case("dense_crf", make_dense_crf, by_pydensecrf=True),
    Case("dense_energy", make_dense_energy, threads=1, by_pydensecrf=True),
    Case("patch_contrast", make_patch_contrast),
    Case("products", make_products, devices=("cpu",), threads=1),
    Case("multi_scale_cam", make_multi_scale_cam),
    # On CUDA the step has measurements of its own.
    Case("train_step", make_train_step, devices=("cpu",)),
)
