# SPDX-License-Identifier: Apache-2.0
"""Part 3: the training step of ``configs/voc_dalnet.yaml``, all views, by precision and batch.

Utilization is the rate of the step's matrix products over that of one large bfloat16 product,
measured here first. They are counted in ours, whatever the form that is timed.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.compare import Row, seconds, synchronize
from benchmarks.gpu.part import Measurement, Setting
from benchmarks.gpu.trace import HostWaits, profile_step
from benchmarks.network import make_config, make_items, make_model, make_step
from benchmarks.plain.cam import materialized_attention
from benchmarks.plain.train_step import PublishedDALNet
from dalnet.modeling import DALNet

_FP32, _BF16 = torch.float32, torch.bfloat16
# Compiling, and taking the CUDA graphs, at most.
_COMPILE_S = 90


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield the measurements, those that compile last."""
    small, large = (1, 2) if setting.tiny else (4, 16)
    steps = Steps(setting)
    yield Measurement("ceilings", steps.measure_ceilings)
    yield Measurement("products", partial(steps.count_products, small))
    yield Measurement(f"bf16, batch {small}", partial(steps.measure, DALNet, small, _BF16))
    yield Measurement("host waits", partial(steps.count_waits, small))
    for batch in (small, large):
        if batch == large:
            yield Measurement(f"bf16, batch {batch}", partial(steps.measure, DALNet, batch, _BF16))
        yield Measurement(f"profile, batch {batch}", partial(steps.profile, batch))
        yield Measurement(f"fp32, batch {batch}", partial(steps.measure, DALNet, batch, _FP32))
    for batch in (small, large):
        run = partial(steps.measure, PublishedDALNet, batch, _FP32)
        yield Measurement(f"plain fp32, batch {batch}", run)
    for mode, name in (("default", "compiled"), ("reduce-overhead", "CUDA graphs")):
        for batch in (small, large):
            run = partial(steps.measure, DALNet, batch, _BF16, mode)
            yield Measurement(f"bf16, {name}, batch {batch}", run, _COMPILE_S)


class Steps:
    """Training steps of one model at a time, and what they are compared with."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.bf16_rate: float | None = None  # operations a second of a large product
        self.operations: float | None = None  # of one image's matrix products in a step
        self._made: tuple | None = None
        self._model: DALNet | None = None

    def measure_ceilings(self) -> Row:
        """Measure the machine: large matrix products, and a copy within the memory."""
        side, count = (256, 1 << 20) if self.setting.tiny else (8192, 1 << 30)
        rates = {}
        for dtype in (_BF16, _FP32):
            left, right = (
                torch.randn(side, side, device=self.setting.device, dtype=dtype) for _ in range(2)
            )
            rates[dtype] = 2.0 * side**3 / seconds(partial(torch.mm, left, right))
        source = torch.randn(count, device=self.setting.device)
        copy_s = seconds(partial(torch.empty_like(source).copy_, source))
        self.bf16_rate = rates[_BF16]
        return {
            "bf16_tflops": rates[_BF16] / 1e12,
            "fp32_tflops": rates[_FP32] / 1e12,
            "copy_tb_per_second": 2 * source.nbytes / copy_s / 1e12,
        }

    def count_products(self, batch: int) -> Row:
        """Count the operations of the step's matrix products, attention and convolutions."""
        step, model = self._step(DALNet, batch, _BF16)
        # As a matrix: the fused attention's backward pass repeats products, and on a CPU it is
        # not counted at all.
        with materialized_attention(model.backbone), FlopCounterMode(display=False) as counter:
            step()
        self.operations = counter.get_total_flops() / batch
        return {"tflop_per_image": self.operations / 1e12}

    def measure(
        self, cls: type[DALNet], batch: int, dtype: torch.dtype, compile_mode: str = ""
    ) -> Row:
        """Time warm steps of one form; with ``compile_mode``, also the first steps."""
        if self.setting.tiny:
            # A CPU compiles for minutes: one graph shows as much.
            torch._dynamo.config.recompile_limit = 1
        call, _ = self._step(cls, batch, dtype, compile_mode)

        def step() -> None:
            if compile_mode:
                # Or the passes of a step would overwrite each other's results in CUDA graphs.
                torch.compiler.cudagraph_mark_step_begin()
            call()

        # CUDA graphs are warmed up, recorded, and replayed from the third step on.
        start = time.perf_counter()
        for _ in range(3 if self.setting.device == "cuda" else 1):
            step()
        synchronize()
        first_s = time.perf_counter() - start
        if self.setting.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step_s = seconds(step, least=0.1 if self.setting.tiny else 1.5)
        row: Row = {"seconds": step_s, "images_per_second": batch / step_s}
        if compile_mode:
            row["first_steps_seconds"] = first_s
        if self.operations and self.bf16_rate:
            row["utilization"] = batch * self.operations / step_s / self.bf16_rate
        return row

    def count_waits(self, batch: int) -> Row:
        """Count where the host waits for the GPU within one warm step."""
        step, _ = self._step(DALNet, batch, _BF16)
        step()
        with HostWaits() as waits:
            step()
        return {"waits": waits.lines.total(), "lines": waits.lines.most_common()}

    def profile(self, batch: int) -> Row:
        """Profile one warm step in bfloat16."""
        step, model = self._step(DALNet, batch, _BF16)
        for _ in range(2):
            step()
        return profile_step(step, model, self.setting.device)

    def _step(
        self, cls: type[DALNet], batch: int, dtype: torch.dtype, compile_mode: str = ""
    ) -> tuple[Callable[[], tuple[Tensor, ...]], DALNet]:
        """Return a call of the step and its model, which is built where it is not the last one."""
        options = ("MODEL.VIT.COMPILE", compile_mode)
        cfg = make_config("voc_dalnet", self.setting.device, self.setting.tiny, *options)
        if self._made != (cls, compile_mode):
            self._made = self._model = None  # frees the last one first
            self._model = make_model(cls, cfg)
            self._made = (cls, compile_mode)
        self._model.zero_grad()
        items = make_items(cfg, batch, synthetic=self.setting.tiny, all_views=True)
        return partial(make_step(self._model, dtype), items), self._model
