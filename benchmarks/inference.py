# SPDX-License-Identifier: Apache-2.0
"""Images a second of DALNet with random weights, by what evaluation adds to the single pass.

python -m benchmarks.inference --config-file configs/voc_dalnet.yaml --images 5
"""

import argparse
from collections.abc import Sequence

import torch
from dalnet.modeling.settings import InferenceSettings
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from tabulate import tabulate

import dalnet.data  # noqa: F401  registers the data sets, which know the prompts
import dalnet.modeling  # noqa: F401  registers the network's parts
from benchmarks.harness import timed
from benchmarks.inputs import photographs
from dalnet.config import add_dalnet_config
from dalnet.engine.launch import one_sentence_errors
from dalnet.engine.setup import merge_config, use_cpu_without_cuda

# Each as options of the config.
_WAYS = {
    "single scale": (),
    "multi-scale + mirror": ("TEST.MULTI_SCALE.ENABLED", True),
    "multi-scale + mirror + CRF": ("TEST.MULTI_SCALE.ENABLED", True, "TEST.CRF.ENABLED", True),
}


def make_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """The config without any weights to load."""
    cfg = get_cfg()
    add_dalnet_config(cfg)
    merge_config(cfg, config_file, opts)
    cfg.MODEL.VIT.WEIGHTS = cfg.MODEL.VIT.STEM_WEIGHTS = ""
    cfg.MODEL.CLIP.SOURCE = "untrained"
    use_cpu_without_cuda(cfg)
    return cfg


def images_per_second(model: torch.nn.Module, items: list[dict]) -> float:
    """After one image to warm up."""
    model(items[:1])
    seconds, _ = timed(lambda: model(items), model.device.type)
    return len(items) / seconds


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="configs/voc_dalnet.yaml")
    parser.add_argument("--images", type=int, default=5, help="timed; default: %(default)s")
    parser.add_argument("--size", nargs=2, type=int, default=(375, 500), help="height and width")
    parser.add_argument("opts", nargs="*", help="KEY VALUE ... of the config")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = make_config(args.config_file, args.opts)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    height, width = args.size
    items = [
        {"image": image, "height": height, "width": width}
        for image in photographs(args.images, height, width)
    ]
    rows = []
    for way, options in _WAYS.items():
        variant = cfg.clone()
        variant.merge_from_list(list(options))
        model.inference_settings = InferenceSettings.from_config(variant)
        rows.append([way, images_per_second(model, items)])
    print(f"{args.images} images of {height}x{width}, {cfg.MODEL.VIT.NAME}, {cfg.MODEL.DEVICE}")
    print(tabulate(rows, ["evaluation", "images/s"], floatfmt=".3g"))


if __name__ == "__main__":
    with one_sentence_errors():
        main()
