# SPDX-License-Identifier: Apache-2.0
"""Files of ready text embeddings: named rows, matched to classes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from dalnet.errors import UsageError
from dalnet.io import read_text
from dalnet.modeling.weight_files import local_file, refused_with

from .weights import KEY


def read_class_embeddings(weights: str, classes: Sequence[Sequence[str]]) -> Tensor:
    """Return the rows that belong to the given classes.

    Args:
        weights: ``X.npy`` ``[K, d]`` with the K names in ``X.txt`` beside it (UTF-8, one a line),
            or ``.safetensors`` with ``embeddings`` ``[K, d]`` and a JSON list ``names`` in its
            metadata; ``dalnet://`` is understood.
        classes: of each class the names to look for, the best first.

    Returns:
        ``[len(classes), d]``, float32, rows of length one.

    Raises:
        UsageError: the file is missing, unreadable, or has another number of names than of rows;
            a class has no row, several, or one without a direction.
    """
    path = local_file(weights, KEY, (".npy", ".safetensors"))
    rows, names = _read_npy(path) if path.suffix == ".npy" else _read_safetensors(path)
    if rows.ndim != 2 or len(rows) != len(names):
        raise UsageError(
            f"an array {list(rows.shape)} for {len(names)} names", path, "give each name one row"
        )
    chosen = []
    for wanted in classes:
        named = [name for name in wanted if name in names][:1]
        count = names.count(named[0]) if named else 0
        if count != 1:
            looked_for = " or ".join(map(repr, named or dict.fromkeys(wanted)))
            raise UsageError(f"{count} rows for {looked_for}", path, "give each class one row")
        chosen.append(names.index(named[0]))
        if not 0 < rows[chosen[-1]].norm() < float("inf"):  # a NaN is refused too
            raise UsageError(f"the row {named[0]!r} is zero or not finite", path, "compute it anew")
    return F.normalize(rows[chosen], dim=1)


def _read_npy(path: Path) -> tuple[Tensor, list[str]]:
    with refused_with(f"{KEY} needs an array of numbers", path):
        rows = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
    path = path.with_suffix(".txt")
    with refused_with(f"it must hold the names of the rows of {KEY}, one a line", path):
        names = read_text(path).rstrip().split("\n")
    return rows, [name.strip() for name in names]


def _read_safetensors(path: Path) -> tuple[Tensor, list[str]]:
    what = f'{KEY} needs a tensor "embeddings" and a JSON list "names" as metadata'
    with refused_with(what, path), safe_open(path, "pt") as file:
        names = json.loads((file.metadata() or {})["names"])
        return file.get_tensor("embeddings").float(), [name.strip() for name in names]
