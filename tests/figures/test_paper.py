# SPDX-License-Identifier: Apache-2.0
"""The paper's figures of a model: which images, which maps, and the program as a whole."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from matplotlib.figure import Figure
from PIL import Image

from dalnet.data import build_test_loader
from dalnet.engine.trainer import load_model
from dalnet.errors import UsageError
from dalnet.evaluation.protocol import Protocol
from dalnet.figures import paper as figures
from dalnet.figures.paper import FigureJob, choose_images

ROOT = Path(__file__).parents[2]
SPLIT = "voc_2012_sem_seg_val"
CAT, DOG = 8, 12  # labels in a label map


@pytest.fixture
def trained(voc_model):
    """The tree's config, with fresh weights as MODEL.WEIGHTS."""
    cfg = voc_model.cfg
    cfg.MODEL.WEIGHTS = str(voc_model.weights)
    cfg.MODEL.CLIP.SOURCE = "checkpoint"
    cfg.DATASETS.TEST = (SPLIT,)
    return cfg


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of the functions that draw; they draw nothing."""
    seen = []
    for name in ("cam_figure", "segmentation_figure", "comparison_figure", "similarity_figure"):
        monkeypatch.setattr(figures, name, lambda *args: seen.append(args) or Figure())
    return seen


def outputs(cfg):
    """What the model returns in evaluation, by the image's name."""
    model = load_model(cfg).eval()
    items = [item for batch in build_test_loader(cfg, SPLIT) for item in batch]
    return {Path(item["file_name"]).stem: model([item])[0] for item in items}


def names(records):
    return [Path(record["file_name"]).stem for record in records]


def anything(record):
    return True


def test_named_images_come_in_the_order_of_their_names_on_the_command_line(voc_tree, tmp_path):
    images = ("2007_000003", "2007_000000", "2007_000003")
    job = FigureJob(SPLIT, tmp_path / "a.png", images)
    assert names(choose_images(job, anything, "")) == ["2007_000003", "2007_000000"]


def test_draw_is_the_same_for_a_seed_and_keeps_to_what_suits(voc_tree, tmp_path):
    def drawn(seed, suits=anything):
        job = FigureJob(SPLIT, tmp_path / "a.png", count=2, seed=seed)
        return names(choose_images(job, suits, ""))

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(20)}) > 1
    assert all(len(set(drawn(seed))) == 2 for seed in range(20))
    even = drawn(0, lambda record: int(record["image_id"][-1]) % 2 == 0)
    assert even == ["2007_000000", "2007_000002"]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"images": ("2007_000001", "nope")}, "no image 'nope'.*as 2007_000000"),
        ({"images": ("2007_000002",)}, "2007_000002 is too plain"),
        ({"count": 4}, r"count 4 .*has 4, 3 of them"),
        ({"count": 0}, "count 0"),
    ],
)
def test_images_that_cannot_be_had_are_named(voc_tree, tmp_path, choice, words):
    job = FigureJob(SPLIT, tmp_path / "a.png", **choice)
    with pytest.raises(UsageError, match=words):
        choose_images(job, lambda r: not r["image_id"].endswith("2"), "is too plain")


def test_cams_are_those_that_are_evaluated(trained, drawn, tmp_path):
    figures.draw_cams(trained, FigureJob(SPLIT, tmp_path / "a.png", count=4))
    ((subjects, maps, _),) = drawn
    expected = outputs(trained)
    for i, (subject, by_label) in enumerate(zip(subjects, maps, strict=True)):
        assert subject.name == f"2007_{i:06d}"
        (label,) = by_label
        assert label == (DOG if i % 2 == 0 else CAT)
        cam = expected[subject.name]["cam"][label - 1].numpy()
        np.testing.assert_allclose(by_label[label], cam, atol=1e-5)
        assert (subject.truth == (CAT if i % 2 else DOG)).sum() == 400


@pytest.mark.parametrize("protocol", ["ss", "ms+flip+crf"])
def test_segmentations_are_those_of_the_head(trained, drawn, tmp_path, protocol):
    job = FigureJob(SPLIT, tmp_path / "a.png", count=2)
    figures.draw_segmentations(trained, job, Protocol.parse(protocol))
    ((subjects, predictions, _),) = drawn
    if protocol != "ss":
        trained.TEST.CRF.ENABLED = trained.TEST.MULTI_SCALE.ENABLED = True
    expected = outputs(trained)
    for subject, prediction in zip(subjects, predictions, strict=True):
        labels = expected[subject.name]["sem_seg"].argmax(dim=0).numpy()
        assert (prediction == labels).mean() > 0.99


def test_comparison_shows_one_class_or_the_largest_of_all(trained, drawn, tmp_path, monkeypatch):
    records = DatasetCatalog.get(SPLIT)
    for record in records:
        record["image_labels"] = [CAT - 1, DOG - 1]
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: records)
    job = FigureJob(SPLIT, tmp_path / "a.png", ("2007_000001",))
    figures.draw_comparison({"a": trained, "b": trained}, job)
    figures.draw_comparison({"a": trained}, job, "dog")
    figures.draw_cams(trained, job)
    (_, captions, both, _), (_, caption, one, _), (_, (maps,), _) = drawn
    assert captions == ["cat, dog"]
    assert caption == ["dog"]
    np.testing.assert_array_equal(one["a"][0], maps[DOG])
    for title in ("a", "b"):
        np.testing.assert_array_equal(both[title][0], np.maximum(maps[CAT], maps[DOG]))


@pytest.mark.parametrize(
    ("images", "class_name", "words"),
    [
        ((), "background", "no class 'background'"),
        (("2007_000001",), "dog", "2007_000001 is not labelled 'dog'"),
    ],
)
def test_class_that_is_not_there_is_named(trained, tmp_path, images, class_name, words):
    job = FigureJob(SPLIT, tmp_path / "a.png", images, count=1)
    with pytest.raises(UsageError, match=words):
        figures.draw_comparison({"a": trained}, job, class_name)


def test_similarities_are_of_the_image_labels_and_the_background(trained, drawn, tmp_path):
    job = FigureJob(SPLIT, tmp_path / "a.png", ("2007_000001",))
    figures.draw_similarities(trained, job, stretch=True)
    ((_, (maps,), _, stretch),) = drawn
    assert list(maps) == [CAT, 0]
    assert stretch


def test_images_without_labels_cannot_have_cams(voc_tree, trained, tmp_path):
    (voc_tree.voc / "image_tags.json").write_text('{"2007_000001": ["cat"]}')
    with pytest.raises(UsageError, match="2007_000000 has no image-level labels"):
        figures.draw_cams(trained, FigureJob(SPLIT, tmp_path / "a.png", ("2007_000000",)))
    with pytest.raises(UsageError, match="has 4, 1 of them"):
        figures.draw_cams(trained, FigureJob(SPLIT, tmp_path / "a.png", count=2))


@pytest.fixture
def tool(voc_tree, trained, monkeypatch):
    """Runs tools/figures.py on the tree's val split."""
    spec = importlib.util.spec_from_file_location("figures_tool", ROOT / "tools" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def execute(name, output, *arguments, model=("--config-file", voc_tree.config)):
        command = [name, *model, "--split", SPLIT, "--output", output, *arguments]
        monkeypatch.setattr("sys.argv", ["figures.py", *map(str, command)])
        module.main()

    execute.weights = "MODEL.WEIGHTS", trained.MODEL.WEIGHTS
    return execute


def test_program_leaves_the_figure_and_nothing_else(tool, voc_tree, tmp_path):
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    tool("cams", tmp_path / "cams.png", "--count", 1, *tool.weights)
    output = tmp_path / "a:b.pdf"
    model = ("--model", "one: =", voc_tree.config, tool.weights[1])
    tool("compare", output, "--images", "2007_000001,2007_000002", model=model)
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert after - before == {tmp_path / "cams.png", output}
    with Image.open(tmp_path / "cams.png") as picture:
        assert picture.format == "PNG"
    assert output.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("name", "output", "arguments", "words"),
    [
        ("cams", "a.jpg", ["MODEL.WEIGHTS", "x.pth"], "neither .png nor .pdf"),
        ("cams", "a.png", [], "give its checkpoint as MODEL.WEIGHTS"),
        ("cams", "a.png", ["--images", "nope", "MODEL.WEIGHTS", "x.pth"], "no image 'nope'"),
        ("cams", "a.png", ["MODEL.WEIGHTS", "x.pth"], "x.pth does not exist"),
        ("segmentations", "a.png", ["--protocol", "mss"], "'mss' is no protocol"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(
    tool, tmp_path, capsys, name, output, arguments, words
):
    with pytest.raises(SystemExit) as error:
        tool(name, tmp_path / output, *arguments)
    assert error.value.code == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert words in line
    assert not (tmp_path / output).exists()
