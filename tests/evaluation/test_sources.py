# SPDX-License-Identifier: Apache-2.0
"""Sources and protocols by their names, and which of them a system has."""

import pytest
from helpers import refused

from dalnet.evaluation.sources import Protocol, make_measurements, model_measurements
from dalnet.modeling.meta_arch import DALNet
from dalnet.modeling.meta_arch.segmentor import Source

CAM_ONLY = {"cam": Source("CAM", "cam")}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ss", (False, False, False)),
        ("ms", (True, False, False)),
        ("ss+flip", (False, True, False)),
        ("ss+crf", (False, False, True)),
        ("ms+flip+crf", (True, True, True)),
    ],
)
def test_protocols_are_read_and_written(text, parts):
    protocol = Protocol.parse(f" {text} ")
    assert (protocol.multi_scale, protocol.flip, protocol.crf) == parts
    assert str(protocol) == text


@pytest.mark.parametrize("text", ["", "xs", "flip", "ss+", "ss+mirror", "ms+flip+flip", "ss flip"])
def test_other_protocols_are_refused(text):
    with refused("protocol", repr(text)):
        Protocol.parse(text)


def test_measurements_are_the_product_with_the_scales_of_the_config(tiny_cfg):
    tiny_cfg.TEST.MULTI_SCALE.SCALES = (1.0, 2.0)
    found = make_measurements(
        tiny_cfg,
        DALNet.sources,
        ["pseudo_label", "sem_seg", "sem_seg"],
        ["ms+flip", "ss", "ms+flip", "ss+crf"],
    )
    assert [(str(one), one.scales, one.title) for one in found] == [
        ("sem_seg/ms+flip", (1.0, 2.0), "segmentation head"),
        ("sem_seg/ss", (1.0,), "segmentation head"),
        ("sem_seg/ss+crf", (1.0,), "segmentation head"),
        ("pseudo_label/ms+flip", (1.0, 0.5), "pseudo label"),
        ("pseudo_label/ss", (1.0,), "pseudo label"),
        ("pseudo_label/ss+crf", (1.0,), "pseudo label"),
    ]
    assert [one.needs_labels for one in found] == [False] * 3 + [True] * 3
    everything = make_measurements(tiny_cfg, DALNet.sources, [], ["ss", "ss+crf"])
    assert [str(one) for one in everything if one.has_curve] == ["cam/ss", "cam_inter/ss"]
    assert len(everything) == 8


def test_a_source_that_the_system_has_not_is_refused(tiny_cfg):
    with refused("sources", "'seg'", *DALNet.sources):
        make_measurements(tiny_cfg, DALNet.sources, ["seg", "cam"], ["ss"])
    with refused("sources", "'sem_seg'"):
        make_measurements(tiny_cfg, CAM_ONLY, ["sem_seg"], ["ss"])
    with refused("protocols"):
        make_measurements(tiny_cfg, DALNet.sources, ["cam"], [])


def test_a_system_without_sources_is_refused(tiny_cfg):
    tiny_cfg.MODEL.WEIGHTS = "edges.pth"
    with refused("edges.pth", "DALNet predicts no classes of pixels"):
        make_measurements(tiny_cfg, {}, (), ("ss",))


def test_the_models_own_protocols_follow_the_config(tiny_cfg):
    def protocols(sources):
        return {str(one): one.scales for one in model_measurements(tiny_cfg, sources)}

    cams = {"cam/ms+flip": (1.0, 0.5), "cam_inter/ms+flip": (1.0, 0.5)}
    cams["pseudo_label/ms+flip"] = (1.0, 0.5)
    assert protocols(DALNet.sources) == {"sem_seg/ss": (1.0,), **cams}
    tiny_cfg.TEST.MULTI_SCALE.ENABLED = tiny_cfg.TEST.CRF.ENABLED = True
    tiny_cfg.TEST.MULTI_SCALE.SCALES = (1.0, 1.5)
    assert protocols(DALNet.sources) == {"sem_seg/ms+flip+crf": (1.0, 1.5), **cams}
    tiny_cfg.MODEL.CAM.FLIP = "none"
    assert protocols(CAM_ONLY) == {"cam/ms": (1.0, 0.5)}
