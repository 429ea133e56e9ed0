# SPDX-License-Identifier: Apache-2.0
"""The choice of a recipe for one's own images, from the hardware and the data.

The rules are those of docs/training.md, "Your own images": they are few, so that the log can say
in some lines what was chosen and why.
"""

from dataclasses import dataclass

# Small machines see each image about five times, as often as 1,500 iterations of 4 see 1,200.
_PASSES = 5
_CPU_ITERATIONS = (600, 4_000)
_GPU_ITERATIONS = (4_000, 20_000)
_LARGE_GPU_GIB, _MEDIUM_GPU_GIB = 16, 8
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
    num_images: int, num_classes: int, short_side: int, gpu_gib: float | None, align: bool = True
) -> Recipe:
    """Choose a recipe for one's own images.

    Args:
        num_images: of the training split.
        num_classes: C, without background.
        short_side: of a usual image, in pixels.
        gpu_gib: memory of the GPU; None for a CPU.
        align: whether there are texts to align with; without, the plain ViT with L_ptc.

    Returns:
        The recipe; its keys do not name the data set.
    """
    reasons = [f"{num_images} images of {num_classes} classes, about {short_side} px"]
    opts: dict[str, object] = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": num_classes + 1}
    if gpu_gib is None or gpu_gib < _MEDIUM_GPU_GIB:
        config, batch, low, high = "deit_tiny", 4, *_CPU_ITERATIONS
        place = "no GPU" if gpu_gib is None else f"a GPU of {gpu_gib:.0f} GiB"
        reasons.append(f"{place}: DeiT-Tiny, crops of 224 px, batch 4")
    else:
        config, batch, low, high = "deit_tiny", 8, *_GPU_ITERATIONS
        name, crop = ("base", 448) if gpu_gib >= _LARGE_GPU_GIB else ("small", 320)
        opts |= {
            "MODEL.VIT.NAME": f"deit_{name}_patch16_224",
            "INPUT.CROP.SIZE": [crop, crop],
            "INPUT.MULTI_CROP.LOCAL_SIZE": 96,
            "INPUT.MULTI_CROP.LOCAL_VIEWS": 8,
            "MODEL.SEM_SEG_HEAD.CONVS_DIM": 512,
            "MODEL.CAM.SCALES": (1.0, 0.5, 1.5),
            "DATALOADER.NUM_WORKERS": 4,
        }
        what = f"DeiT-{name.capitalize()}, crops of {crop} px, batch 8"
        reasons.append(f"a GPU of {gpu_gib:.0f} GiB: {what}")
    iterations = min(max(_PASSES * num_images // batch, low), high)
    opts |= {
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.WARMUP_ITERS": int(_WARMUP * iterations),
        "MODEL.DALNET.SEG_START_ITER": int(_SEG_START * iterations),
    }
    reasons.append(
        f"{iterations} iterations, {iterations * batch / num_images:.1f} passes over the images"
    )
    if short_side > 500:
        # A crop has all labels of its image, so it has to show a good part of it.
        opts["INPUT.MIN_SIZE_TRAIN"] = (375,)
        reasons.append("images are brought to 375 px on the short side before they are cropped")
    method = "dalnet_toco_weights" if align else "baseline_ptc"
    reasons.append("DALNet" if align else "the plain ViT with L_ptc, without texts")
    pairs = [str(part) for pair in opts.items() for part in pair]
    return Recipe(f"{config}/{method}", tuple(pairs), tuple(reasons))
