# SPDX-License-Identifier: Apache-2.0
"""Where a training step's time goes, by part and by operator, of ours and the published form.

python -m benchmarks.step_profile --form plain --images 2
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps

import torch
from tabulate import tabulate
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases.train_step import make_model, make_step, step_config, step_inputs
from benchmarks.harness import best_seconds, timed
from benchmarks.plain.cam import materialised_attention
from benchmarks.plain.train_step import PublishedDALNet
from dalnet.engine.launch import one_sentence_errors
from dalnet.modeling import DALNet
from dalnet.modeling.multi_scale import Passes

_FORMS = {"ours": DALNet, "plain": PublishedDALNet}
PARTS = (
    *("encoder, training pass", "encoder, CAM passes", "CAMs from the maps", "pseudo labels"),
    *("L_ptc", "L_seg and L_reg", "the rest of the forward pass", "backward pass", "AdamW"),
)


def label_parts(model: DALNet) -> None:
    """Let the profiler see the parts of ``model`` by name."""

    def label(owner: object, method: str, name: Callable[[], str]) -> None:
        call = getattr(owner, method)

        @wraps(call)
        def labelled(*args: object, **kwargs: object) -> object:
            with record_function(name()):
                return call(*args, **kwargs)

        setattr(owner, method, labelled)

    def labelled_passes(images: torch.Tensor) -> Passes:
        passes = make_passes(images)
        label(passes, "cams", lambda: PARTS[2])
        return passes

    label(model.backbone, "forward", lambda: PARTS[0 if torch.is_grad_enabled() else 1])
    # Ours computes them when they are read, the published form at once.
    label(model, "_multi_scale_cams", lambda: PARTS[2])
    make_passes, model._passes = model._passes, labelled_passes
    label(model, "pseudo_labels", lambda: PARTS[3])
    label(model.criterion, "contrast", lambda: PARTS[4])
    label(model.criterion, "segmentation", lambda: PARTS[5])


def seconds_by_part(events: Sequence[FunctionEvent]) -> dict[str, float]:
    """Wall-clock seconds of the main thread in each part, without the parts inside it."""
    found = sorted(
        (event for event in events if event.name in PARTS),
        key=lambda event: (event.time_range.start, -event.time_range.end),
    )
    seconds, open_parts = defaultdict(float), []
    for event in found:
        span = event.time_range
        while open_parts and open_parts[-1].time_range.end <= span.start:
            open_parts.pop()
        if open_parts:
            seconds[open_parts[-1].name] -= span.elapsed_us() / 1e6
        seconds[event.name] += span.elapsed_us() / 1e6
        open_parts.append(event)
    return dict(seconds)


def count_flops(step: Callable[[], object], model: DALNet) -> float:
    """Floating-point operations of the matrix products in one step, attention included."""
    # Of the attention on a CPU only the plain form is counted, which does the same products.
    attention = materialised_attention(model.backbone)
    with attention, FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def matrix_rate(device: str, dtype: torch.dtype, side: int = 3072) -> float:
    """Floating-point operations a second of a large matrix product: the best of five."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    calls = [lambda: left @ right]
    first = [timed(calls[0], device)[0]]
    return 2.0 * side**3 / best_seconds(calls, first, device, repeats=5)[0]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--form", choices=_FORMS, default="ours")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=int, default=4, help="in the batch; default: %(default)s")
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    parser.add_argument("--operators", type=int, default=8, help="rows; default: %(default)s")
    parser.add_argument("--small", action="store_true", help="a tiny network and tiny photographs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = step_config(args.device, args.small)
    model = make_model(_FORMS[args.form], cfg)
    label_parts(model)
    items = step_inputs(cfg, args.images, args.small)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    step = make_step(model, items, dtype)
    flops = count_flops(step, model)
    plain_seconds, _ = timed(step, args.device)
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if args.device == "cuda" else []
    with profile(activities=activities) as profiler:
        step()
        if args.device == "cuda":
            torch.cuda.synchronize()
    seconds = seconds_by_part(profiler.events())
    total = sum(seconds.values())
    rows = [[name, seconds.get(name, 0.0), 100 * seconds.get(name, 0.0) / total] for name in PARTS]
    print(tabulate([*rows, ["sum", total, 100.0]], ["part", "s", "%"], "github", floatfmt=".2f"))
    rate = flops / plain_seconds
    peak = matrix_rate(args.device, dtype)
    print(
        f"\nwithout the profiler {plain_seconds:.2f} s: {flops / 1e12:.2f} TFLOP of matrix "
        f"products, {rate / 1e12:.3f} TFLOP/s, {rate / peak:.0%} of a large product's "
        f"{peak / 1e12:.3f}\n"
    )
    # On a GPU the parts above show when work was asked for, the operators when it was done.
    key = f"self_{args.device}_time_total".replace("cuda", "device")
    print(profiler.key_averages().table(key, args.operators, max_name_column_width=40))


if __name__ == "__main__":
    with one_sentence_errors():
        main()
