# SPDX-License-Identifier: Apache-2.0
"""Show versions, devices, systems, recipes, and the folders of weights and data sets.

dalnet info
"""

import argparse
import os
import platform
from importlib import metadata
from pathlib import Path

import torch
from huggingface_hub import constants
from tabulate import tabulate

import dalnet
from dalnet.config.load import recipe_names
from dalnet.config.systems import installed_systems
from dalnet.data.datasets.catalog import datasets_root
from dalnet.modeling.clip.weights import CLIP_CACHE

_PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "pydensecrf2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    print(tabulate(collect_information(), tablefmt="plain"))


def collect_information() -> list[tuple[str, str]]:
    """Return what :func:`run` prints, as names and values."""
    import detectron2

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Bases and sweeps are no recipes of their own.
    recipes = [name for name in recipe_names() if not name.startswith(("Base", "sweeps/"))]
    return [
        ("dalnet", f"{dalnet.__version__} in {Path(dalnet.__file__).parent}"),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("detectron2", f"{detectron2.__version__} in {Path(detectron2.__file__).parent}"),
        *((name, _version(name)) for name in _PACKAGES),
        (
            "devices",
            f"{', '.join([*devices, 'CPU'])} ({cores} cores); CUDA is taken if there is one",
        ),
        ("systems", ", ".join(sorted(installed_systems()))),
        ("recipes", ", ".join(recipes)),
        ("data sets", f"{datasets_root()} (DETECTRON2_DATASETS)"),
        ("weights", f"{constants.HF_HUB_CACHE} (HF_HUB_CACHE); CLIP's first in {CLIP_CACHE}"),
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
