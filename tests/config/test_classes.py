# SPDX-License-Identifier: Apache-2.0
"""The names of the classes in a config."""

import pytest
from helpers import refused

from dalnet.config import class_difference, fill_class_names, new_config, with_class_names


def new_voc():
    cfg = new_config()
    cfg.DATASETS.TRAIN = ("voc_2012_sem_seg_train",)
    return cfg


@pytest.fixture
def voc_cfg():
    return new_voc()


def test_names_come_from_the_training_data(voc_cfg):
    fill_class_names(voc_cfg)
    assert voc_cfg.MODEL.CLASS_NAMES[:2] == ("background", "aeroplane")
    assert voc_cfg.MODEL.PROMPT_NAMES[10] == "dining table"


def test_names_that_are_given_stay(voc_cfg):
    voc_cfg.MODEL.CLASS_NAMES, voc_cfg.MODEL.PROMPT_NAMES = ("background", "x"), ("y",)
    fill_class_names(voc_cfg)
    assert (voc_cfg.MODEL.CLASS_NAMES, voc_cfg.MODEL.PROMPT_NAMES) == (("background", "x"), ("y",))


def test_class_names_that_are_given_are_the_prompt_names_too(voc_cfg):
    voc_cfg.MODEL.CLASS_NAMES = ("background", "x", "y")
    assert with_class_names(voc_cfg).MODEL.PROMPT_NAMES == ("x", "y")
    voc_cfg.MODEL.CLASS_NAMES = with_class_names(new_voc()).MODEL.CLASS_NAMES
    assert with_class_names(voc_cfg).MODEL.PROMPT_NAMES[10] == "dining table"


def test_prompt_names_that_are_given_stay_where_class_names_are_filled(voc_cfg):
    words = tuple(f"word {number}" for number in range(20))
    voc_cfg.MODEL.PROMPT_NAMES = words
    fill_class_names(voc_cfg)
    assert words == voc_cfg.MODEL.PROMPT_NAMES and len(voc_cfg.MODEL.CLASS_NAMES) == 21


def test_as_many_prompt_names_as_classes(voc_cfg):
    for classes in ((), ("background", "cat", "dog")):
        voc_cfg.MODEL.CLASS_NAMES, voc_cfg.MODEL.PROMPT_NAMES = classes, ("a cat",)
        with refused("MODEL.PROMPT_NAMES"):
            with_class_names(voc_cfg)


def test_a_frozen_config_stays_as_it_is(voc_cfg):
    voc_cfg.freeze()
    assert len(with_class_names(voc_cfg).MODEL.CLASS_NAMES) == 21
    assert voc_cfg.MODEL.CLASS_NAMES == ()


def test_a_data_set_that_is_not_registered_leaves_them_empty(voc_cfg):
    voc_cfg.DATASETS.TRAIN = ("nothing",)
    fill_class_names(voc_cfg)
    assert voc_cfg.MODEL.CLASS_NAMES == ()


@pytest.mark.parametrize(
    ("names", "others", "words"),
    [
        (["background", "cat"], ("background", "cat"), []),
        (["background", "cat"], ["background", "dog"], ["class 1", "'cat'", "'dog'"]),
        (["background", "cat", "dog"], ["background", "dog", "cat"], ["class 1", "'cat'"]),
        (["background", "cat"], ["background"], ["2", "1"]),
    ],
)
def test_classes_differ_in_name_order_or_number(names, others, words):
    difference = class_difference(names, others)
    assert bool(difference) == bool(words) and all(word in difference for word in words)
