# SPDX-License-Identifier: Apache-2.0
"""What the command line says about sources and protocols."""

import pytest

from dalnet.errors import UsageError
from dalnet.evaluation.protocol import Protocol, make_rows, model_sources


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
    with pytest.raises(UsageError, match="is no protocol; write ss or ms"):
        Protocol.parse(text)


def test_rows_are_the_product_with_the_scales_of_the_config(tiny_cfg):
    tiny_cfg.TEST.MULTI_SCALE.SCALES = (1.0, 2.0)
    rows = make_rows(tiny_cfg, "pseudo, seg,seg", "ms+flip,ss,ms+flip,ss+crf")
    assert [(str(row), row.scales) for row in rows] == [
        ("seg/ms+flip", (1.0, 2.0)),
        ("seg/ss", (1.0,)),
        ("seg/ss+crf", (1.0,)),
        ("pseudo/ms+flip", (1.0, 0.5)),
        ("pseudo/ss", (1.0,)),
        ("pseudo/ss+crf", (1.0,)),
    ]
    assert [row.needs_labels for row in rows] == [False] * 3 + [True] * 3
    curves = make_rows(tiny_cfg, "cam,cam_inter,seg", "ss,ss+crf")
    assert [str(row) for row in curves if row.has_curve] == ["cam/ss", "cam_inter/ss"]


@pytest.mark.parametrize(
    ("sources", "protocols", "part"),
    [
        ("seg,box", "ss", "'box' is no source; --sources takes seg, cam, cam_inter, pseudo"),
        ("", "ss", "give at least one of each"),
        ("seg", " ,", "give at least one of each"),
    ],
)
def test_unknown_and_missing_ones_are_refused(tiny_cfg, sources, protocols, part):
    with pytest.raises(UsageError, match=part):
        make_rows(tiny_cfg, sources, protocols)


def test_models_own_protocols_follow_the_config(tiny_cfg):
    assert str(Protocol.from_config(tiny_cfg)) == "ss"
    assert model_sources(tiny_cfg)[0].protocol == "single scale"
    tiny_cfg.TEST.MULTI_SCALE.ENABLED = tiny_cfg.TEST.CRF.ENABLED = True
    tiny_cfg.TEST.MULTI_SCALE.SCALES = (1.0, 1.5)
    tiny_cfg.MODEL.DALNET.CAM.BACKGROUND_THRESHOLD = 0.45
    assert str(Protocol.from_config(tiny_cfg)) == "ms+flip+crf"
    cams = "scales 1.0, 0.5 + mirror, image labels given"
    assert {(source.key, source.title): source.protocol for source in model_sources(tiny_cfg)} == {
        ("sem_seg", "segmentation head"): "scales 1.0, 1.5 + mirror + CRF",
        ("cam", "CAM"): f"{cams}, threshold 0.45",
        ("cam_inter", "intermediate CAM"): f"{cams}, threshold 0.45",
        ("pseudo_label", "pseudo label"): f"{cams}, PAR, thresholds 0.25 / 0.7",
    }
