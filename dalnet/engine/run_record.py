# SPDX-License-Identifier: Apache-2.0
"""Write down how a run came about: one JSON file in its folder, with an entry for each start."""

import hashlib
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

import dalnet
from dalnet.config.base import SEEDS
from dalnet.documents import read_json, write_json
from dalnet.errors import UsageError

RECORD = "run.json"
_PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "pillow")

logger = logging.getLogger(__name__)


def read_record(folder: Path) -> list[dict[str, Any]]:
    """Return the starts of the run in a folder, the first one first; none if it has no record.

    Raises:
        UsageError: the record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return []
    try:
        starts = read_json(path, "remove it")["starts"]
        if not isinstance(starts, list) or not all(map(_is_start, starts)):
            raise ValueError("no list of starts")
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"it is no record of a run ({error})", path, "remove it") from error
    return starts


def _is_start(value: object) -> bool:
    """Return whether a value is the entry of a start, by what is read of it."""
    if not isinstance(value, dict) or not isinstance(value.get("lists", {}), dict):
        return False
    seed = value.get("seed", 0)
    return type(seed) is int and -1 <= seed < SEEDS


def add_start(cfg: CfgNode, num_processes: int, resume: bool) -> None:
    """Add the start of a training to the record of its folder, ``OUTPUT_DIR``.

    A training that begins anew has a record of its own, where an earlier one failed at its start.
    """
    folder = Path(cfg.OUTPUT_DIR)
    lists = {name: list_hash(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)}
    starts = read_record(folder) if resume else []
    for name, before in (starts[-1].get("lists", {}) if starts else {}).items():
        if lists.get(name, before) != before:
            logger.warning("The images or labels of %s have changed since the last start.", name)
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "process": os.getpid(),
        "seed": cfg.SEED,
        "processes": num_processes,
        "lists": lists,
        "versions": _versions(),
        "hardware": _hardware(),
        "config": cfg.dump(),
    }
    write_json(folder / RECORD, {"starts": [*starts, start]})


def list_hash(dataset_name: str) -> str:
    """Return the SHA-256 of the names and labels of a data set's images, in their order."""
    digest = hashlib.sha256()
    for record in DatasetCatalog.get(dataset_name):
        name = os.path.basename(record["file_name"])
        labels = (record.get("image_labels", []), record.get("unknown_labels", []))
        digest.update(f"{name}\t{labels}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _versions() -> Mapping[str, str]:
    """Return the versions of the packages; of a checkout of DALNet, its revision too."""
    import detectron2

    versions = {"python": platform.python_version(), "dalnet": dalnet.__version__}
    versions["detectron2"] = detectron2.__version__
    installed = {one.metadata["Name"].lower().replace("-", "_") for one in metadata.distributions()}
    versions |= {name: metadata.version(name) for name in _PACKAGES if name in installed}
    command = ["git", "-C", str(Path(dalnet.__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return versions
    return versions | ({"revision": done.stdout.strip()} if done.returncode == 0 else {})


def _hardware() -> Mapping[str, Any]:
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    threads = torch.get_num_threads()
    return {
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "gpus": gpus,
    }
