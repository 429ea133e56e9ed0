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
            f"{path} ({KEY}) holds an array {list(rows.shape)} for {len(names)} names; it needs "
            "one row for each name."
        )
    places = []
    for wanted in classes:
        name = next((name for name in wanted if name in names), None)
        if names.count(name) != 1:
            looked_for = [name] if name else dict.fromkeys(wanted)
            raise UsageError(
                f"{path} ({KEY}) has {names.count(name)} rows for "
                f"{' or '.join(map(repr, looked_for))}; it needs one."
            )
        places.append(names.index(name))
        if not 0 < rows[places[-1]].norm() < float("inf"):  # a NaN is refused too
            raise UsageError(
                f"The row {name!r} of {path} ({KEY}) is zero or not finite: compute it anew."
            )
    return F.normalize(rows[places], dim=1)


def _read_npy(path: Path) -> tuple[Tensor, list[str]]:
    with refused_with(f"{path} ({KEY}) must hold an array of numbers"):
        rows = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
    path = path.with_suffix(".txt")
    with refused_with(f"{path} must hold the names of the rows of {KEY}, one a line"):
        names = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    return rows, [name.strip() for name in names]


def _read_safetensors(path: Path) -> tuple[Tensor, list[str]]:
    refusal = f'{path} ({KEY}) needs a tensor "embeddings" and a JSON list "names" as metadata'
    with refused_with(refusal), safe_open(path, "pt") as file:
        names = json.loads((file.metadata() or {})["names"])
        return file.get_tensor("embeddings").float(), [name.strip() for name in names]
