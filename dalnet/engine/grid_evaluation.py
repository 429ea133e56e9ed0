# SPDX-License-Identifier: Apache-2.0
"""Evaluating a trained model: any sources and protocols in one pass over a split."""

import contextlib
import hashlib
import json
import logging
import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from tqdm import tqdm

from dalnet.checkpoint import checkpoint_hash, load_model
from dalnet.data import build_test_loader
from dalnet.data.labels import warn_of_unlabeled
from dalnet.errors import UsageError
from dalnet.evaluation.crf_pool import CRFPool, choose_backend
from dalnet.evaluation.dump import Dump
from dalnet.evaluation.predictions import RowPredictor
from dalnet.evaluation.protocol import Row, make_rows
from dalnet.evaluation.results import (
    Result,
    absent_classes,
    format_table,
    summarise,
    write_results,
)
from dalnet.evaluation.streaming import Stream, image_name
from dalnet.evaluation.tally import Tally, load_tallies
from dalnet.evaluation.threshold_curve import thresholds_with
from dalnet.modeling.meta_arch.segmentor import crf_parameters

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GridJob:
    """What to evaluate.

    Attributes:
        split: name of a registered data set.
        sources, protocols: comma-separated, see ``dalnet.evaluation.protocol``.
        output: folder of the results.
        dump: folder for predictions, or None.
        workers: CRF processes of this rank, at least 1.
    """

    split: str
    sources: str
    protocols: str
    output: Path
    dump: Path | None
    workers: int


def evaluate_grid(cfg: CfgNode, job: GridJob) -> Result | None:
    """Evaluate ``MODEL.WEIGHTS``; goes on where an interrupted run of the same settings was.

    With several ranks each takes a part of the images.

    Args:
        cfg: frozen, of the model.
        job: what to evaluate.

    Returns:
        On the main rank what ``results.json`` holds, see ``dalnet.evaluation.results.summarise``;
        else None.

    Raises:
        UsageError: settings, files or a machine that do not fit, or an interrupt.
    """
    if job.workers < 1:
        raise UsageError(f"--workers is {job.workers}; the CRF needs at least 1.")
    rows = make_rows(cfg, job.sources, job.protocols)
    dicts = DatasetCatalog.get(job.split)
    _check_split(job.split, dicts, rows)
    backend = choose_backend(cfg.TEST.CRF.BACKEND) if any(r.protocol.crf for r in rows) else None
    class_names = MetadataCatalog.get(job.split).stuff_classes
    model = load_model(cfg)
    weights = checkpoint_hash(cfg.MODEL.WEIGHTS)
    threshold = cfg.MODEL.CAM.BACKGROUND_THRESHOLD
    tally = Tally(rows, len(class_names), thresholds_with(threshold))
    progress = _Progress(job, [cfg.dump(), weights, backend], tally)
    remaining = progress.resume(dicts)

    with contextlib.ExitStack() as stack:
        stack.enter_context(inference_context(model))
        pool = None
        if backend is not None and remaining:
            pool = stack.enter_context(CRFPool(job.workers, crf_parameters(cfg), backend))
            stack.enter_context(_threads_beside(job.workers))
        dump = Dump(job.dump) if job.dump is not None else None
        predictor = RowPredictor(model, rows)
        stream = Stream(predictor, progress.tally, pool, dump)
        _run(cfg, job, stream, remaining, progress)

    total = progress.merge()
    if total is None:
        return None
    result = summarise(cfg, job.split, class_names, total, weights)
    if dump is not None:
        _write_lists(dump, job.split, rows, dicts)
    _report(job, result)
    progress.forget()
    return result


def default_workers(cfg: CfgNode) -> int:
    """CRF processes of this rank: one a core; where the network needs cores too, fewer."""
    cores = max(len(os.sched_getaffinity(0)) // comm.get_local_size(), 1)
    return min(cores, cores - cores // 2 + 1) if cfg.MODEL.DEVICE == "cpu" else cores


@contextlib.contextmanager
def _threads_beside(workers: int) -> Iterator[None]:
    """Leave the workers their cores: threads that wait for each other lose more than they add."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, len(os.sched_getaffinity(0)) - workers + 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_split(split: str, dicts: list[dict[str, Any]], rows: Iterable[Row]) -> None:
    """Refuse what cannot be predicted; say what cannot be scored."""
    if not dicts:
        raise UsageError(f"{split} has no images; name another split.")
    (name, times), *_ = Counter(image_name(record) for record in dicts).most_common(1)
    if times > 1:
        # Finished images and dumped files go by this name.
        raise UsageError(
            f"{split} has {times} images whose file is called {name}; file names without suffix "
            "must differ: rename all but one."
        )
    masks = sum("sem_seg_file_name" in record for record in dicts)
    if masks < len(dicts):
        logger.warning(
            "%d of the %d images of %s have no mask: they are predicted, but not scored.",
            len(dicts) - masks,
            len(dicts),
            split,
        )
    if not any(row.needs_labels for row in rows):
        return
    if not any(record["image_labels"] for record in dicts):
        raise UsageError(
            f"{split} has no image-level labels, which CAMs and pseudo labels need; ask for "
            "--sources seg, or for another split."
        )
    warn_of_unlabeled(split, dicts)


def _write_lists(
    dump: Dump, split: str, rows: Iterable[Row], dicts: Iterable[dict[str, Any]]
) -> None:
    """List for each row the images that it has files of."""
    for row in rows:
        listed = (d for d in dicts if d["image_labels"] or not row.needs_labels)
        dump.write_list(row, split, map(image_name, listed))


def _run(
    cfg: CfgNode,
    job: GridJob,
    stream: Stream,
    remaining: list[dict[str, Any]],
    progress: "_Progress",
) -> None:
    """Send the remaining images of this rank through the stream, with a progress bar."""
    if not remaining:
        return
    loader = build_test_loader(cfg, job.split, remaining)
    start, before = time.monotonic(), len(stream.tally.done)
    bar = tqdm(loader, desc=job.split, unit="image", disable=not comm.is_main_process())
    try:
        with bar:
            stream.run((item for batch in bar for item in batch), progress.save)
    except KeyboardInterrupt:
        raise UsageError(
            f"interrupted; {len(stream.tally.done)} images are done and kept, the same command "
            "goes on from there."
        ) from None
    seconds, count = time.monotonic() - start, len(stream.tally.done) - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    logger.info(
        "%d images in %.1f s (%.2f images/s), peak memory of this process %.2f GB",
        count,
        seconds,
        count / seconds,
        peak,
    )


def _report(job: GridJob, result: Result) -> None:
    paths = write_results(result, job.output)
    header = f"{job.split}: {result['num_images']} images, {result['num_scored']} with a mask"
    if not result["rows"]:
        logger.warning("%s: nothing was scored.", header)
        return
    absent = absent_classes(result)
    if absent:
        logger.info("Left out of every mean, as no mask shows them: %s", ", ".join(absent))
    logger.info("%s; IoU in percent:\n%s", header, format_table(result))
    logger.info("Written: %s", ", ".join(map(str, paths)))


class _Progress:
    """Finished images on disk, in a folder named by everything that the results depend on."""

    def __init__(self, job: GridJob, settings: list[Any], empty: Tally) -> None:
        rows = [f"{row} {row.scales}" for row in empty.rows]
        dump = str(job.dump.resolve()) if job.dump is not None else None
        identity = json.dumps([job.split, rows, dump, settings])
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.folder = job.output / f".progress-{key}"
        self.tally = empty
        self._own = self.folder / f"rank{comm.get_rank()}.npz"
        self._earlier = self.folder / "earlier.npz"

    def resume(self, dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Take over what is finished, and return the images that are left."""
        earlier = load_tallies(self.tally, self.folder.glob("*.npz"))
        comm.synchronize()
        if comm.is_main_process() and earlier.done:
            logger.info("%d of %d images were done before.", len(earlier.done), len(dicts))
            earlier.save(self._earlier)
            for path in self.folder.glob("rank*.npz"):
                path.unlink()
        comm.synchronize()
        done = set(earlier.done)
        return [record for record in dicts if image_name(record) not in done]

    def save(self) -> None:
        """Write this rank's counts."""
        self.tally.save(self._own)

    def merge(self) -> Tally | None:
        """The counts of all ranks and earlier runs, on the main rank."""
        comm.synchronize()
        if not comm.is_main_process():
            return None
        return load_tallies(self.tally, self.folder.glob("*.npz"))

    def forget(self) -> None:
        """Remove the files, once the results are written."""
        shutil.rmtree(self.folder, ignore_errors=True)
