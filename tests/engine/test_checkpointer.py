# SPDX-License-Identifier: Apache-2.0
"""Trainings that start from the model of another one."""

import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import save_file

from dalnet.engine.checkpointer import DALNetCheckpointer, checkpoint_hash
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


def load_line(path):
    DALNetCheckpointer(torch.nn.Linear(1, 1)).load(str(path))


@pytest.mark.parametrize("kept", [-8, 20, 0])
def test_cut_safetensors_are_refused(tmp_path, kept):
    path = tmp_path / "cut.safetensors"
    save_file(torch.nn.Linear(1, 1).state_dict(), path)
    load_line(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match=r"cut.safetensors is no checkpoint that can be read"):
        load_line(path)


def test_files_of_no_known_format_are_refused(tmp_path):
    (tmp_path / "text.pkl").write_text("abc")
    with pytest.raises(UsageError, match=r"text.pkl is no checkpoint that can be read"):
        load_line(tmp_path / "text.pkl")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (torch.zeros(3), "where a model's tensors belong it holds a Tensor"),
        ([torch.zeros(3)], "it holds a list"),
        (None, "it holds a NoneType"),
        ({"model": [torch.zeros(3)]}, "it holds a list"),
        ({"model": None}, "it holds a NoneType"),
        ({"model": "text"}, "it holds a str"),
        ({"model": {"weight": "text"}}, "under 'weight' it holds a str"),
        ({"model": {3: torch.zeros(3)}}, "under 3 it holds a Tensor instead of a named tensor"),
    ],
)
def test_what_is_no_models_state_is_refused(tmp_path, content, fault):
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    with pytest.raises(UsageError, match=f"odd.pth is no checkpoint: .*{fault}.*; name one that"):
        load_line(path)


def test_bare_state_dicts_are_taken(tmp_path):
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / "bare.pth")
    load_line(tmp_path / "bare.pth")


def test_addresses_with_nothing_behind_them_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    for address in ("http://127.0.0.1:1/x.pth", "catalog://nothing"):
        for use in (load_line, checkpoint_hash):
            with pytest.raises(UsageError, match=f"MODEL.WEIGHTS names {address}, which cannot be"):
                use(address)
