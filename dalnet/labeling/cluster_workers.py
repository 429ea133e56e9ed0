# SPDX-License-Identifier: Apache-2.0
"""Read and filter rows in Ray's own workers, which therefore import neither PyTorch nor Detectron2.

Each of them would else take 0.9 GB and some seconds more.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ray.data.block import Block, BlockAccessor
from ray.data.checkpoint import NumpyArrayBasedCheckpointFilter

TAG_MEMBERS = ("json", "cls")  # of a sample in a shard


def sample_row(sample: Mapping[str, Any], suffixes: Collection[str]) -> dict[str, Any]:
    """Return the row of a sample of a shard: ``file``, ``image``, ``json`` and ``cls``, undecoded.

    Shards with images of several formats get the same columns.

    Args:
        sample: as Ray reads it, contents by suffix, with ``__url__`` and ``__key__``.
        suffixes: of images, as ``.png``.
    """
    contents = {name.lower(): content for name, content in sample.items()}
    images = [content for kind, content in contents.items() if f".{kind}" in suffixes]
    return {
        "file": f"{sample['__url__']}/{sample['__key__']}",
        "image": images[0] if images else None,
        **{kind: contents.get(kind) for kind in TAG_MEMBERS},
    }


class ArrowFilter(NumpyArrayBasedCheckpointFilter):
    """Ray's filter of finished images, for the pandas blocks too that shards are read as."""

    def filter_rows_for_block(self, block: Block) -> Block:
        """Return the rows of a block that are not finished."""
        return super().filter_rows_for_block(BlockAccessor.for_block(block).to_arrow())
