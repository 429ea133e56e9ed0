# SPDX-License-Identifier: Apache-2.0
"""Config keys with their sources, reading config files, and the rules that values keep."""

from .classes import fill_class_names, with_class_names
from .dalnet import add_dalnet_config
from .load import load_config, new_config
from .systems import System, installed_systems, register_system

__all__ = [
    "System",
    "add_dalnet_config",
    "fill_class_names",
    "installed_systems",
    "load_config",
    "new_config",
    "register_system",
    "with_class_names",
]
