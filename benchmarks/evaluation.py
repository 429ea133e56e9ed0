# SPDX-License-Identifier: Apache-2.0
"""Streaming evaluation against Detectron2's loop, CRF processes against one, memory over images.

    python benchmarks/evaluation.py --config-file configs/voc_dalnet_tiny.yaml \\
        --split voc_2012_sem_seg_train_aug --images 1000 MODEL.WEIGHTS model_final.pth
"""

import argparse
import os
import resource
import tempfile
import time
from itertools import chain, islice
from pathlib import Path

import torch
from dalnet.evaluation.crf_pool import CRFPool, choose_backend, result_of
from dalnet.evaluation.predictions import RowPredictor
from dalnet.evaluation.protocol import make_rows
from dalnet.evaluation.streaming import Stream
from dalnet.evaluation.tally import Tally
from dalnet.evaluation.threshold_curve import thresholds_with
from dalnet.modeling.settings import crf_parameters
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser
from detectron2.evaluation import SemSegEvaluator, inference_context, inference_on_dataset

from dalnet.data import build_test_loader
from dalnet.engine import run, setup
from dalnet.engine.trainer import load_model


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def make_stream(
    cfg: CfgNode, model: torch.nn.Module, split: str, protocols: str, pool: CRFPool | None
) -> Stream:
    rows = make_rows(cfg, "seg", protocols)
    classes = len(MetadataCatalog.get(split).stuff_classes)
    return Stream(
        RowPredictor(model, rows, 0.5), Tally(rows, classes, thresholds_with(0.5)), pool, None
    )


def compare_loops(cfg: CfgNode, model: torch.nn.Module, split: str, dicts: list[dict]) -> None:
    """The head alone, single scale: the same images through both loops, in turn, twice."""
    seconds = {"detectron2": [], "streaming": []}
    for _ in range(2):
        start = time.perf_counter()
        evaluator = SemSegEvaluator(split, distributed=False)
        inference_on_dataset(model, build_test_loader(cfg, split, dicts), evaluator)
        seconds["detectron2"].append(time.perf_counter() - start)
        start = time.perf_counter()
        stream = make_stream(cfg, model, split, "ss", None)
        loader = build_test_loader(cfg, split, dicts)
        stream.run(chain.from_iterable(loader), lambda: None)
        seconds["streaming"].append(time.perf_counter() - start)
    theirs, ours = min(seconds["detectron2"]), min(seconds["streaming"])
    print(
        f"loop, {len(dicts)} images: inference_on_dataset {theirs:.1f} s, streaming {ours:.1f} s, "
        f"ratio {theirs / ours:.2f}"
    )


def compare_workers(cfg: CfgNode, model: torch.nn.Module, split: str, dicts: list[dict]) -> None:
    """CRF throughput of one process and of one a core, on the same jobs."""
    cores = len(os.sched_getaffinity(0))
    predictor = make_stream(cfg, model, split, "ss+crf", None).predictor
    inputs = chain.from_iterable(build_test_loader(cfg, split, dicts))
    jobs = [predictor(item)[0].crf for item in inputs]
    backend, rates = choose_backend(cfg.TEST.CRF.BACKEND), {}
    for workers in (1, cores):
        with CRFPool(workers, crf_parameters(cfg), backend) as pool:
            for future in [pool.submit([job]) for job in jobs[:workers]]:
                result_of(future)  # the processes have started
            start = time.perf_counter()
            for future in [pool.submit([job]) for job in jobs]:
                result_of(future)
            rates[workers] = len(jobs) / (time.perf_counter() - start)
    ratio = rates[cores] / rates[1]
    print(
        f"CRF ({backend}), {len(jobs)} images: 1 process {rates[1]:.2f} images/s, {cores} "
        f"processes {rates[cores]:.2f} images/s, {ratio / cores:.2f} of {cores} times"
    )


def memory_over_images(cfg: CfgNode, model: torch.nn.Module, split: str, dicts: list[dict]) -> None:
    """Peak memory of this process after the first ten images, and on the way to all of them."""
    cores = len(os.sched_getaffinity(0))
    with CRFPool(cores, crf_parameters(cfg), choose_backend(cfg.TEST.CRF.BACKEND)) as pool:
        stream = make_stream(cfg, model, split, "ss,ss+crf", pool)
        inputs = chain.from_iterable(build_test_loader(cfg, split, dicts))
        stream.run(islice(inputs, 10), lambda: None)
        peaks, start = {10: peak_mb()}, time.perf_counter()
        step = max(1, (len(dicts) - 10) // 8)
        for done in range(10, len(dicts), step):
            stream.run(islice(inputs, step), lambda: None)
            peaks[min(done + step, len(dicts))] = peak_mb()
        rate = (len(dicts) - 10) / (time.perf_counter() - start)
    curve = ", ".join(f"{mb:.0f} MB after {count}" for count, mb in peaks.items())
    print(f"memory: {curve} images; {rate:.2f} images/s with CRF")


def main(args: argparse.Namespace) -> None:
    def adjust(cfg: CfgNode) -> None:
        cfg.DATASETS.TEST, cfg.OUTPUT_DIR = (args.split,), args.scratch
        # Both loops do the same work.
        cfg.TEST.EVAL_CAM = False

    cfg = setup(args, adjust)
    model = load_model(cfg)
    dicts = DatasetCatalog.get(args.split)[: args.images]
    with inference_context(model), torch.no_grad():
        compare_loops(cfg, model, args.split, dicts[:100])
        compare_workers(cfg, model, args.split, dicts[:40])
        memory_over_images(cfg, model, args.split, dicts)


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument("--split", required=True)
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    arguments.eval_only = True
    with tempfile.TemporaryDirectory() as folder:
        arguments.scratch = str(Path(folder))
        run(main, arguments)
