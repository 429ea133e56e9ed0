# SPDX-License-Identifier: Apache-2.0
"""Data sets with image-level labels, the training views, and the loaders.

Importing this package registers the data sets of :mod:`dalnet.data.datasets` in Detectron2's
``DatasetCatalog``. Nothing is read from disk before a data set is asked for; the user's own folders
are found when a name is looked up that is not registered.
"""

from .checks import check_datasets
from .datasets import ensure_registered
from .loaders import build_test_loader, build_train_loader
from .mapper import DATASET_MAPPER_REGISTRY, ImageLabelMapper, build_mapper

__all__ = [
    "DATASET_MAPPER_REGISTRY",
    "ImageLabelMapper",
    "build_mapper",
    "build_test_loader",
    "build_train_loader",
    "check_datasets",
    "ensure_registered",
]
