# SPDX-License-Identifier: Apache-2.0
"""How time and peak memory grow with image side, classes and batch.

    python -m benchmarks.scaling --subjects par contrast --sides 224 448

One number grows at a time, the others stay at the first of their list. Prints a Markdown table;
the order is the slope in a log-log plot: with the side, 2 is linear in the pixels.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from tabulate import tabulate
from torch import Tensor

from benchmarks.cases.train_step import make_model, make_step, step_config, step_inputs
from benchmarks.harness import best_seconds, timed
from benchmarks.inputs import photographs, smooth_cams, smooth_scores
from benchmarks.memory import cpu_peak_mb, cuda_peak_mb
from dalnet.engine.launch import one_sentence_errors
from dalnet.layers import PixelAdaptiveRefinement, bilateral_filter
from dalnet.modeling import DALNet
from dalnet.modeling.backbone.vit import TimmViT
from dalnet.modeling.losses import patch_token_contrast
from dalnet.modeling.pseudo_labels import refine

Call = Callable[[], object]
_PATCH = 16


def _images(side: int, batch: int, device: str) -> Tensor:
    return photographs(batch, side, side).to(device).float()


def build_par(side: int, classes: int, batch: int, device: str) -> Call:
    """Refinement of a map for each class."""
    images = _images(side, batch, device) / 255
    masks = smooth_scores(batch, classes, side, side).to(device)
    par = PixelAdaptiveRefinement().to(device)
    return lambda: par(images, masks)


def build_refine(side: int, classes: int, batch: int, device: str) -> Call:
    """Pseudo labels where up to three of the classes are shown."""
    images = _images(side, batch, device) / 255
    cams = smooth_cams(batch, classes, side, side).to(device)
    labels = (torch.arange(classes, device=device) < 3).float().expand(batch, -1)
    boxes = torch.tensor([[0, side, 0, side]] * batch, device=device)
    par = PixelAdaptiveRefinement().to(device)
    return lambda: refine(par, images, cams, labels, boxes, 0.25, 0.7)


def build_lattice(side: int, classes: int, batch: int, device: str) -> Call:
    """Building the lattice and filtering a map for each class, with its gradient."""
    images = _images(side, batch, device)
    values = smooth_scores(batch, classes, side, side).to(device).requires_grad_()

    def call() -> object:
        filtered = bilateral_filter(images, values, 15.0, 50.0)
        return torch.autograd.grad(filtered.sum(), values)

    return call


def build_contrast(side: int, classes: int, batch: int, device: str) -> Call:
    """Patch-token contrast of ViT-B's tokens, with its gradient."""
    grid = max(side // _PATCH, 1)
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(batch, 768, grid, grid, generator=rng).to(device).requires_grad_()
    labels = torch.randint(classes + 1, (batch, grid, grid), generator=rng).to(device)
    return lambda: torch.autograd.grad(patch_token_contrast(tokens, labels), tokens)


def build_encoder(side: int, classes: int, batch: int, device: str, name: str) -> Call:
    """The encoder with its gradient; random weights."""
    encoder = TimmViT(name=name, weights="", intermediate_block=10).to(device)
    images = _images(side, batch, device) / 127.5 - 1
    parameters = list(encoder.parameters())
    return lambda: torch.autograd.grad(encoder(images)["patch_tokens"].sum(), parameters)


def build_step(side: int, classes: int, batch: int, device: str, name: str) -> Call:
    """The whole training step of images that show one to three classes; random weights."""
    data = f"benchmark_{classes}_classes"
    MetadataCatalog.get(data).prompt_names = [f"thing {number}" for number in range(classes)]
    cfg = step_config(
        *(device, False, "MODEL.VIT.NAME", name, "INPUT.CROP.SIZE", [side, side]),
        *("DATASETS.TRAIN", (data,), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes + 1),
        # Above every class.
        *("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 65535),
    )
    items = step_inputs(cfg, batch, synthetic=False)
    return make_step(make_model(DALNet, cfg), items, torch.float32)


# What each subject's cost can depend on.
_ALL = ("side", "classes", "batch")
_AXES = {
    "par": _ALL,
    "refine": _ALL,
    "lattice": _ALL,
    "contrast": ("side", "batch"),
    "encoder": ("side", "batch"),
    "step": _ALL,
}


def build(subject: str, point: dict[str, int], device: str, vit: str) -> Call:
    """The call of ``subject`` at one point of the three axes; travels to other processes."""
    if subject in ("encoder", "step"):
        make = {"encoder": build_encoder, "step": build_step}[subject]
        return make(**point, device=device, name=vit)
    builders = {
        "par": build_par,
        "refine": build_refine,
        "lattice": build_lattice,
        "contrast": build_contrast,
    }
    return builders[subject](**point, device=device)


def order_of_growth(sizes: Sequence[int], costs: Sequence[float | None]) -> float | None:
    """Slope of log cost over log size; None with fewer than two costs above 0."""
    points = [(s, c) for s, c in zip(sizes, costs, strict=True) if c is not None and c > 0]
    if len({size for size, _ in points}) < 2:
        return None
    x, y = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])


def measure(make: Callable[[], Call], warm: Callable[[], Call], device: str, repeats: int):
    """Seconds and peak MB of one point."""
    if device == "cuda":
        call = make()
        peak = cuda_peak_mb(call)
    else:
        peak = cpu_peak_mb(make, warm)
        call = make()
    first, _ = timed(call, device)
    return best_seconds([call], [first], device, repeats)[0], peak


def grow(subject: str, axis: str, args: argparse.Namespace) -> list[object]:
    """One row: ``subject`` over the values of ``axis``."""
    lists = {"side": args.sides, "classes": args.classes, "batch": args.batches}
    base = {name: values[0] for name, values in lists.items()}
    tiny = {"side": 2 * _PATCH, "classes": 3, "batch": 1}
    warm = partial(build, subject, tiny, args.device, args.vit)
    seconds, peaks = [], []
    for value in lists[axis]:
        point = {**base, axis: value}
        print(f"{subject} at {point} ...", flush=True)
        make = partial(build, subject, point, args.device, args.vit)
        one, peak = measure(make, warm, args.device, args.repeats)
        seconds.append(one)
        peaks.append(peak)
    sizes = lists[axis]
    orders = [order_of_growth(sizes, costs) for costs in (seconds, peaks)]
    columns = [
        sizes,
        [f"{s:.3g}" for s in seconds],
        ["-" if p is None else f"{p:.0f}" for p in peaks],
    ]
    return [subject, axis, *(", ".join(map(str, column)) for column in columns), *orders]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--subjects", nargs="+", choices=_AXES, default=list(_AXES))
    parser.add_argument("--axes", nargs="+", choices=_ALL, default=list(_ALL))
    parser.add_argument("--sides", nargs="+", type=int, default=[224, 448, 672, 896])
    parser.add_argument("--classes", nargs="+", type=int, default=[20, 80, 1000])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--vit", default="vit_base_patch16_224", help="timm's name of the encoder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=2, help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    rows = [
        grow(subject, axis, args)
        for subject in args.subjects
        for axis in _AXES[subject]
        if axis in args.axes
    ]
    headers = ["subject", "grows", "sizes", "seconds", "peak MB", "order of time", "of memory"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=".2f", missingval="-"))


if __name__ == "__main__":
    with one_sentence_errors():
        main()
