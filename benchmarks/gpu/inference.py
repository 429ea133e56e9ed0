# SPDX-License-Identifier: Apache-2.0
"""Part 5: images a second of ``configs/voc_dalnet.yaml``, by what evaluation adds to one pass."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.compare import Row, seconds
from benchmarks.gpu.part import Measurement, Setting
from benchmarks.inputs import sample_images
from benchmarks.network import make_config, make_model
from dalnet.modeling import DALNet
from dalnet.modeling.meta_arch.segmentor import InferenceSettings

# Each as options of the config.
_WAYS = {
    "single scale": (),
    "multi-scale + flip": ("TEST.MULTI_SCALE.ENABLED", True),
    "multi-scale + flip + CRF": ("TEST.MULTI_SCALE.ENABLED", True, "TEST.CRF.ENABLED", True),
}


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield a measurement for each way and precision."""
    model = make_model(DALNet, make_config("voc_dalnet", setting.device, setting.tiny)).eval()
    count, height, width = (2, 40, 52) if setting.tiny else (8, 375, 500)
    items = [
        {"image": image, "height": height, "width": width}
        for image in sample_images(count, height, width, setting.tiny)
    ]
    for way, options in _WAYS.items():
        for dtype, precision in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
            run = partial(measure, setting, model, items, options, dtype)
            yield Measurement(f"{way}, {precision}", run)


def measure(
    setting: Setting,
    model: DALNet,
    items: list[dict],
    options: tuple,
    dtype: torch.dtype,
) -> Row:
    """Time ``model`` on ``items``, one image after the other, as evaluation does."""
    cfg = make_config("voc_dalnet", setting.device, setting.tiny, *options)
    model.inference_settings = InferenceSettings.from_config(cfg)

    def infer() -> None:
        with torch.autocast(setting.device, dtype=dtype, enabled=dtype != torch.float32):
            model(items)

    infer()
    taken = seconds(infer, least=0.1 if setting.tiny else 1.0) / len(items)
    return {"seconds": taken, "images_per_second": 1 / taken}
