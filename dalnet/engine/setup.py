# SPDX-License-Identifier: Apache-2.0
"""Check a config, freeze it, and make its output folder and log."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from dalnet.checkpoint import expect_checkpoint
from dalnet.checkpoint.history import has_saved
from dalnet.config import fill_class_names, installed_systems
from dalnet.config.validation import (
    check_values,
    use_cpu_without_cuda,
    warn_of_slow_precision,
    warn_of_untrained_parts,
)
from dalnet.data import check_datasets
from dalnet.errors import UsageError

from .run_folder import make_writable, require_unused
from .run_record import add_start, read_record

logger = logging.getLogger("dalnet.setup")


def setup(
    cfg: CfgNode,
    *,
    eval_only: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    prepare: Callable[[], None] | None = None,
) -> CfgNode:
    """Check a config, freeze it, make its output folder and start logging.

    Args:
        cfg: of :func:`dalnet.config.load_config`; changed in place.
        eval_only: only a checkpoint is to be used, nothing trained.
        resume: a training goes on where it was interrupted.
        overwrite: another training in the output folder is removed; not with ``resume``.
        prepare: writes into the output folder, which machines share, the data set that the config
            names there. It is called in the main process, after all checks that do without it.

    Returns:
        The config. Without CUDA its device is the CPU.

    Raises:
        UsageError: the config or the machine cannot do what is asked.
    """
    if eval_only or (resume and has_saved(Path(cfg.OUTPUT_DIR))):
        expect_checkpoint(cfg)
    elif cfg.MODEL.CLIP.SOURCE == "checkpoint" and not cfg.MODEL.WEIGHTS:
        what = 'it is "checkpoint", but MODEL.WEIGHTS names none to take the text embeddings from'
        hint = 'train with "tower", "embeddings", "untrained" or "codes"'
        raise UsageError(what, "MODEL.CLIP.SOURCE", hint)
    no_cuda = use_cpu_without_cuda(cfg)
    _check_processes(cfg, eval_only)
    if not eval_only:
        require_unused(cfg.OUTPUT_DIR, resume, overwrite)
    if prepare is not None:
        check_values(cfg)  # what is refused changes nothing in the folder
        if comm.is_main_process():
            prepare()
        comm.synchronize()
    check_config(cfg, eval_only)
    _use_gpu(cfg)
    fill_class_names(cfg)
    make_writable(cfg.OUTPUT_DIR)
    if not eval_only:
        _choose_seed(cfg, resume)
    cfg.freeze()
    _end_earlier_logs()
    default_setup(cfg, argparse.Namespace(eval_only=eval_only, command=sys.argv))
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="dalnet")
    if no_cuda:
        logger.info("CUDA is not available: running on the CPU (MODEL.DEVICE cpu, no AMP).")
    if not eval_only:
        warn_of_untrained_parts(cfg)
        warn_of_slow_precision(cfg)
    if not eval_only and comm.is_main_process():
        add_start(cfg, comm.get_world_size(), resume)
    return cfg


def _check_processes(cfg: CfgNode, eval_only: bool) -> None:
    """Refuse a batch size that the processes cannot divide, and a device that is not theirs."""
    processes = comm.get_world_size()
    parts = processes * cfg.SOLVER.ACCUMULATION_STEPS
    if not eval_only and cfg.SOLVER.IMS_PER_BATCH % max(parts, 1):
        raise UsageError(
            f"it is {cfg.SOLVER.IMS_PER_BATCH} in all, which {processes} processes with "
            f"SOLVER.ACCUMULATION_STEPS {cfg.SOLVER.ACCUMULATION_STEPS} cannot share evenly",
            "SOLVER.IMS_PER_BATCH",
            f"make it a multiple of {parts}",
        )
    if processes == 1:
        return
    is_gloo = dist.get_backend() == "gloo"
    if is_gloo and cfg.MODEL.DEVICE != "cpu":
        what = f"it is {cfg.MODEL.DEVICE!r}, but several processes that do not have a GPU each"
        raise UsageError(f"{what} train on the CPU", "MODEL.DEVICE", "set it to 'cpu'")
    if not is_gloo and cfg.MODEL.DEVICE != "cuda":
        what = f"it is {cfg.MODEL.DEVICE!r}, but each of several processes has a GPU of its own"
        hint = "set it to 'cuda', or set CUDA_VISIBLE_DEVICES to '' to use the CPU"
        raise UsageError(what, "MODEL.DEVICE", hint)


def _use_gpu(cfg: CfgNode) -> None:
    """Set the current GPU of this process to the one that ``MODEL.DEVICE`` names, as ``cuda:1``.

    A checkpoint holds the random numbers of the current GPU, and its memory is what is reported.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _end_earlier_logs() -> None:
    """Remove the log handlers of an earlier set-up, which would write each line twice."""
    for name in ("detectron2", "fvcore", "dalnet"):
        log = logging.getLogger(name)
        log.handlers = [h for h in log.handlers if type(h) is not logging.StreamHandler]
    setup_logger.cache_clear()  # of functools: it adds a log of the same folder once only


def _choose_seed(cfg: CfgNode, resume: bool) -> None:
    """Draw a seed where ``SEED`` is negative; a run that goes on keeps the one it began with.

    With it the order of the images and their views can be had again.
    """
    starts = read_record(Path(cfg.OUTPUT_DIR)) if resume and comm.is_main_process() else []
    # The first process's answer: another one may see an older state of a shared folder.
    began = comm.all_gather(starts[0].get("seed") if starts else None)[0]
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed() if began is None else began
    elif began not in (None, cfg.SEED):
        what = f"it is {cfg.SEED}, but the run in {cfg.OUTPUT_DIR} began with {began}"
        raise UsageError(what, "SEED", "keep it, so that the run goes on in its order of images")


def check_config(cfg: CfgNode, eval_only: bool = False) -> None:
    """Refuse what would only fail, or silently go wrong, later.

    Raises:
        UsageError: unknown names, data sets that do not fit, impossible values.
    """
    # A checkpoint's config names its classes: the data that it was trained on need not be here.
    # A loader of a system's own checks what it reads.
    system = installed_systems().get(cfg.MODEL.META_ARCHITECTURE)
    brings_loader = system is not None and system.build_train_loader is not None
    if not (brings_loader or (eval_only and cfg.MODEL.CLASS_NAMES)):
        check_datasets(cfg, cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    for name in cfg.DATASETS.TEST:
        check_datasets(cfg, [name], "DATASETS.TEST", any_order=True)
    value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        ignored = MetadataCatalog.get(name).get("ignore_label", value)
        if value != ignored:
            what = f"it is {value}, but masks of {name} mark ignored pixels with {ignored}"
            raise UsageError(what, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", f"set it to {ignored}")
    check_values(cfg)
