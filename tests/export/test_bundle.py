# SPDX-License-Identifier: Apache-2.0
"""A bundle predicts like the checkpoint that it was made of."""

import json

import numpy as np
import pytest
from helpers import refused
from huggingface_hub import HfApi, ModelCard
from safetensors import safe_open

from dalnet import Predictor
from dalnet.checkpoint.files import find_checkpoint
from dalnet.cli import main
from dalnet.export.bundle import push_to_hub


@pytest.fixture
def bundle(voc_model, tmp_path):
    folder = tmp_path / "bundle"
    main(["export", "--weights", str(voc_model.weights), "--output", str(folder)])
    return folder


def test_bundle_predicts_like_its_checkpoint(bundle, voc_model):
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    first, second = (Predictor(path)(image) for path in (voc_model.weights, bundle))
    assert first.class_names == second.class_names
    assert np.array_equal(first.scores, second.scores)


def test_bundle_says_what_it_is(bundle):
    with safe_open(bundle / "model.safetensors", "pt") as file:
        about = json.loads(file.metadata()["dalnet"])
    assert about["system"] == "DALNet" and about["class_names"][0] == "background"
    assert (bundle / "config.yaml").read_text() == about["config"]
    card = ModelCard.load(bundle / "README.md")
    assert card.data.library_name == "dalnet" and "aeroplane" in card.text


def test_who_may_read_the_card_may_read_the_weights(bundle):
    modes = {path.stat().st_mode for path in bundle.iterdir() if path.is_file()}
    assert len(modes) == 1


def test_folder_that_is_not_empty_is_kept(bundle, voc_model, capsys):
    argv = ["export", "--weights", str(voc_model.weights), "--output", str(bundle)]
    with pytest.raises(SystemExit):
        main(argv)
    assert "not empty" in capsys.readouterr().err
    main([*argv, "--overwrite"])
    with pytest.raises(SystemExit):
        main([*argv, "--overwrite", "--format", "tiff"])
    assert "--format" in capsys.readouterr().err


def test_damaged_metadata_is_refused(bundle, tmp_path):
    content = (bundle / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content.replace(b"class_names", b"class_nams", 1))
    with refused("model.safetensors"):
        Predictor(tmp_path / "model.safetensors")


def test_overwrite_leaves_nothing_of_another_model(bundle, voc_model):
    for name in ("model.onnx", "model_int8.onnx", "parity.json", "notes.txt"):
        (bundle / name).write_text("of another model")
    words = ["export", "--weights", str(voc_model.weights), "--output", str(bundle), "--overwrite"]
    main(words)
    names = {path.name for path in bundle.iterdir()}
    assert names == {"model.safetensors", "config.yaml", "README.md", "notes.txt"}


def test_a_bundle_is_not_removed_before_it_is_exported_again(bundle):
    before = (bundle / "model.safetensors").read_bytes()
    main(["export", "--weights", str(bundle), "--output", str(bundle), "--overwrite"])
    assert len((bundle / "model.safetensors").read_bytes()) == len(before)


@pytest.mark.parametrize(
    "words",
    [
        ("--images", "there"),
        ("--masks", "there"),
        ("--num-images", "3"),
        ("--format", "onnx", "--masks", "there"),
        ("--format", "onnx", "--images", "there", "--num-images", "-4"),
    ],
)
def test_arguments_that_nothing_reads_are_refused(voc_model, tmp_path, capsys, words):
    out = tmp_path / "exported"
    with pytest.raises(SystemExit):
        main(["export", "--weights", str(voc_model.weights), "--output", str(out), *words])
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words[-2]}: ") and not out.exists()


def test_an_export_that_fails_removes_nothing(bundle, tmp_path, capsys):
    (bundle / "model.onnx").write_text("of another model")
    before = {path.name for path in bundle.iterdir()}
    (tmp_path / "damaged.pth").write_bytes(b"nothing")
    words = ["export", "--weights", str(tmp_path / "damaged.pth"), "--output", str(bundle)]
    with pytest.raises(SystemExit):
        main([*words, "--overwrite"])
    assert {path.name for path in bundle.iterdir()} == before


def test_hub(bundle, monkeypatch):
    calls = []

    class Commit:
        repo_url = "https://example.org/a/b"

    monkeypatch.setattr(HfApi, "create_repo", lambda api, name, exist_ok: calls.append(name))
    monkeypatch.setattr(
        HfApi,
        "upload_folder",
        lambda api, repo_id, folder_path, allow_patterns: (
            calls.append((folder_path, allow_patterns)) or Commit
        ),
    )
    assert push_to_hub(bundle, "a/b") == Commit.repo_url
    assert calls == ["a/b", (bundle, ["model.safetensors", "config.yaml", "README.md"])]

    def refuse(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with refused("a/b", "ConnectionError"):
        push_to_hub(bundle, "a/b")

    def download(name, file):
        assert (name, file) == ("a/b", "model.safetensors")
        return str(bundle / file)

    monkeypatch.setattr("dalnet.checkpoint.files.hf_hub_download", download)
    assert find_checkpoint("hf-hub:a/b") == bundle / "model.safetensors"
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with refused("hf-hub:a b"):
        find_checkpoint("hf-hub:a b")
