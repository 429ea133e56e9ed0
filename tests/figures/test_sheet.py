# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: what a row holds and what is written."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dalnet.data.palette import voc_palette
from dalnet.errors import UsageError
from dalnet.figures.overlay import blend_labels, draw_cam
from dalnet.figures.sheet import SheetRow, _draw_sheet, collect_rows, save_sheet

NAMES = ["background", "cat", "dog", "cow"]
COLORS = voc_palette(4)
HEIGHT, WIDTH = 30, 40


class FixedModel(nn.Module):
    """Says "dog" (class 1) on the left half of every image and shows a CAM of it there."""

    def __init__(self, with_cam=True):
        super().__init__()
        self.with_cam = with_cam
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batched_inputs):
        assert not self.training
        return [self.infer(item["height"], item["width"]) for item in batched_inputs]

    def infer(self, height, width):
        left = torch.zeros(height, width)
        left[:, : width // 2] = 1.0
        scores = torch.zeros(4, height, width)
        scores[0], scores[2] = 1 - left, left
        cam = torch.zeros(3, height, width)
        cam[1] = 0.8 * left
        output = {"sem_seg": scores * self.weight}
        if self.with_cam:
            output |= {"cam": cam, "pseudo_label": torch.where(left > 0, 2, 255)}
        return output


@pytest.fixture
def item(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "beast.png")
    mask = Image.fromarray(np.full((HEIGHT, WIDTH), 2, np.uint8), "P")
    mask.putpalette(sum(voc_palette(), []))
    mask.save(tmp_path / "mask.png")
    return {
        # Larger than the photograph, as a test-time resize makes it.
        "image": torch.zeros(3, 2 * HEIGHT, 2 * WIDTH, dtype=torch.uint8),
        "height": HEIGHT,
        "width": WIDTH,
        "image_labels": torch.tensor([0.0, 1.0, 0.0]),
        "file_name": str(tmp_path / "beast.png"),
        "sem_seg_file_name": str(tmp_path / "mask.png"),
    }


def test_row_has_everything_at_the_size_of_the_photograph(item):
    (row,) = collect_rows(FixedModel(), iter([item]))
    assert row.name == "beast"
    assert row.labels == (1,)
    assert row.caption(NAMES) == "beast: dog"
    np.testing.assert_array_equal(row.photo, np.asarray(Image.open(item["file_name"])))
    assert (row.truth == 2).all() and row.truth.shape == (HEIGHT, WIDTH)
    left = np.arange(WIDTH) < WIDTH // 2
    np.testing.assert_array_equal(row.prediction, np.tile(np.where(left, 2, 0), (HEIGHT, 1)))
    np.testing.assert_array_equal(row.pseudo_label, np.tile(np.where(left, 2, 255), (HEIGHT, 1)))
    np.testing.assert_allclose(row.cam, np.tile(0.8 * left, (HEIGHT, 1)), rtol=1e-6)


def test_pictures_stand_under_their_titles(item):
    (row,) = collect_rows(FixedModel(), [item])
    pictures = row.pictures(COLORS)
    assert list(pictures) == ["photo", "truth", "CAM", "pseudo label", "prediction"]
    expected = {
        "photo": row.photo,
        "truth": blend_labels(row.photo, row.truth, COLORS),
        "CAM": draw_cam(row.photo, row.cam[None], [0]),
        "pseudo label": blend_labels(row.photo, row.pseudo_label, COLORS),
        "prediction": blend_labels(row.photo, row.prediction, COLORS),
    }
    for title, picture in expected.items():
        np.testing.assert_array_equal(pictures[title], picture)


@pytest.mark.parametrize("training", [True, False])
def test_mode_of_the_model_is_restored(item, training):
    model = FixedModel().train(training)
    collect_rows(model, [item])
    assert model.training is training


def test_without_labels_and_masks_only_photo_and_prediction_remain(item):
    del item["image_labels"], item["sem_seg_file_name"]
    (row,) = collect_rows(FixedModel(with_cam=False), [item])
    assert list(row.pictures(COLORS)) == ["photo", "prediction"]
    assert row.caption(NAMES) == "beast"


def test_missing_and_misfitting_mask_are_named(item, tmp_path):
    item["sem_seg_file_name"] = str(tmp_path / "gone.png")
    with pytest.raises(UsageError, match="gone.png"):
        collect_rows(FixedModel(), [item])
    Image.new("L", (WIDTH, HEIGHT + 1)).save(tmp_path / "tall.png")
    item["sem_seg_file_name"] = str(tmp_path / "tall.png")
    with pytest.raises(UsageError, match=r"tall.png is \(31, 40\)"):
        collect_rows(FixedModel(), [item])


def test_sheet_shows_titles_captions_and_the_classes_that_occur(item):
    rows = collect_rows(FixedModel(), [item, item])
    figure = _draw_sheet(rows, NAMES, COLORS, "toy_val")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["photo", "truth", "CAM", "pseudo label", "prediction"] + [""] * 5
    assert [text.get_text() for text in figure.texts] == ["toy_val", "beast: dog", "beast: dog"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["background", "dog", "ignored"]


def test_each_picture_keeps_its_column_where_rows_differ(item):
    (full,) = collect_rows(FixedModel(), [item])
    rows = [
        dataclasses.replace(full, cam=None, pseudo_label=None),
        dataclasses.replace(full, truth=None, pseudo_label=None),
    ]
    figure = _draw_sheet(rows, NAMES, COLORS, "")
    assert [axes.get_title() for axes in figure.axes[:4]] == ["photo", "truth", "CAM", "prediction"]
    filled = [bool(axes.images) for axes in figure.axes]
    assert filled == [True, True, False, True, True, False, True, True]
    np.testing.assert_array_equal(
        figure.axes[6].images[0].get_array(), rows[1].pictures(COLORS)["CAM"]
    )


def test_pictures_keep_their_aspect_and_do_not_overlap():
    portrait, landscape = (
        SheetRow("x", np.zeros((*size, 3), np.uint8), (), np.zeros(size, np.int64))
        for size in [(80, 40), (30, 60)]
    )
    figure = _draw_sheet([portrait, landscape], NAMES, COLORS, "")
    boxes = [axes.get_position() for axes in figure.axes]
    width, height = figure.get_size_inches()
    ratios = [box.height * height / (box.width * width) for box in boxes]
    np.testing.assert_allclose(ratios, [2, 2, 0.5, 0.5])
    for i, one in enumerate(boxes):
        assert all(not one.overlaps(other) for other in boxes[i + 1 :])


def test_png_is_written_and_nothing_else(item, tmp_path):
    path = tmp_path / "new" / "sheet.png"
    save_sheet(path, collect_rows(FixedModel(), [item]), NAMES, COLORS, "toy_val")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 5 * 250
    assert list(path.parent.iterdir()) == [path]


def test_failure_leaves_an_older_sheet_alone(item, tmp_path, monkeypatch):
    path = tmp_path / "out" / "sheet.png"
    rows = collect_rows(FixedModel(), [item])
    save_sheet(path, rows, NAMES, COLORS, "first")
    before = path.read_bytes()

    def fail(figure, target, **kwargs):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(UsageError, match="disk full"):
        save_sheet(path, rows, NAMES, COLORS, "second")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_bad_input_is_refused(item, tmp_path):
    with pytest.raises(UsageError, match=r"no images for .*sheet.png"):
        save_sheet(tmp_path / "sheet.png", [], NAMES, COLORS, "")
    rows = collect_rows(FixedModel(), [item])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file"):
        save_sheet(tmp_path / "file" / "sheet.png", rows, NAMES, COLORS, "")
