# SPDX-License-Identifier: Apache-2.0
"""What is read from Detectron2's catalogues."""

from detectron2.data import MetadataCatalog

from dalnet.data.datasets.catalog import class_table
from dalnet.data.palette import voc_palette


def test_classes_registered_without_colours_get_those_of_voc(request):
    request.addfinalizer(lambda: MetadataCatalog.pop("catalog_own", None))
    metadata = MetadataCatalog.get("catalog_own")
    metadata.set(stuff_classes=("background", "cat"))
    assert class_table("catalog_own") == (["background", "cat"], voc_palette(2))
    metadata.set(stuff_colors=[[1, 2, 3], [4, 5, 6]])
    assert class_table("catalog_own")[1] == [[1, 2, 3], [4, 5, 6]]
