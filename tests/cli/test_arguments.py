# SPDX-License-Identifier: Apache-2.0
"""Lists between commas; flags for one's own images are refused without a folder of images."""

import pytest

from dalnet.cli import main
from dalnet.cli.arguments import split_keys, split_list


def test_parts_of_a_list_between_commas():
    assert split_list(" coco, label-studio,, ") == ["coco", "label-studio"]
    assert split_list("") == []


def test_keys_behind_a_flag_of_several_words_are_no_words_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TEST.PNG").touch()
    words = ["IMG_1.PNG", "TEST.PNG", "INPUT.MIN_SIZE_TEST", "448"]
    assert split_keys(words) == (words[:2], words[2:])
    assert split_keys(["a.png"]) == (["a.png"], [])


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--tags", "tags.csv"),
        ("--classes", "classes.yaml"),
        ("--untagged", "none"),
        ("--masks", "masks"),
        ("--corrections", "masks"),
        ("--val", "0.2"),
        ("--encoder", "deit-small"),
        ("--texts", "texts.npy"),
        ("--no-alignment", None),
    ],
)
def test_train_refuses_them(capsys, flag, value):
    words = ["train", "--config", "toy_dalnet", flag, value]
    with pytest.raises(SystemExit):
        main([word for word in words if word is not None])
    error = capsys.readouterr().err
    assert flag in error and "--images" in error and error.count("\n") == 1


def test_label_maps_do_not_lie_among_the_images(toy_checkpoint, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    words = ["label", "--weights", str(toy_checkpoint), "--images", str(tmp_path / "images")]
    with pytest.raises(SystemExit):
        main([*words, "--output", str(tmp_path / "images/labeled")])
    assert capsys.readouterr().err.startswith("error: --output: ")
    assert not (tmp_path / "images/labeled").exists()


def test_label_without_images_needs_the_folder_of_the_training(toy_checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["label", "--weights", str(toy_checkpoint), "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert "--images" in error and str(toy_checkpoint.parent / "dataset.yaml") in error


@pytest.mark.parametrize(
    "flag, value", [("--actors", "2"), ("--cpus", "2"), ("--gpus", "1"), ("--shard-size", "5")]
)
def test_flags_of_a_cluster_are_refused_without_one(toy_checkpoint, tmp_path, capsys, flag, value):
    words = ["label", "--weights", str(toy_checkpoint), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*words, flag, value])
    assert f"error: {flag}: only a cluster reads it" in capsys.readouterr().err


@pytest.mark.parametrize("flag, value", [("--tags", "tags.csv"), ("--untagged", "none")])
def test_label_refuses_them(toy_checkpoint, tmp_path, capsys, flag, value):
    words = ["label", "--weights", str(toy_checkpoint), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*words, flag, value])
    error = capsys.readouterr().err
    assert flag in error and "--images" in error
    assert not (tmp_path / "out").exists()
