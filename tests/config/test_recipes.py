# SPDX-License-Identifier: Apache-2.0
"""The recipe for one's own images."""

import pytest

from dalnet.config import load_config
from dalnet.config.recipes import ENCODERS, choose_recipe


@pytest.mark.parametrize("memory", [None, 4.0, 10.0, 24.0])
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("count", [30, 1_200, 100_000])
def test_recipe_exists_and_its_keys_fit(memory, align, count):
    recipe = choose_recipe(count, 3, 400, memory, align)
    cfg = load_config(recipe.config, recipe.opts)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 4
    assert cfg.MODEL.DALNET.GIA is align and cfg.MODEL.DALNET.LEA is align
    assert cfg.MODEL.DALNET.SEG_START_ITER < cfg.SOLVER.MAX_ITER / 2
    if align:
        assert cfg.MODEL.DALNET.ALIGN_START_ITER == cfg.MODEL.DALNET.SEG_START_ITER
    assert cfg.MODEL.DALNET.CLASSIFIER_INIT == "zeros"
    assert 600 <= cfg.SOLVER.MAX_ITER <= 20_000
    assert all(side % 16 == 0 for side in cfg.INPUT.CROP.SIZE)
    assert str(cfg.SOLVER.MAX_ITER) in " ".join(recipe.reasons)


def test_larger_hardware_gets_larger_networks():
    names = [
        load_config(recipe.config, recipe.opts).MODEL.VIT.NAME
        for recipe in (choose_recipe(1_000, 3, 400, memory) for memory in (None, 8, 16))
    ]
    sizes = ("tiny", "small", "base")
    assert names == [f"deit_{size}_patch16_224" for size in sizes]


@pytest.mark.parametrize("memory, factor", [(None, 20.0), (4.0, 20.0), (10.0, 10.0), (24.0, 10.0)])
def test_short_trainings_have_the_higher_rate_of_heads(memory, factor):
    recipe = choose_recipe(1_000, 3, 400, memory)
    rate = load_config(recipe.config, recipe.opts).SOLVER.HEAD_LR_MULTIPLIER
    assert rate == factor


def test_large_images_are_brought_to_the_size_of_the_recipe():
    assert "INPUT.MIN_SIZE_TRAIN" in choose_recipe(1_000, 3, 3_000, None).opts
    assert "INPUT.MIN_SIZE_TRAIN" not in choose_recipe(1_000, 3, 375, None).opts


@pytest.mark.parametrize("memory", [None, 10.0, 24.0])
def test_sides_of_views_are_multiples_of_the_encoders_patch(memory):
    name = ENCODERS["dinov2-small"]
    recipe = choose_recipe(1_000, 3, 400, memory, encoder=name)
    cfg = load_config(recipe.config, recipe.opts)
    vit = cfg.MODEL.VIT.NAME
    assert vit == name
    sides = [*cfg.INPUT.CROP.SIZE, cfg.INPUT.MULTI_CROP.LOCAL_SIZE]
    usual = load_config(recipe.config, choose_recipe(1_000, 3, 400, memory).opts).INPUT
    for side, before in zip(sides, [*usual.CROP.SIZE, usual.MULTI_CROP.LOCAL_SIZE], strict=True):
        assert side % 14 == 0 and before <= side < before + 14
    text = " ".join(recipe.reasons)
    assert name in text and f"{sides[0]} px" in text and f"{sides[-1]} px" in text
