# SPDX-License-Identifier: Apache-2.0
"""Part 6: DALNet on real images for as long as the time lasts, and its mIoU.

The images and the encoder are those of ``python -m benchmarks.gpu pack``; tiny sizes take generated
images and random weights, which go through the same packing.
"""

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import timm
from detectron2.config import CfgNode
from safetensors.torch import save_file

from benchmarks.compare import Row
from benchmarks.gpu.generated import write_voc
from benchmarks.gpu.pack import VAL, make_pack
from benchmarks.gpu.part import Measurement, NotRun, Setting
from benchmarks.network import make_config
from dalnet.engine import Trainer

_ENCODER = "deit_tiny_patch16_224"
_PROBE, _PROBE_TINY = 30, 4  # iterations that tell how long one takes
_MOST = 3000  # iterations
_EVALUATION_S = 25.0  # what is kept for evaluation


class Enough(BaseException):
    """The time for training is over; no error, which Detectron2 would log."""


class TimedTrainer(Trainer):
    """Stops before the last iteration where the time is up, at ``until`` of ``time.time()``."""

    until = math.inf

    def after_step(self) -> None:
        """Run the hooks, then stop if the time is up."""
        super().after_step()
        if time.time() > self.until:
            raise Enough


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield training and evaluation, which uses the model of the former."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(setting, Path(scratch))
        yield Measurement("train", run.train)
        yield Measurement("evaluate", run.evaluate)


class Run:
    """One short training and its evaluation.

    Args:
        setting: device, sizes, pack and time.
        scratch: an empty folder.
    """

    def __init__(self, setting: Setting, scratch: Path) -> None:
        self.setting = setting
        self.scratch = scratch
        self.until = setting.until if setting.tiny else setting.until - _EVALUATION_S
        self._trainer: TimedTrainer | None = None

    def train(self) -> Row:
        """Train for as many iterations as the time that is left allows."""
        pack = self._find_pack()
        os.environ["DETECTRON2_DATASETS"] = str(pack)
        # A first run of few iterations tells how many the time allows: the learning rate falls
        # over a number of iterations, not over a time.
        iterations = _PROBE_TINY if self.setting.tiny else _PROBE
        probe = self._run(pack, iterations)
        if not self.setting.tiny:
            seconds = probe.storage.history("time").median(_PROBE // 2)
            iterations = min(int(0.9 * (self.until - time.time()) / seconds), _MOST)
        del probe
        if iterations < 1:
            raise NotRun("too little time was left")
        trainer = self._trainer = self._run(pack, iterations)
        losses = trainer.storage.history("total_loss")
        done = len(losses.values())
        # Detectron2's timer leaves out the first iterations, in which the workers start.
        seconds = trainer.storage.history("time").global_avg()
        waits = trainer.storage.history("data_time").avg(max(done - 3, 1))
        return {
            "seconds": seconds,
            "images_per_second": trainer.cfg.SOLVER.IMS_PER_BATCH / seconds,
            "iterations": done,
            "planned_iterations": iterations,
            "waits_for_data": waits / seconds,
            "first_loss": losses.values()[0][0],
            "last_loss": losses.median(20),
        }

    def evaluate(self) -> Row:
        """Return the mIoU of head, CAMs and pseudo labels on the val images, in percent."""
        if self._trainer is None:
            raise NotRun("there is no trained model")
        cfg = self._trainer.cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TEST = (VAL,)
        results = Trainer.test(cfg, self._trainer.model)
        return {f"miou_{source}": values["mIoU"] for source, values in results.items()}

    def _run(self, pack: Path, iterations: int) -> TimedTrainer:
        trainer = TimedTrainer(self._config(pack, iterations))
        trainer.until = self.until
        trainer.resume_or_load(resume=False)
        with contextlib.suppress(Enough):
            trainer.train()
        return trainer

    def _config(self, pack: Path, iterations: int) -> CfgNode:
        output = self.scratch / "output"
        output.mkdir(exist_ok=True)
        (weights,) = pack.glob("*.safetensors")
        workers = max(min(12, len(os.sched_getaffinity(0)) - 2), 0)
        options = (
            *("MODEL.VIT.NAME", weights.stem, "MODEL.VIT.WEIGHTS", str(weights)),
            # The images of the pack are smaller than those that the config was written for.
            *("INPUT.RESCALE_RANGE", (0.5, 1.5), "INPUT.MIN_SIZE_TEST", 0),
            *("SOLVER.BASE_LR", 1e-4, "SOLVER.HEAD_LR_MULTIPLIER", 10.0),
            *("SOLVER.IMS_PER_BATCH", 16, "DATALOADER.NUM_WORKERS", workers),
            *("SOLVER.MAX_ITER", iterations, "SOLVER.WARMUP_ITERS", iterations // 10),
            *("MODEL.DALNET.SEG_START_ITER", iterations // 4, "VIS_PERIOD", 0, "SEED", 1),
            # Evaluation is a measurement of its own.
            *("DATASETS.TEST", (), "OUTPUT_DIR", str(output)),
        )
        tiny = ("INPUT.CROP.SIZE", [64, 64], "INPUT.MULTI_CROP.LOCAL_SIZE", 32)
        tiny = (*tiny, "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 2)
        tiny = tiny if self.setting.tiny else ()
        return make_config("voc_dalnet_tiny", self.setting.device, False, *options, *tiny)

    def _find_pack(self) -> Path:
        """Return the pack, in tiny sizes one that is made here."""
        if not self.setting.tiny:
            if not (self.setting.pack / "VOC2012").is_dir():
                raise NotRun(f"no folder {self.setting.pack}: make it by 'benchmarks.gpu pack'")
            return self.setting.pack
        write_voc(self.scratch, train=6, val=2)
        os.environ["DETECTRON2_DATASETS"] = str(self.scratch)
        weights = self.scratch / f"{_ENCODER}.safetensors"
        save_file(timm.create_model(_ENCODER).state_dict(), weights)
        make_pack(self.scratch / "pack", weights, train=6, val=2)
        return self.scratch / "pack"
