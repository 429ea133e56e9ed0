# SPDX-License-Identifier: Apache-2.0
"""The choice of a recipe for one's own images, from the hardware and the data.

The rules are those of docs/training.md, "Your own images": they are few, so that the log can say
in some lines what was chosen and why.
"""

import re
from dataclasses import dataclass

# Small machines see each image about five times, as often as 1,500 iterations of 4 see 1,200.
_PASSES = 5
_CPU_ITERATIONS = (600, 4_000)
_GPU_ITERATIONS = (4_000, 20_000)
_SMALL_BATCH, _BATCH = 4, 8
_LARGE_GPU_GIB, _MEDIUM_GPU_GIB = 16, 8
# Names of encoders that are easier to write than timm's.
ENCODERS = {
    "deit-tiny": "deit_tiny_patch16_224",
    "deit-small": "deit_small_patch16_224",
    "deit-base": "deit_base_patch16_224",
    "dinov2-small": "vit_small_patch14_dinov2.lvd142m",
}
_PATCH = 16  # pixels, of an encoder whose name does not say it
# Where the heads start and the warm-up ends, as a fraction of the training.
_SEG_START, _WARMUP = 0.25, 0.1


@dataclass(frozen=True)
class Recipe:
    """A recipe with what has to be changed in it.

    Attributes:
        config: name of a recipe, see :func:`dalnet.config.load_config`.
        opts: ``KEY, VALUE, ...`` that go before those of the recipe.
        reasons: one line for each choice.
    """

    config: str
    opts: tuple[str, ...]
    reasons: tuple[str, ...]


def choose_recipe(
    num_images: int,
    num_classes: int,
    short_side: int,
    gpu_gib: float | None,
    align: bool = True,
    encoder: str = "",
) -> Recipe:
    """Choose a recipe for one's own images.

    Args:
        num_images: of the training split.
        num_classes: C, without background.
        short_side: of a usual image, in pixels.
        gpu_gib: memory of the GPU; None for a CPU.
        align: whether there are texts to align with; without, the plain ViT with L_ptc.
        encoder: timm's name of another vision transformer than the recipe's. Sides of views are
            rounded up to multiples of its patch, which its name says.

    Returns:
        The recipe; its keys do not name the data set.
    """
    opts, reasons = _network_options(gpu_gib, encoder)
    reasons.insert(0, f"{num_images} images of {num_classes} classes, about {short_side} px")
    opts["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] = num_classes + 1
    low, high = _CPU_ITERATIONS if _is_small(gpu_gib) else _GPU_ITERATIONS
    batch = _SMALL_BATCH if _is_small(gpu_gib) else _BATCH
    iterations = min(max(_PASSES * num_images // batch, low), high)
    late = int(_SEG_START * iterations)
    opts |= {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.WARMUP_ITERS": int(_WARMUP * iterations),
        "MODEL.DALNET.SEG_START_ITER": late,
    }
    if align:
        opts["MODEL.DALNET.ALIGN_START_ITER"] = late
    reasons.append(
        f"{iterations} iterations, {iterations * batch / num_images:.1f} passes over the images"
    )
    if short_side > 500:
        # A crop has all labels of its image, so it has to show a good part of it.
        opts["INPUT.MIN_SIZE_TRAIN"] = (375,)
        reasons.append("images are brought to 375 px on the short side before they are cropped")
    method = "dalnet_plus" if align else "baseline_ptc"
    reasons.append("DALNet" if align else "the plain ViT with L_ptc, without texts")
    pairs = [str(part) for pair in opts.items() for part in pair]
    return Recipe(f"deit_tiny/{method}", tuple(pairs), tuple(reasons))


def _is_small(gpu_gib: float | None) -> bool:
    return gpu_gib is None or gpu_gib < _MEDIUM_GPU_GIB


def _network_options(gpu_gib: float | None, encoder: str) -> tuple[dict[str, object], list[str]]:
    """Return what the hardware and the encoder decide, as options, and a line for each choice."""
    patch = _patch_of(encoder)
    opts: dict[str, object] = {}
    place = "no GPU" if gpu_gib is None else f"a GPU of {gpu_gib:.0f} GiB"
    if _is_small(gpu_gib):
        name, crop, small_view, batch = "deit-tiny", 224, 64, _SMALL_BATCH
    else:
        large = gpu_gib is not None and gpu_gib >= _LARGE_GPU_GIB
        name, crop = ("deit-base", 448) if large else ("deit-small", 320)
        small_view, batch = 96, _BATCH
        opts = {
            "INPUT.MULTI_CROP.LOCAL_VIEWS": 8,
            "MODEL.SEM_SEG_HEAD.CONVS_DIM": 512,
            "MODEL.CAM.SCALES": (1.0, 0.5, 1.5),
            "DATALOADER.NUM_WORKERS": 4,
            # The recipe's own is for short trainings (docs/results.md).
            "SOLVER.HEAD_LR_MULTIPLIER": 10.0,
        }
    crop, small_view = (-(-side // patch) * patch for side in (crop, small_view))
    opts |= {
        "MODEL.VIT.NAME": encoder or ENCODERS[name],
        "INPUT.CROP.SIZE": [crop, crop],
        "INPUT.MULTI_CROP.LOCAL_SIZE": small_view,
        "SOLVER.IMS_PER_BATCH": batch,
    }
    reasons = [f"{place}: {encoder or name}, crops of {crop} px, batch {batch}"]
    if patch != _PATCH:
        sides = f"crops of {crop} and small views of {small_view} px"
        reasons.append(f"patches of {patch} px: {sides}, multiples of it")
    return opts, reasons


def _patch_of(encoder: str) -> int:
    """Return the side of a patch in pixels, which timm's names say, as vit_small_patch14_dinov2."""
    found = re.search(r"patch(\d+)", encoder)
    return int(found.group(1)) if found else _PATCH
