# SPDX-License-Identifier: Apache-2.0
"""Contact sheet: per image a row of photograph, truth, CAM, pseudo label and prediction."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import inference_context
from matplotlib.figure import Figure
from torch import nn

from dalnet.data.image_io import read_image, read_mask
from dalnet.errors import UsageError

from .colors import Appearance
from .grid import Cell, draw_grid, legend_handles, save_figure
from .overlay import blend_labels, draw_heat

_DPI = 120
_COLUMNS = ("photo", "truth", "CAM", "pseudo label", "prediction")


@dataclass(frozen=True)
class SheetRow:
    """One image of a contact sheet, everything at the size of its photograph.

    Attributes:
        name: what the row is called, as the file's name.
        photo: uint8 ``[H, W, 3]``, RGB.
        labels: classes 0..C-1 that the image is said to show.
        prediction: integers ``[H, W]``.
        truth: integers ``[H, W]``, or None where there is no mask.
        cam: float ``[H, W]`` in 0..1, the largest CAM of the present classes, or None.
        pseudo_label: integers ``[H, W]`` with 255 for ignored, or None.
    """

    name: str
    photo: np.ndarray
    labels: tuple[int, ...]
    prediction: np.ndarray
    truth: np.ndarray | None = None
    cam: np.ndarray | None = None
    pseudo_label: np.ndarray | None = None

    def label_maps(self) -> list[np.ndarray]:
        """Return the label maps that this row has."""
        maps = (self.truth, self.pseudo_label, self.prediction)
        return [label_map for label_map in maps if label_map is not None]

    def pictures(self, colors: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """Return what this row shows: uint8 ``[H, W, 3]`` by column title.

        Raises:
            UsageError: a label without a colour.
        """
        truth, pseudo_label, prediction = (
            None if label_map is None else blend_labels(self.photo, label_map, colors)
            for label_map in (self.truth, self.pseudo_label, self.prediction)
        )
        cam = None if self.cam is None else draw_heat(self.photo, self.cam)
        pictures = (self.photo, truth, cam, pseudo_label, prediction)
        titled = zip(_COLUMNS, pictures, strict=True)
        return {title: picture for title, picture in titled if picture is not None}

    def caption(self, class_names: Sequence[str]) -> str:
        """Return the row's name and its image labels; ``class_names`` has the background first."""
        shown = ", ".join(class_names[label + 1] for label in self.labels)
        return f"{self.name}: {shown}" if shown else self.name


def collect_rows(model: nn.Module, inputs: Iterable[dict[str, Any]]) -> list[SheetRow]:
    """Run a model in evaluation mode, one image at a time, and keep what a sheet shows.

    Args:
        model: in evaluation returns dicts with ``sem_seg`` [C + 1, H, W] and, optionally, ``cam``
            [C, H, W] in 0..1 (zero for absent classes) and ``pseudo_label`` [H, W], all at the
            ``height`` and ``width`` of the input. Its mode is restored afterwards.
        inputs: what ``DALNetMapper`` makes at test time; of a data loader, which yields lists,
            ``itertools.chain.from_iterable(loader)``.

    Returns:
        One row per input, at the size of the photograph as it lies on disk.

    Raises:
        UsageError: a photograph or mask is missing, unreadable or of the wrong size.
    """
    with inference_context(model), torch.no_grad():
        return [_make_row(item, model([item])[0]) for item in inputs]


def _make_row(item: dict[str, Any], output: dict[str, torch.Tensor]) -> SheetRow:
    photo = read_image(item["file_name"])
    labels = item["image_labels"].nonzero().flatten().tolist() if "image_labels" in item else ()
    cam, pseudo_label = output.get("cam"), output.get("pseudo_label")
    return SheetRow(
        name=Path(item["file_name"]).stem,
        photo=photo,
        labels=tuple(labels),
        prediction=output["sem_seg"].argmax(dim=0).cpu().numpy(),
        truth=_truth(item, photo.shape[:2], len(output["sem_seg"])),
        cam=None if cam is None else cam.amax(dim=0).float().cpu().numpy(),
        pseudo_label=None if pseudo_label is None else pseudo_label.cpu().numpy(),
    )


def _truth(item: dict[str, Any], size: tuple[int, int], num_classes: int) -> np.ndarray | None:
    if "sem_seg_file_name" not in item:
        return None
    return read_mask(item["sem_seg_file_name"], size, num_classes)


def save_sheet(
    path: str | os.PathLike[str],
    rows: Sequence[SheetRow],
    class_names: Sequence[str],
    colors: Sequence[Sequence[int]],
    title: str,
) -> None:
    """Write a contact sheet as PNG, under a temporary name until it is complete.

    A column that no row can fill is left out.

    Args:
        path: of the PNG; its folder is made if need be.
        rows: at least one.
        class_names: C + 1 names, background first, as a data set's ``stuff_classes``.
        colors: C + 1 RGB triples in 0..255, as its ``stuff_colors``.
        title: headline.

    Raises:
        UsageError: no rows, a label without a colour, or a folder that cannot be written.
    """
    if not rows:
        raise UsageError(f"There are no images for {path}; give a split that has some.")
    save_figure(path, _draw_sheet(rows, class_names, colors, title), _DPI, "png")


def _draw_sheet(
    rows: Sequence[SheetRow],
    class_names: Sequence[str],
    colors: Sequence[Sequence[int]],
    title: str,
) -> Figure:
    pictures = [row.pictures(colors) for row in rows]
    captions = [row.caption(class_names) for row in rows]
    columns = [column for column in _COLUMNS if any(column in one for one in pictures)]
    cells = [
        [Cell(one[c], caption if c == "photo" else "") if c in one else None for c in columns]
        for one, caption in zip(pictures, captions, strict=True)
    ]
    shown = np.unique(np.concatenate([np.unique(m) for row in rows for m in row.label_maps()]))
    styles = Appearance(class_names, colors).styles(shown.tolist())
    return draw_grid(cells, columns, legend_handles(styles), title)
