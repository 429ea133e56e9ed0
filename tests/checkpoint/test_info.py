# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says about itself."""

import pytest
import torch
from helpers import refused

from dalnet.checkpoint import (
    Checkpointer,
    config_of_checkpoint,
    read_info,
)


def test_a_checkpoint_says_what_it_knows(make, tiny_cfg, tmp_path, info_of):
    info = info_of(tiny_cfg)
    Checkpointer(make(1), str(tmp_path), info=info).save("model")
    assert read_info(tmp_path / "model.pth") == info
    assert info.class_names[:2] == ["background", "goldfish"] and len(info.class_names) == 11
    assert info.prompt_names == info.class_names[1:]
    assert info.system == "DALNet" and {"dalnet", "torch", "detectron2"} <= set(info.versions)
    data = torch.load(tmp_path / "model.pth", weights_only=True)["dalnet"]
    kinds = {type(value) for value in data.values()}
    assert kinds <= {str, list, dict}


@pytest.mark.parametrize("key", ["system", "class_names", "config"])
def test_damaged_descriptions_are_refused(make, tiny_cfg, tmp_path, key, info_of):
    Checkpointer(make(1), str(tmp_path), info=info_of(tiny_cfg)).save("model")
    path = tmp_path / "model.pth"
    data = torch.load(path, weights_only=True)
    data["dalnet"][key] = 3
    torch.save(data, path)
    with refused("model.pth", f"'{key}'"):
        config_of_checkpoint(path)
