# SPDX-License-Identifier: Apache-2.0
"""Values that this machine or the system cannot use, without any data set."""

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from helpers import refused

from dalnet.config.validation import check_values, use_cpu_without_cuda


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
