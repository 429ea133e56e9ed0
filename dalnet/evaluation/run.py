# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint: any sources under any protocols in one pass over a split."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_context, inference_on_dataset
from detectron2.utils import comm

from dalnet.checkpoint import checkpoint_hash, load_model
from dalnet.data import build_test_loader
from dalnet.data.labels import warn_of_unlabeled
from dalnet.errors import UsageError
from dalnet.modeling.meta_arch.segmentor import crf_parameters

from .counts import Counts
from .crf import CRFPool, choose_backend, pool_errors, require_workers
from .dump import Dump, image_name, require_own_names
from .evaluator import CountsEvaluator
from .progress import Progress
from .results import Result, summarize, write_results
from .scorer import ImageScorer
from .sources import Measurement, make_measurements

PROTOCOLS = ("ss", "ms+flip")

Record = dict[str, Any]


def evaluate(
    cfg: CfgNode,
    split: str,
    *,
    sources: Sequence[str] = (),
    protocols: Sequence[str] = PROTOCOLS,
    output: Path,
    dump: Path | None = None,
    workers: int | None = None,
) -> Result | None:
    """Evaluate ``MODEL.WEIGHTS``, write the results and return them.

    If an evaluation with the same settings and output was interrupted, it goes on where that one
    stopped. With several ranks each takes a part of the images.

    Args:
        cfg: frozen, of the model.
        split: name of a registered data set.
        sources, protocols: see :func:`dalnet.evaluation.sources.make_measurements`.
        output: folder of the results.
        dump: folder for predictions, or None.
        workers: CRF processes of this rank; where not given, one for each core that the rank has,
            or for about half of them if the network runs on the CPU too.

    Returns:
        On the main rank what ``results.json`` holds, see
        :func:`dalnet.evaluation.results.summarize`; else None.

    Raises:
        UsageError: settings, files or a machine that do not fit, or an interrupt.
    """
    require_workers(workers)
    records, model = DatasetCatalog.get(split), load_model(cfg)
    measurements = make_measurements(cfg, model.sources, sources, protocols)
    _check_split(split, records, measurements)
    cam, weights = model.cam_settings, checkpoint_hash(cfg.MODEL.WEIGHTS)
    counts = Counts(measurements, len(model.class_names), cam.background, cam.ignore_value)
    dumped = Dump(dump, measurements, split, model.class_names) if dump else None
    names = model.class_names, MetadataCatalog.get(split).stuff_classes
    with inference_context(model), _crf_pool(cfg, measurements, workers) as pool:
        settings = split, measurements, dump, cfg.dump(), weights, names, pool and pool.backend
        progress = Progress(output, records, *settings)
        made_with = progress.folder.name
        earlier = progress.load(counts, dumped.lost(records, made_with) if dumped else ())
        if dumped and comm.is_main_process():
            dumped.begin(made_with, is_new=not earlier.names)
        done = {*earlier.names}
        remaining = [record for record in records if progress.keys[image_name(record)] not in done]
        evaluator = CountsEvaluator(counts, pool, dumped, progress)
        total = _run(cfg, split, remaining, ImageScorer(model, measurements), evaluator)
    if not total:
        return None
    total.merge(earlier)
    assert len({*total.names}) == len(total.names) == len(records)
    result = summarize(cfg, split, model.class_names, total, weights)
    if dumped:
        dumped.write_lists(records)
    write_results(result, output)
    progress.discard()
    return result


def _run(
    cfg: CfgNode, split: str, records: list[Record], scorer: ImageScorer, evaluator: CountsEvaluator
) -> Counts | None:
    """Return the counts of these images on the main rank; if it fails, save what is counted."""
    if not records:
        return evaluator.evaluate()
    with pool_errors():
        try:
            loader = build_test_loader(cfg, split, records)
            return inference_on_dataset(scorer, loader, evaluator) or None
        except BaseException as error:
            # Only after a failure: after a success the main rank removes what has been saved.
            evaluator.save()
            if isinstance(error, KeyboardInterrupt):
                done = f"{len(evaluator.counts.names)} of {len(records)} images done"
                hint = "run the same command again, it goes on where it was"
                raise UsageError(f"interrupted with {done}", hint=hint) from None
            raise


def _check_split(split: str, records: Sequence[Record], measurements: list[Measurement]) -> None:
    """Refuse a split that cannot be evaluated; warn of images that cannot be scored.

    Raises:
        UsageError: no images, several of one name, or no labels where a source needs them.
    """
    require_own_names(split, records)
    if any("image_labels" not in record for record in records):
        hint = "name a data set of this project, or register yours as docs/data.md says"
        raise UsageError("its records have no image-level labels", split, hint)
    if without := sum("sem_seg_file_name" not in record for record in records):
        logging.getLogger(__name__).warning(
            f"{without} of the {len(records)} images of {split} have no mask: they are predicted, "
            "but not scored."
        )
    if needing := dict.fromkeys(one.source for one in measurements if one.needs_labels):
        if not any(record["image_labels"] for record in records):
            raise UsageError(
                f"no image has image-level labels, which {', '.join(needing)} need",
                where=split,
                hint="leave these sources out, or name another split",
            )
        warn_of_unlabeled(split, records)


@contextlib.contextmanager
def _crf_pool(
    cfg: CfgNode, measurements: Sequence[Measurement], workers: int | None
) -> Iterator[CRFPool | None]:
    """Start the CRF processes, if any, and meanwhile use fewer threads, to leave them cores."""
    if not any(one.protocol.crf for one in measurements):
        yield None
        return
    backend = choose_backend(cfg.TEST.CRF.BACKEND)
    cores = len(os.sched_getaffinity(0))
    if workers is None:
        workers = max(cores // comm.get_local_size(), 1)
        if cfg.MODEL.DEVICE == "cpu":
            workers = min(workers, workers - workers // 2 + 1)
    # Threads of the network that wait for each other lose more than they add.
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, cores - workers + 1)))
    try:
        with CRFPool(workers, crf_parameters(cfg), backend) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
