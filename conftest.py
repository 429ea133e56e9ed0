# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures that hold for all tests, those of the projects included."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from helpers import TINY

import dalnet.data  # noqa: F401  registers the data sets
import dalnet.modeling  # noqa: F401  registers the network's parts
from dalnet.config import new_config

_INJECTED: dict[str, Counter[str]] = defaultdict(Counter)  # by kind of fault, and what became of it


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note the kind of fault that a test injects, as its marker names it."""
    if marker := item.get_closest_marker("faults"):
        item.user_properties.append(("fault", marker.args[0]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the faults that a test has injected; ``record_property("injected", N)`` is for N."""
    properties = dict(report.user_properties)
    if "fault" in properties and (report.when == "call" or report.failed):
        count = int(str(properties.get("injected", 1)))
        _INJECTED[str(properties["fault"])][report.outcome] += count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many faults were survived, where tests of faults were asked for."""
    if "faults" not in terminalreporter.config.getoption("markexpr"):
        return
    rows = {kind: (sum(n.values()) - n["skipped"], n["passed"]) for kind, n in _INJECTED.items()}
    rows["all"] = tuple(map(sum, zip((0, 0), *rows.values(), strict=True)))
    terminalreporter.section("faults")
    terminalreporter.line(f"{'kind':32}{'injected':>10}{'survived':>10}{'lost':>6}")
    for kind, (injected, survived) in rows.items():
        lost = injected - survived
        terminalreporter.line(f"{kind:32}{injected:10}{survived:10}{lost:6}")


# The tensors are small: threads would only wait for each other, and sums keep one order.
torch.set_num_threads(1)


_TOY = """
DATASETS.TRAIN ("toy_train",) DATASETS.TEST ("toy_val",) MODEL.SEM_SEG_HEAD.NUM_CLASSES 11
MODEL.SEM_SEG_HEAD.DILATION 1 MODEL.CLIP.SOURCE untrained MODEL.CLIP.EMBED_DIM 32
MODEL.DALNET.PROJECTION_DIM 16 MODEL.CAM.SCALES (1.0,0.5) MODEL.PAR.NUM_ITERS 2
MODEL.PAR.DILATIONS (1,2) INPUT.MULTI_CROP.LOCAL_VIEWS 2 INPUT.MULTI_CROP.LOCAL_SIZE 16
DATALOADER.NUM_WORKERS 0
"""


@pytest.fixture
def tiny_cfg(tmp_path: Path) -> CfgNode:
    """The whole method on the CPU, for the toy classes, in a network of two narrow blocks."""
    cfg = new_config()
    cfg.merge_from_list([*TINY, *_TOY.split()])
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg
