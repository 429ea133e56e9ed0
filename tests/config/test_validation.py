# SPDX-License-Identifier: Apache-2.0
"""Values that this machine or the system cannot use, without any data set."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from helpers import refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dalnet.config import load_config
from dalnet.config.load import merge_options
from dalnet.config.validation import (
    check_values,
    use_cpu_without_cuda,
    warn_of_slow_precision,
    warn_of_untrained_parts,
)
from dalnet.errors import UsageError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("has_cuda", [True, False])
def test_cpu_where_there_is_no_cuda(tiny_cfg, monkeypatch, has_cuda):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    tiny_cfg.MODEL.DEVICE, tiny_cfg.SOLVER.AMP.ENABLED = "cuda", True
    assert use_cpu_without_cuda(tiny_cfg) is not has_cuda
    assert ("cuda" if has_cuda else "cpu") == tiny_cfg.MODEL.DEVICE
    assert tiny_cfg.SOLVER.AMP.ENABLED is has_cuda


def test_values_of_base_and_system_are_checked(tiny_cfg, monkeypatch):
    check_values(tiny_cfg)
    for key, value in (
        ("MODEL.CAM.SCALES", ()),
        ("MODEL.CAM.LOW_THRESHOLD", 0.9),
        ("MODEL.VIT.COMPILE", "fastest"),
    ):
        cfg = tiny_cfg.clone()
        cfg.merge_from_list([key, value])
        with refused(key):
            check_values(cfg)
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "Detector", object)
    tiny_cfg.MODEL.META_ARCHITECTURE = "Detector"
    with refused("MODEL.META_ARCHITECTURE", "'Detector'", "'DALNet'"):
        check_values(tiny_cfg)


def leaves(cfg, above=""):
    for key, value in cfg.items():
        yield from leaves(value, f"{above}{key}.") if isinstance(value, CfgNode) else [above + key]


numbers = st.integers(-3, 300) | st.floats() | st.booleans()
texts = st.text(max_size=6) | st.sampled_from(["", "none", "max", "cpu", "toy_train", "None"])
values = numbers | texts | st.none() | st.lists(numbers | texts, max_size=3).map(tuple)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_of_any_key_is_taken_or_refused(tiny_cfg, data):
    """Nothing but a UsageError, and none that is about another part of the config."""
    key = data.draw(st.sampled_from(sorted(leaves(tiny_cfg))))
    value = data.draw(values)
    cfg = tiny_cfg.clone()
    try:
        merge_options(cfg, [key, value])
        check_values(cfg)
    except UsageError as error:
        assert error.where and "\n" not in str(error)


@pytest.mark.parametrize(
    ("recipe", "key", "weights"),
    [
        ("configs/toy_dalnet.yaml", "MODEL.DALNET.SEG_START_ITER", "SEG REG"),
        ("configs/toy_dalnet.yaml", "MODEL.DALNET.ALIGN_START_ITER", ""),
        ("projects/ToCo/configs/toy_toco.yaml", "MODEL.DALNET.SEG_START_ITER", "SEG REG"),
        ("projects/CoDe/configs/toy_code.yaml", "MODEL.CODE.UNFREEZE_ITER", ""),
    ],
)
def test_parts_that_a_training_would_never_reach_are_named(caplog, recipe, key, weights):
    cfg = load_config(str(ROOT / recipe))
    warn_of_untrained_parts(cfg)
    assert not caplog.records
    merge_options(cfg, ["SOLVER.MAX_ITER", "100", key, "99"])
    warn_of_untrained_parts(cfg)
    assert not caplog.records
    merge_options(cfg, [key, "100"])
    warn_of_untrained_parts(cfg)
    assert key in caplog.text and "SOLVER.MAX_ITER" in caplog.text
    caplog.clear()
    # It is not to learn where it has no losses.
    for name in weights.split():
        merge_options(cfg, [f"MODEL.DALNET.{name}_WEIGHT", "0.0"])
    if weights:
        warn_of_untrained_parts(cfg)
        assert not caplog.records


@pytest.mark.parametrize(
    ("has_bfloat16", "dtype", "is_slow"),
    [(False, "bfloat16", True), (False, "float16", False), (True, "bfloat16", False)],
)
def test_a_gpu_that_only_imitates_bfloat16_is_told_of(
    tiny_cfg, monkeypatch, caplog, has_bfloat16, dtype, is_slow
):
    supported = lambda including_emulation=True: including_emulation or has_bfloat16  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    amp = tiny_cfg.SOLVER.AMP
    amp.ENABLED, amp.DTYPE = True, dtype
    warn_of_slow_precision(tiny_cfg)
    assert ("SOLVER.AMP.DTYPE" in caplog.text) is is_slow
    caplog.clear()
    amp.ENABLED = False
    warn_of_slow_precision(tiny_cfg)
    assert not caplog.records
