# SPDX-License-Identifier: Apache-2.0
"""The pre-training: optimizer, schedule, checkpoints and what is left at the end.

Learning rate, decay, betas and augmentation are the paper's (He et al., CVPR 2022, Table 8) by
default. The decoder is lighter: one block is enough where the encoder is fine-tuned afterwards
(Table 1a).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, SimpleTrainer, default_writers, hooks
from fvcore.common import param_scheduler
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.utils import save_image

from dalnet.errors import UsageError
from dalnet.io import atomic_write
from dalnet.modeling import TimmViT

from .image_folder import PIXEL_MEAN, PIXEL_STD, crop_batches, normalize
from .masked_autoencoder import MaskedAutoencoder, random_orders

_BETAS = (0.9, 0.95)
_LOSS_WINDOW = 100  # iterations that the reported loss is the mean of
_PREVIEWS = 6  # images in the preview


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PretrainOptions:
    """What decides the result, together with the images; the metadata explain each value."""

    vit: str = _option("vit_tiny_patch16_224", "timm's name of the encoder")
    crop_size: int = _option(224, "pixels of a crop, a multiple of the patch size")
    batch_size: int = _option(64, "crops an iteration")
    iterations: int = _option(1500, "crops seen = iterations x batch size")
    seed: int = _option(0, "of weights, crops and masks")
    mask_ratio: float = _option(0.75, "fraction of the patches that are hidden")
    decoder_width: int = _option(128, "of the decoder's tokens, a multiple of 4 and of the heads")
    decoder_depth: int = _option(1, "blocks of the decoder")
    decoder_heads: int = _option(4, "of the decoder's attention")
    lr: float = _option(1.5e-4, "learning rate for a batch of 256, scaled by the batch size")
    weight_decay: float = _option(0.05, "of AdamW, on weights but not on biases and norms")
    warmup: float = _option(0.05, "fraction of the iterations in which the learning rate rises")
    overrides: dict[str, int] = field(default_factory=dict)  # arguments of timm's model to change


class RunState(HookBase):
    """What a checkpoint holds beside weights and optimizer, so that a resumed run ends alike."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        """``recipe`` are the plain values that decide the result."""
        self.recipe, self.loss = recipe, float("nan")

    def after_step(self) -> None:
        """Update the mean loss of the latest iterations."""
        self.loss = float(self.trainer.storage.history("total_loss").avg(_LOSS_WINDOW))

    def state_dict(self) -> dict[str, Any]:
        """Return recipe, loss, and the state of torch's generator, which draws crops and masks."""
        return {"recipe": self.recipe, "loss": self.loss, "rng": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on; raise :class:`UsageError` if it was another recipe."""
        changed = {k: v for k, v in state["recipe"].items() if self.recipe.get(k) != v}
        if changed:
            raise UsageError(
                f"the checkpoint is of a run with {changed}",
                where="resume",
                hint="repeat these options, or train anew in another folder",
            )
        self.loss = state["loss"]
        torch.set_rng_state(state["rng"])


def pretrain(
    options: PretrainOptions,
    images: Sequence[Tensor],
    folder: Path,
    *,
    resume: bool = False,
    log_every: int = 20,
    save_every: int = 200,
) -> tuple[MaskedAutoencoder, float]:
    """Train, and return the model and the mean loss of the last hundred iterations.

    Args:
        options: what decides the result, with the images.
        images: uint8 [3, H, W] each, RGB, all on the device to train on. On a GPU the forward
            pass is in bfloat16 where autocast has it so.
        folder: for checkpoints, metrics and TensorBoard's events.
        resume: go on from the newest checkpoint in ``folder``, if there is one.
        log_every: iterations between two lines of progress.
        save_every: iterations between two checkpoints.

    Raises:
        UsageError: options that do not go together, or the checkpoint is of another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = images[0].device
    model = build_model(options).to(device)
    # Around the forward pass only: the backward pass follows its types.
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    model.forward = half(model.forward)
    optimizer = build_optimizer(model, options)
    state = RunState({**asdict(options), "num_images": len(images)})
    checkpointer = DetectionCheckpointer(model, str(folder), state=state, optimizer=optimizer)
    start = checkpointer.resume_or_load("", resume=resume).get("iteration", -1) + 1
    crops = crop_batches(images, options.crop_size, options.batch_size, options.seed, start)
    trainer = SimpleTrainer(model, crops, optimizer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=build_scheduler(options)),
            state,
            hooks.PeriodicCheckpointer(checkpointer, save_every, max_to_keep=1),
            hooks.PeriodicWriter(default_writers(str(folder), options.iterations), log_every),
        ]
    )
    if start < options.iterations:
        trainer.train(start, options.iterations)
    return model, state.loss


def build_model(options: PretrainOptions) -> MaskedAutoencoder:
    """Return the autoencoder around the very encoder that ``TimmViT`` trains."""
    torch.manual_seed(options.seed)
    sizes = {**options.overrides, "img_size": options.crop_size}
    vit = TimmViT(name=options.vit, weights="", intermediate_block=1, overrides=sizes).vit
    patch = vit.patch_embed.patch_size[0]
    if options.crop_size % patch:
        raise UsageError(f"it is {options.crop_size}", "crop_size", f"choose a multiple of {patch}")
    decoder = (options.decoder_width, options.decoder_depth, options.decoder_heads)
    try:
        return MaskedAutoencoder(vit, options.mask_ratio, *decoder)
    except (AssertionError, ValueError) as error:
        what = f"the autoencoder cannot be built ({error})"
        raise UsageError(what, hint="change its sizes") from error


def build_optimizer(model: nn.Module, options: PretrainOptions) -> torch.optim.AdamW:
    """Return AdamW; biases, norms and other parameters of one dimension do not decay."""
    lr = options.lr * options.batch_size / 256
    groups = param_groups_weight_decay(model, options.weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=_BETAS)


def build_scheduler(options: PretrainOptions) -> param_scheduler.ParamScheduler:
    """Return the factor of the learning rate: over 0..1, a linear rise, then half a cosine to 0.

    The paper's cosine begins where the rise ends; under Detectron2's ``WarmupParamScheduler`` it
    would begin with the training.
    """
    rise = param_scheduler.LinearParamScheduler(0.0, 1.0)
    fall = param_scheduler.CosineParamScheduler(1.0, 0.0)
    lengths = [options.warmup, 1 - options.warmup]
    return param_scheduler.CompositeParamScheduler([rise, fall], lengths, ["rescaled"] * 2)


def draw_preview(model: MaskedAutoencoder, images: Sequence[Tensor], path: Path) -> None:
    """Save the first few ``images``, uint8 [3, H, W]: each a row, beside it masked and completed.

    The file is a PNG; images and model are on one device.
    """
    size = model.vit.patch_embed.img_size
    square = v2.Compose([v2.Resize(size[0], antialias=True), v2.CenterCrop(size)])
    shown = normalize(torch.stack([square(image) for image in images[:_PREVIEWS]]))
    order = random_orders(len(shown), model.vit.patch_embed.num_patches).to(shown.device)
    columns = torch.stack([shown, *model.eval().reconstruct(shown, order)], dim=1).cpu()
    mean, std = (torch.tensor(x)[:, None, None] for x in (PIXEL_MEAN, PIXEL_STD))
    with atomic_write(path) as temporary:
        grid = (columns * std + mean).flatten(0, 1) / 255
        save_image(grid, temporary, format="PNG", nrow=3, padding=0)
