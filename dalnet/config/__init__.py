# SPDX-License-Identifier: Apache-2.0
"""Define the config keys, read config files, and check values."""

from importlib.util import find_spec

# Not a declared dependency (see pyproject.toml), so pip cannot report its absence: this does. The
# kernels of dalnet.layers do without it.
if find_spec("detectron2") is None:
    raise ImportError(
        "dalnet needs Detectron2 0.5 or newer, which is not on PyPI under its own name: "
        "run 'dalnet install-detectron2', or 'make setup' in DALNet's repository."
    )

from .classes import class_difference, fill_class_names, with_class_names
from .dalnet import add_dalnet_config
from .load import load_config, new_config
from .systems import System, installed_systems, register_system, require_system

__all__ = [
    "System",
    "add_dalnet_config",
    "class_difference",
    "fill_class_names",
    "installed_systems",
    "load_config",
    "new_config",
    "register_system",
    "require_system",
    "with_class_names",
]
