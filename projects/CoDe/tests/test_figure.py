# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from codeseg.captions import clip_tokenizer
from codeseg.figure import draw_masks, main, name_words
from codeseg.loader import build_caption_loader
from dalnet.checkpoint import Checkpointer, CheckpointInfo


def test_words_of_a_noun():
    tokens = clip_tokenizer()(["three skateboarders on grass"])[0]
    mask = torch.zeros(77)
    mask[2], mask[-1] = 0.8, 1.0
    assert name_words(tokens, mask) == "skateboarders 0.80"
    assert name_words(tokens, torch.zeros(77)) == "no word"


def test_a_row_for_each_caption(code_cfg):
    model = build_model(code_cfg)
    records = next(iter(build_caption_loader(code_cfg)))
    figure = draw_masks(model, records)
    texts = [axes.get_xlabel().replace("\n", " ") for axes in figure.axes]
    assert records[0]["caption"] in texts
    assert any(text.startswith(f"{records[1]['nouns'][1]}: ") for text in texts)


def test_the_command(code_cfg, tmp_path, capsys):
    info = CheckpointInfo.of_training(code_cfg)
    Checkpointer(build_model(code_cfg), str(tmp_path), info=info).save("model")
    command = ["--weights", str(tmp_path / "model.pth"), "--count", "2", "--output"]
    main([*command, str(tmp_path / "masks.png")])
    assert Image.open(tmp_path / "masks.png").width > 500
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "masks.gif")])
    assert "masks.gif" in capsys.readouterr().err
