# SPDX-License-Identifier: Apache-2.0
"""DALNet: dual-alignment weakly supervised semantic segmentation, as a Detectron2 add-on.

``from dalnet import Predictor, load_config, read_image``; what stands behind these names is
imported when they are asked for, so that ``dalnet.layers`` needs nothing but PyTorch.
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"

# OpenMP reads this once, when torch is loaded. Threads that wait in a loop, its default, keep other
# work off their cores: on two busy cores a training step takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_FACE = {
    "Predictor": "dalnet.prediction",
    "load_config": "dalnet.config",
    "read_image": "dalnet.data.image_io",
}
__all__ = ["Predictor", "load_config", "read_image"]


def __getattr__(name: str) -> Any:
    """Import what stands behind a name of the package.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FACE[name]), name)
