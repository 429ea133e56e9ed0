# SPDX-License-Identifier: Apache-2.0
"""Part 4: how long the training step waits for data, by batch and number of workers.

The step is ``configs/voc_dalnet.yaml`` in bfloat16 over the real mapper and loader; the images are
generated JPEGs of VOC's size.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.compare import Row, synchronize
from benchmarks.gpu.generated import write_voc
from benchmarks.gpu.part import Measurement, Setting
from benchmarks.network import make_config, make_model, make_step
from dalnet.data import build_train_loader
from dalnet.modeling import DALNet


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield a measurement for each batch and number of workers, and the loader alone."""
    small, large = (1, 2) if setting.tiny else (4, 16)
    few, many = (1, 2) if setting.tiny else (4, 12)
    with tempfile.TemporaryDirectory() as folder:
        write_voc(Path(folder), train=8 if setting.tiny else 64, val=1)
        os.environ["DETECTRON2_DATASETS"] = folder
        model = make_model(DALNet, make_config("voc_dalnet", setting.device, setting.tiny))
        step = make_step(model, torch.bfloat16)
        runs = [(small, few, step), (small, many, step), (large, many, step)]
        runs.append((large, many, None))
        for done, (batch, workers, call) in enumerate(runs):
            share = max(setting.left(), 0) / (len(runs) - done) - 1
            name = f"batch {batch}, {workers} workers" + ("" if call else ", loading alone")
            run = partial(measure, setting, batch, workers, call, 1 if setting.tiny else share)
            yield Measurement(name, run)


def measure(
    setting: Setting,
    batch: int,
    workers: int,
    step: Callable[[list[dict]], object] | None,
    limit: float,
) -> Row:
    """Train for ``limit`` seconds, starting of workers included, and measure the waits for data.

    Args:
        setting: device and sizes.
        batch: images of a step.
        workers: processes that load.
        step: what is done with each batch; None for nothing.
        limit: seconds.

    Returns:
        Seconds of a step, images a second, and the fraction of the time in which the GPU waited.
    """
    until = time.perf_counter() + limit
    options = ("SOLVER.IMS_PER_BATCH", batch, "DATALOADER.NUM_WORKERS", workers)
    cfg = make_config("voc_dalnet", setting.device, setting.tiny, *options)
    # The batches that had time to be loaded before the first step say nothing about the rest.
    skipped = 2 * workers + 1
    waited, took = [], []
    loader = iter(build_train_loader(cfg))
    for number in itertools.count():
        start = time.perf_counter()
        items = next(loader)
        got = time.perf_counter()
        if step is not None:
            step(items)
            synchronize()
        if number >= skipped:
            waited.append(got - start)
            took.append(time.perf_counter() - start)
        if took and time.perf_counter() > until:
            break
    return {
        "seconds": sum(took) / len(took),
        "images_per_second": batch * len(took) / sum(took),
        "steps": len(took),
        "waits_for_data": sum(waited) / sum(took) if step is not None else None,
    }
