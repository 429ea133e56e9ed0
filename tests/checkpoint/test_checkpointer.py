# SPDX-License-Identifier: Apache-2.0
"""What of a checkpoint is taken, what stays, and what is refused."""

from pathlib import Path

import pytest
import torch
import yaml
from helpers import refused
from torch import nn

from dalnet.checkpoint import (
    Checkpointer,
    expect_checkpoint,
    read_info,
)
from dalnet.modeling.clip import FrozenCLIP

TEXTS = ("text_fg", "text_bg")


def test_what_fits_is_taken_and_the_rest_stays(make, tiny_cfg, info_of, tmp_path):
    source, path = make(1, "MODEL.DALNET.PROJECTION_DIM", 8), str(tmp_path / "model.pth")
    Checkpointer(source, str(tmp_path), info=info_of(tiny_cfg)).save("model")
    source, model = source.state_dict(), make(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    Checkpointer(model).start_from(path, keep=TEXTS)
    for key, value in model.state_dict().items():
        fresh = key.startswith("projections.")
        assert torch.equal(value, before[key] if fresh else source[key]), key


def test_texts_are_kept_or_taken(make, saved):
    source = make(1)
    source.text_fg.fill_(7.0)
    path, model = saved(source), make(2)
    own = model.text_fg.clone()
    Checkpointer(model).start_from(path, keep=TEXTS)
    assert torch.equal(model.text_fg, own)
    Checkpointer(model).start_from(path)
    assert torch.equal(model.text_fg, source.text_fg)


def test_dalnet_starts_from_a_plain_vit(make, saved):
    path = saved(make(1, "MODEL.DALNET.GIA", False, "MODEL.DALNET.LEA", False))
    model = make(2)
    Checkpointer(model).start_from(path, keep=TEXTS)
    with refused("model.pth", "text_fg"):
        Checkpointer(model).start_from(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.VIT.DEPTH", 1, ("backbone.", "is missing")),
        ("MODEL.VIT.EMBED_DIM", 64, ("backbone.", "has shape")),
    ],
)
def test_another_encoder_is_refused(make, saved, key, value, words):
    path = saved(make(1, key, value))
    with refused("model.pth", *words):
        Checkpointer(make(2)).start_from(path, keep=TEXTS)


def test_elsewhere_everything_has_to_fit(make, saved):
    path = saved(make(1, "MODEL.DALNET.PROJECTION_DIM", 8))
    checkpointer = Checkpointer(make(2))
    checkpointer.start_from(path, keep=TEXTS)
    with refused("model.pth", "projections"):
        checkpointer.load(path)


@pytest.mark.parametrize(
    ("before", "now", "extra"),
    [
        (("MODEL.DALNET.TEXT_PROJECTION", "linear"), (), "projections.text.bias"),
        ((), ("MODEL.VIT.DEPTH", 1, "MODEL.VIT.INTERMEDIATE_BLOCK", 1), "backbone.vit.blocks.1."),
    ],
)
def test_nothing_of_a_part_may_be_left_over(make, saved, before, now, extra):
    with refused("model.pth", extra):
        Checkpointer(make(2, *now)).load(saved(make(1, *before)))


def test_a_frozen_clip_is_neither_saved_nor_missed(make, saved):
    source, model = make(1), make(2)
    for owner, value in ((source, 1.0), (model, 2.0)):
        owner.clip = FrozenCLIP(nn.Linear(2, 2), None, text_only=False)
        nn.init.constant_(owner.clip.model.weight, value)
    path = saved(source)
    assert not [key for key in torch.load(path)["model"] if key.startswith("clip")]
    Checkpointer(model).load(path)
    assert (model.clip.model.weight == 2).all()
    assert torch.equal(model.classifier.linear.weight, source.classifier.linear.weight)


def test_parts_that_the_model_lacks_may_be_left_over(make, saved):
    source = make(1)
    model = make(2, "MODEL.DALNET.GIA", False, "MODEL.DALNET.LEA", False)
    Checkpointer(model).load(saved(source))
    source = source.state_dict()
    assert all(torch.equal(value, source[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["background", "leaf", "goldfish"], "'leaf', not 'goldfish'"),
        (["background", "goldfish"], "2, not 11"),
    ],
)
def test_other_classes_are_refused_even_if_they_are_as_many(
    make, tiny_cfg, tmp_path, names, part, info_of
):
    own = list(info_of(tiny_cfg).class_names)
    info = info_of(tiny_cfg, class_names=names + own[3:] if len(names) == 3 else names)
    Checkpointer(make(1), str(tmp_path), info=info).save("model")
    path = str(tmp_path / "model.pth")
    with refused("model.pth", part):
        Checkpointer(make(2)).load(path)
    # Another training may know other classes, if it has texts of its own.
    model = make(2)
    Checkpointer(model).start_from(path, keep=TEXTS)
    with refused("model.pth", part):
        Checkpointer(make(2)).start_from(path)
    # Not so where the classifier is taken over.
    model.keeps_classes = True
    with refused("model.pth", part):
        Checkpointer(model).start_from(path, keep=TEXTS)


def test_a_resumed_training_still_says_what_it_began_with(make, tiny_cfg, tmp_path, info_of):
    begun = tiny_cfg.clone()
    begun.MODEL.VIT.WEIGHTS, begun.MODEL.CLIP.SOURCE = "timm", "tower"
    Checkpointer(make(1), str(tmp_path), info=info_of(begun)).save("model")
    resumed = tiny_cfg.clone()
    resumed.SOLVER.MAX_ITER = 77
    expect_checkpoint(resumed)
    checkpointer = Checkpointer(make(2), str(tmp_path), info=info_of(resumed))
    checkpointer.load(str(tmp_path / "model.pth"))
    checkpointer.save("later")
    config = yaml.safe_load(read_info(tmp_path / "later.pth").config)
    assert (config["MODEL"]["VIT"]["WEIGHTS"], config["MODEL"]["CLIP"]["SOURCE"]) == (
        "timm",
        "tower",
    )
    assert config["SOLVER"]["MAX_ITER"] == 77


def test_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    checkpointer = Checkpointer(torch.nn.Linear(1, 1), str(tmp_path))
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def fail(data, path):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with refused("model.pth", "No space left"):
        checkpointer.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before


def test_another_training_takes_classifiers_by_class_name(
    make, tiny_cfg, info_of, tmp_path, caplog
):
    source, own = make(1), list(info_of(tiny_cfg).class_names)
    theirs = ["background", "cat", *own[3:], own[1]]  # as many, own[2] is not among them
    info = info_of(tiny_cfg, class_names=theirs)
    Checkpointer(source, str(tmp_path), info=info).save("model")
    model, fresh = make(2), make(2).state_dict()
    with caplog.at_level("INFO"):
        Checkpointer(model).start_from(str(tmp_path / "model.pth"), keep=TEXTS)
    assert f"anew for {own[2]}." in caplog.text
    for key, first in model.class_rows.items():
        value, saved = model.state_dict()[key], source.state_dict()[key]
        for number, name in enumerate(own[first:]):
            expected = fresh[key][number]
            if name in theirs:
                expected = saved[theirs.index(name) - first]
            assert torch.equal(value[number], expected), (key, name)


def test_classifiers_of_unknown_classes_are_not_taken(make, saved):
    source, model, fresh = make(1), make(2), make(2).state_dict()
    Checkpointer(model).start_from(saved(source), keep=TEXTS)
    assert all(torch.equal(model.state_dict()[key], fresh[key]) for key in model.class_rows)
