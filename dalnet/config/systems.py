# SPDX-License-Identifier: Apache-2.0
"""Register the weakly supervised systems that are installed: DALNet, and packages beside it.

A package names a module as an entry point of the group ``dalnet.systems``. The module registers a
meta-architecture, a mapper where it needs one, and its keys by :func:`register_system`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from detectron2.config import CfgNode

from dalnet.errors import UsageError

from .checks import LatePart, Rule


@dataclass(frozen=True)
class System:
    """The config of one system: its keys and their rules.

    Attributes:
        name: value of ``MODEL.META_ARCHITECTURE``.
        add_config: adds the system's keys to a config that has DALNet's.
        rules: of the keys that the system reads.
        check: refuses values that do not fit each other.
        late_parts: parts of the network that begin to learn later than the others.
        build_train_loader: makes the training's loader (a ``ResumableLoader`` of dalnet.data) where
            images do not come with labels of classes; ``DATASETS.TRAIN`` is then not read.
    """

    name: str
    add_config: Callable[[CfgNode], None]
    rules: tuple[Rule, ...] = ()
    check: Callable[[CfgNode], None] = lambda cfg: None
    late_parts: tuple[LatePart, ...] = ()
    build_train_loader: Callable[[CfgNode], Any] | None = None


_systems: dict[str, System] = {}


def register_system(system: System) -> None:
    """Make a system known; one of the same name is replaced."""
    _systems[system.name] = system


# Folder of the systems that are not called like it.
_PROJECTS = dict.fromkeys(("EdgeNetwork", "LabelMapSegmentor", "CAMBaseline"), "CLIMS")
_PROJECTS["NACLIP"] = "CoDe"


def installed_systems() -> dict[str, System]:
    """Return the registered systems by name, those of other packages included."""
    _load_entry_points()
    return dict(_systems)


def require_system(name: str, wanted_by: str) -> None:
    """Refuse a file, ``wanted_by``, of a system that is not installed.

    Raises:
        UsageError: ``where`` is the file.
    """
    if name not in installed_systems():
        raise UsageError(
            f"it is of the system {name!r}, which is not installed",
            wanted_by,
            "install its package; for those of DALNet's repository, as with pip install -e "
            f"projects/{_PROJECTS.get(name, name)}",
        )


@cache
def _load_entry_points() -> None:
    for point in entry_points(group="dalnet.systems"):
        try:
            point.load()
        except Exception as error:  # a package may fail in any way
            # One broken package must not keep the others from being used.
            logging.getLogger(__name__).warning("%s cannot be imported: %s", point.value, error)
