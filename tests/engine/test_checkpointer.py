# SPDX-License-Identifier: Apache-2.0
"""Trainings that start from the model of another one."""

import pytest
import torch
from detectron2.modeling import build_model

from dalnet.engine.checkpointer import DALNetCheckpointer
from dalnet.errors import UsageError

TEXTS = ("text_fg", "text_bg")


@pytest.fixture
def make(tiny_cfg):
    """Builds models of the tiny config with changed keys, from weights of their own."""

    def build(seed, *options):
        cfg = tiny_cfg.clone()
        cfg.merge_from_list(list(options))
        torch.manual_seed(seed)
        return build_model(cfg)

    return build


@pytest.fixture
def saved(tmp_path):
    def save(model):
        DALNetCheckpointer(model, str(tmp_path)).save("model")
        return str(tmp_path / "model.pth")

    return save


def test_what_fits_is_taken_and_the_rest_stays(make, saved):
    source = make(1, "MODEL.DALNET.PROJECTION_DIM", 8)
    path = saved(source)
    source, model = source.state_dict(), make(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    DALNetCheckpointer(model).start_from(path, keep=TEXTS)
    for key, value in model.state_dict().items():
        fresh = key.startswith("projections.")
        assert torch.equal(value, before[key] if fresh else source[key]), key


def test_texts_are_kept_or_taken(make, saved):
    source = make(1)
    source.text_fg.fill_(7.0)
    path, model = saved(source), make(2)
    own = model.text_fg.clone()
    DALNetCheckpointer(model).start_from(path, keep=TEXTS)
    assert torch.equal(model.text_fg, own)
    DALNetCheckpointer(model).start_from(path)
    assert torch.equal(model.text_fg, source.text_fg)


def test_dalnet_starts_from_a_plain_vit(make, saved):
    path = saved(make(1, "MODEL.DALNET.GIA", False, "MODEL.DALNET.LEA", False))
    model = make(2)
    DALNetCheckpointer(model).start_from(path, keep=TEXTS)
    with pytest.raises(UsageError, match="text_fg is missing"):
        DALNetCheckpointer(model).start_from(path)


def test_another_encoder_is_refused(make, saved):
    path = saved(make(1, "MODEL.VIT.DEPTH", 1))
    with pytest.raises(UsageError, match=r"does not fit the config: backbone\S+ is missing"):
        DALNetCheckpointer(make(2)).start_from(path, keep=TEXTS)


def test_elsewhere_everything_has_to_fit(make, saved):
    path = saved(make(1, "MODEL.DALNET.PROJECTION_DIM", 8))
    checkpointer = DALNetCheckpointer(make(2))
    checkpointer.start_from(path, keep=TEXTS)
    with pytest.raises(UsageError, match="projections"):
        checkpointer.load(path)


@pytest.mark.parametrize(
    ("before", "now", "extra"),
    [
        (("MODEL.DALNET.TEXT_PROJECTION", "linear"), (), "projections.text.bias"),
        ((), ("MODEL.VIT.DEPTH", 1, "MODEL.VIT.INTERMEDIATE_BLOCK", 1), r"backbone\S+1\S+"),
    ],
)
def test_nothing_of_a_part_may_be_left_over(make, saved, before, now, extra):
    with pytest.raises(UsageError, match=f"does not fit the config: the model has no {extra}"):
        DALNetCheckpointer(make(2, *now)).load(saved(make(1, *before)))


def test_parts_that_the_model_lacks_may_be_left_over(make, saved):
    source = make(1)
    model = make(2, "MODEL.DALNET.GIA", False, "MODEL.DALNET.LEA", False)
    DALNetCheckpointer(model).load(saved(source))
    source = source.state_dict()
    assert all(torch.equal(value, source[key]) for key, value in model.state_dict().items())
