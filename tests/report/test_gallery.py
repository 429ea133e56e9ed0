# SPDX-License-Identifier: Apache-2.0
"""Which images the gallery shows, their scores and panels."""

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from dalnet.data.palette import voc_palette
from dalnet.figures.images import ImageResult
from dalnet.report.gallery import choose_groups, make_card, score_image


def make_result(truth, prediction, size=(8, 8)):
    maps = {"truth": truth, "prediction": prediction}
    maps = {t: np.broadcast_to(m, size).astype(np.uint8) for t, m in maps.items() if m is not None}
    return ImageResult("beast", np.zeros((*size, 3), np.uint8), (1,), maps)


def test_scores_by_hand():
    left = np.arange(8) < 4
    quarter = 2 * (left & (np.arange(8)[:, None] < 4))
    assert score_image(make_result(2 * left, 2 * left), 3) == {0: 100, 2: 100}
    scores = score_image(make_result(quarter, 2 * left), 3)
    assert scores == {0: pytest.approx(100 * 32 / 48), 2: 50}
    assert score_image(make_result(255, 2 * left), 3) == {}
    assert score_image(make_result(None, 2 * left), 3) == {}
    assert score_image(make_result(2 * left, None), 3) == {}


def test_best_and_worst_are_ordered_and_apart():
    scores = [50.0, math.nan, 90.0, 10.0, 70.0, 30.0]
    groups = choose_groups(scores, 2)
    assert (groups["best"], groups["worst"]) == ([2, 4], [3, 5])
    assert len(set(groups["random"])) == 2
    groups = choose_groups(scores, 40)
    assert (groups["best"], groups["worst"]) == ([2, 4, 0], [3, 5])
    assert sorted(groups["random"]) == list(range(6))
    assert choose_groups([40.0], 3) == {"best": [0], "random": [0]}


def test_random_images_do_not_depend_on_the_scores():
    first = choose_groups([float(i) for i in range(100)], 5)["random"]
    assert choose_groups([math.nan] * 100, 5) == {"random": first}
    assert first != list(range(5))


@pytest.mark.parametrize(("size", "small"), [((8, 8), (8, 8)), ((900, 600), (220, 330))])
def test_card_holds_small_pictures(size, small):
    card = make_card(make_result(1, 2, size), ["best"], voc_palette(3))
    assert card.classes == [1, 2]
    assert list(card.panels) == ["image", "truth", "prediction"]
    for jpeg in card.panels.values():
        with Image.open(io.BytesIO(base64.b64decode(jpeg, validate=True))) as panel:
            assert (panel.format, panel.size) == ("JPEG", small)
