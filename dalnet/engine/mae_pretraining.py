# SPDX-License-Identifier: Apache-2.0
"""Masked autoencoding of photographs, without labels: see ``dalnet.modeling.masked_autoencoder``.

Rate, decay, betas and augmentation are the paper's (He et al., CVPR 2022, Table 8) by default. The
decoder is lighter: one block is enough where the encoder is fine-tuned afterwards (Table 1a).
"""

import functools
import itertools
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data.samplers import TrainingSampler
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from dalnet.config import add_dalnet_config
from dalnet.data.image_io import read_image
from dalnet.errors import UsageError
from dalnet.files import complete_or_absent, sha256
from dalnet.modeling.backbone.vit import TimmViT
from dalnet.modeling.masked_autoencoder import MaskedAutoencoder, random_orders

from .pretrainer import (
    Pretrainer,
    PretrainingPlan,
    expect_positive,
    run_pretraining,
    save_encoder,
)

logger = logging.getLogger(__name__)

_SUFFIXES = (".jpg", ".jpeg", ".png")
_AREA = (0.2, 1.0)  # of a photograph that a crop shows, before it is resized
_BETAS = (0.9, 0.95)
_PREVIEWS = 6  # photographs in the preview


def _argument(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """What decides the result, together with the photographs; the metadata explain each value."""

    vit: str = _argument("vit_tiny_patch16_224", "timm's name of the encoder")
    side: int = _argument(224, "pixels of a crop")
    batch: int = _argument(64, "photographs an iteration")
    iterations: int = _argument(1500, "photographs seen = iterations x batch")
    seed: int = _argument(0, "of weights, crops and masks")
    mask_ratio: float = _argument(0.75, "share of the patches that are hidden")
    decoder_width: int = _argument(128, "of the decoder's tokens")
    decoder_depth: int = _argument(1, "blocks of the decoder")
    decoder_heads: int = _argument(4, "of the decoder's attention")
    rate: float = _argument(1.5e-4, "learning rate for a batch of 256, scaled by the batch")
    weight_decay: float = _argument(0.05, "of AdamW, on weights but not on biases and norms")
    warmup: float = _argument(0.05, "share of the iterations in which the rate rises from 0")
    sizes: dict[str, int] = field(default_factory=dict)  # changed arguments of timm's model

    def __post_init__(self) -> None:
        """Refuse impossible values with a :class:`UsageError`."""
        expect_positive(**{key: getattr(self, key) for key in ("side", "batch", "iterations")})
        if not 0 <= self.warmup < 1:
            raise UsageError(f"--warmup is {self.warmup}; give a share of the iterations, below 1.")


@dataclass(frozen=True)
class Plan(PretrainingPlan):
    """Where a pre-training runs and what it leaves; nothing here changes the result.

    A JSON file named as the output says how it came about.

    Attributes:
        device: "cpu" or "cuda"; the latter computes in bfloat16 where autocast does.
        preview: picture to draw at the end, or None.
    """

    device: str = "cpu"
    preview: Path | None = None

    def __post_init__(self) -> None:
        """Refuse impossible values with a :class:`UsageError`."""
        super().__post_init__()
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError("--device is cuda, which is not available here; use --device cpu.")


@dataclass(frozen=True)
class Photographs:
    """Photographs in memory.

    Attributes:
        images: uint8 [3,H,W] each, RGB.
        skipped: one sentence for each photograph that could not be read.
        source: the arguments that named them.
    """

    images: list[Tensor]
    skipped: list[str]
    source: dict[str, Any]


def read_photographs(folder: Path, ids_file: Path | None, short_side: int) -> Photographs:
    """Read the photographs of a folder, shrunk so that the short side is ``short_side`` at most.

    Args:
        folder: of ``.jpg``, ``.jpeg`` and ``.png`` files; folders in it are not entered.
        ids_file: names of the files to take, without suffix, one a line; None for all.
        short_side: in pixels. 1,000 photographs of 4:3 take 260 MB at 256 pixels.

    Raises:
        UsageError: no folder, no such list, or not one photograph could be read.
    """
    expect_positive(memory_side=short_side)
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name one of photographs with --photos.")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
    skipped = []
    if ids_file:
        ids = _read_ids(ids_file)
        paths = [path for path in paths if path.stem in ids]
        absent = sorted(ids - {path.stem for path in paths})
        skipped = [f"{folder} has no photograph {name}, which {ids_file} lists." for name in absent]
    # As many threads as torch may use: OMP_NUM_THREADS holds here too.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        results = list(pool.map(lambda path: _read_small(path, short_side), paths))
    skipped += [result for result in results if isinstance(result, str)]
    for sentence in skipped:
        logger.warning("skipped: %s", sentence)
    images = [result for result in results if isinstance(result, Tensor)]
    if not images:
        raise UsageError(
            f"There is no photograph to learn from: {len(skipped)} unreadable or missing, none "
            f"readable in {folder}; name a folder of .jpg or .png files."
        )
    source = {"photos": str(folder), "list": ids_file and str(ids_file), "memory_side": short_side}
    return Photographs(images, skipped, source)


def _read_ids(path: Path) -> set[str]:
    try:
        return {
            line.split()[0]
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip()
        }
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the list {path} cannot be read ({error}); name a text file.") from error


def _read_small(path: Path, short_side: int) -> Tensor | str:
    """The photograph, uint8 [3,H,W], or what is wrong with it."""
    try:
        photo = Image.fromarray(read_image(str(path)))
    except UsageError as error:
        return str(error)
    factor = short_side / min(photo.size)
    if factor < 1:
        size = [max(1, round(factor * side)) for side in photo.size]
        photo = photo.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()


class Crops:
    """Endless batches of random crops and mirrors, float [B, 3, S, S], normalised.

    Every photograph is shown once before any is shown again.

    Attributes:
        first: number of the first batch, to be set before it is asked for.
    """

    def __init__(self, images: list[Tensor], recipe: Recipe, device: torch.device) -> None:
        """Keep the photographs, uint8 [3,H,W] each, on the device: they are cropped there."""
        self.images = [image.to(device) for image in images]
        self.recipe, self.first = recipe, 0
        crop = v2.RandomResizedCrop(
            recipe.side, scale=_AREA, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
        )
        self.transform = v2.Compose([crop, v2.RandomHorizontalFlip()])

    def __iter__(self) -> Iterator[Tensor]:
        sampler = TrainingSampler(len(self.images), seed=self.recipe.seed)
        chosen = itertools.islice(sampler, self.first * self.recipe.batch, None)
        while True:
            batch = itertools.islice(chosen, self.recipe.batch)
            yield normalise(torch.stack([self.transform(self.images[i]) for i in batch]))


@functools.cache
def pixel_statistics() -> tuple[list[float], list[float]]:
    """``MODEL.PIXEL_MEAN`` and ``PIXEL_STD`` of a config that does not set them, 0..255."""
    cfg = get_cfg()
    add_dalnet_config(cfg)
    return cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD


def normalise(images: Tensor) -> Tensor:
    """uint8 [N,3,H,W] to float, as the network is fed by default."""
    mean, std = (images.new_tensor(x, dtype=torch.float) for x in pixel_statistics())
    return (images.float() - mean[:, None, None]) / std[:, None, None]


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; biases and norms, which have one dimension, do not decay."""
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1]},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate = recipe.rate * recipe.batch / 256
    return torch.optim.AdamW(groups, lr=rate, betas=_BETAS, weight_decay=recipe.weight_decay)


def build_schedule(recipe: Recipe) -> ParamScheduler:
    """Factor of the rate over 0..1 of the training: a straight rise, then half a cosine to 0."""
    cosine = CosineParamScheduler(1.0, 0.0)
    if recipe.warmup == 0:
        return cosine
    return CompositeParamScheduler(
        [LinearParamScheduler(0.0, 1.0), cosine],
        lengths=[recipe.warmup, 1 - recipe.warmup],
        interval_scaling=["rescaled", "rescaled"],
    )


def build_model(recipe: Recipe) -> MaskedAutoencoder:
    """The autoencoder around the very encoder that ``TimmViT`` trains."""
    torch.manual_seed(recipe.seed)
    sizes = {**recipe.sizes, "img_size": recipe.side}
    vit = TimmViT(name=recipe.vit, weights="", intermediate_block=1, overrides=sizes).vit
    patch = vit.patch_embed.patch_size[0]
    if recipe.side % patch:
        raise UsageError(f"--side is {recipe.side}; choose a multiple of the patch size, {patch}.")
    decoder = (recipe.decoder_width, recipe.decoder_depth, recipe.decoder_heads)
    return MaskedAutoencoder(vit, recipe.mask_ratio, *decoder)


def pretrain(recipe: Recipe, photographs: Photographs, plan: Plan) -> dict[str, Any]:
    """Train, and write the encoder's weights and the account of them.

    Returns:
        The contents of the JSON file.

    Raises:
        UsageError: arguments that do not go together, or a checkpoint of another run.
    """
    device = torch.device(plan.device)
    model = build_model(recipe).to(device)
    # Around the forward pass only: the backward pass follows its types.
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    model.forward = half(model.forward)
    crops = Crops(photographs.images, recipe, device)
    identity = {**asdict(recipe), "photographs": len(crops.images)}
    trainer = Pretrainer(model, crops, build_optimizer(model, recipe), identity)
    run_pretraining(trainer, build_schedule(recipe), recipe.iterations, plan)
    account = _export(model, trainer.loss, recipe, photographs, plan)
    if plan.preview:
        draw_preview(model, photographs.images, recipe, plan.preview)
    return account


def _export(
    model: MaskedAutoencoder, loss: float, recipe: Recipe, photographs: Photographs, plan: Plan
) -> dict[str, Any]:
    """Save the encoder as timm names its parts, and the account beside it."""
    save_encoder(model.vit, plan.output)
    mean, std = pixel_statistics()
    account = {
        "weights_sha256": sha256(plan.output),
        "photographs": len(photographs.images),
        "skipped": photographs.skipped,
        "iterations": recipe.iterations,
        "final_loss": loss,
        "arguments": {**photographs.source, **asdict(recipe)},
        "pixel_mean": mean,
        "pixel_std": std,
    }
    with complete_or_absent(plan.output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(account, indent=2) + "\n", encoding="utf-8")
    logger.info("wrote %s, loss %.4f", plan.output, loss)
    return account


def draw_preview(
    model: MaskedAutoencoder, images: list[Tensor], recipe: Recipe, path: Path
) -> None:
    """Save photograph, masked photograph and reconstruction of the first few, a row each."""
    device = model.mask_token.device
    square = v2.Compose([v2.Resize(recipe.side, antialias=True), v2.CenterCrop(recipe.side)])
    photos = normalise(torch.stack([square(image) for image in images[:_PREVIEWS]]).to(device))
    order = random_orders(len(photos), model.vit.patch_embed.num_patches).to(device)
    columns = torch.cat([photos, *model.eval().reconstruct(photos, order)], dim=3).cpu()
    mean, std = (torch.tensor(x)[:, None, None] for x in pixel_statistics())
    sheet = (columns * std + mean).round().clamp(0, 255).byte().permute(0, 2, 3, 1).flatten(0, 1)
    with complete_or_absent(path) as temporary:
        Image.fromarray(sheet.numpy()).save(temporary, format="PNG")
