# SPDX-License-Identifier: Apache-2.0
"""What is shown: label maps, CAMs, pictures of the training, contact sheets.

Detectron2's ``Visualizer.draw_sem_seg`` is not used: it leaves ignored pixels undrawn, and that is
what a pseudo label has to show.
"""

from .overlay import blend_labels, draw_cam, draw_heat, draw_label_map
from .sheet import SheetRow, collect_rows, save_sheet
from .strip import training_strip

__all__ = [
    "SheetRow",
    "blend_labels",
    "collect_rows",
    "draw_cam",
    "draw_heat",
    "draw_label_map",
    "save_sheet",
    "training_strip",
]
