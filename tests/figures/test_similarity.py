# SPDX-License-Identifier: Apache-2.0
"""Figure 6: one range of colors for all maps, or each its own."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from torch import nn

from dalnet.data.image_io import read_image
from dalnet.errors import UsageError
from dalnet.figures import similarity
from dalnet.figures.overlay import draw_heat, make_faint
from dalnet.figures.similarity import draw_similarities

SPLIT = "voc_2012_sem_seg_val"
LOW = np.linspace(-0.5, 0.0, 2000).reshape(40, 50)
HIGH = np.linspace(0.0, 1.5, 2000).reshape(40, 50)


@pytest.mark.parametrize("stretch", [False, True])
def test_similarities_share_one_range_or_have_each_its_own(voc_model, look, monkeypatch, stretch):
    monkeypatch.setattr(similarity, "similarity_maps", lambda model, item: {8: LOW, 0: HIGH / 2})
    records = DatasetCatalog.get(SPLIT)[:1]
    shown = look(draw_similarities(voc_model.cfg, nn.Module(), records, SPLIT, stretch))
    assert shown.captions == ["2007_000000", "cat, -0.500 to 0.000", "background, 0.000 to 0.750"]
    faint = make_faint(read_image(records[0]["file_name"]))
    first = np.linspace(0, 1, 2000).reshape(40, 50) if stretch else (LOW + 0.5) / 1.25
    np.testing.assert_array_equal(shown.pictures[1], draw_heat(faint, first))
    if not stretch:
        assert shown.bar == (-0.5, 0.75)


def test_model_without_alignment_is_refused(voc_model):
    voc_model.cfg.MODEL.DALNET.GIA = voc_model.cfg.MODEL.DALNET.LEA = False
    with pytest.raises(UsageError, match="without alignment"):
        model = build_model(voc_model.cfg)
        draw_similarities(voc_model.cfg, model, DatasetCatalog.get(SPLIT)[:1], SPLIT)
