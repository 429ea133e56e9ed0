# SPDX-License-Identifier: Apache-2.0
"""What is read from Detectron2's catalogs."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import refused

from dalnet.data.datasets.catalog import class_table, register
from dalnet.data.palette import voc_palette


def test_classes_registered_without_colors_get_those_of_voc(request):
    request.addfinalizer(lambda: MetadataCatalog.pop("catalog_own", None))
    metadata = MetadataCatalog.get("catalog_own")
    metadata.set(stuff_classes=("background", "cat"))
    assert class_table("catalog_own") == (["background", "cat"], voc_palette(2))
    metadata.set(stuff_colors=[[1, 2, 3], [4, 5, 6]])
    assert class_table("catalog_own")[1] == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "classes",
    [("cat", "_background_"), ("cat", "# owl"), ("0, 128, 0",), ("owl", "cat", "dog", "owl")],
)
def test_classes_of_one_name_and_other_words_are_refused(classes):
    with refused("catalog_own", classes[-1]):
        register("catalog_own", list, classes)
    assert "catalog_own" not in DatasetCatalog
