# SPDX-License-Identifier: Apache-2.0
"""The toy data set, generated where it is first asked for: ``toy_{train,val}``."""

from pathlib import Path

from dalnet.data.datasets.catalog import datasets_root
from dalnet.data.datasets.toy import TOY_CLASSES, ensure_toy_dataset
from dalnet.data.datasets.voc_layout import register_voc_layout


def _root() -> Path:
    root = datasets_root() / "toy"
    ensure_toy_dataset(str(root))
    return root


def register_toy() -> None:
    """Register both splits of the generated data set."""
    for split in ("train", "val"):
        register_voc_layout(f"toy_{split}", _root, TOY_CLASSES, split=split)
