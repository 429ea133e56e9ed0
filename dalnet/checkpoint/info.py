# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says about itself: its system, classes, config and versions."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import detectron2
import torch
import yaml
from detectron2.config import CfgNode

import dalnet
from dalnet.config import with_class_names
from dalnet.data.class_names import fault_of_name
from dalnet.documents import parse_yaml
from dalnet.errors import UsageError

from .files import HINT, INFO, read_file

# Keys that say where pre-trained weights come from; a checkpoint takes their place.
_PRETRAINED = (
    ("VIT", "WEIGHTS"),
    ("VIT", "STEM_WEIGHTS"),
    ("CNN", "WEIGHTS"),
    ("CLIP", "SOURCE"),
)


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says about itself, as plain strings.

    Attributes:
        system: name of the meta-architecture.
        class_names: C + 1 names, background first.
        prompt_names: C words that the text prompts call the classes by.
        config: the whole config, YAML.
        versions: of the packages that wrote it, by name.
    """

    system: str
    class_names: list[str]
    prompt_names: list[str]
    config: str
    versions: dict[str, str]

    @classmethod
    def of_training(cls, cfg: CfgNode) -> "CheckpointInfo":
        """Describe the model that ``cfg`` trains."""
        cfg = with_class_names(cfg)
        packages = (dalnet, detectron2, torch)
        return cls(
            system=cfg.MODEL.META_ARCHITECTURE,
            class_names=list(cfg.MODEL.CLASS_NAMES),
            prompt_names=list(cfg.MODEL.PROMPT_NAMES),
            config=cfg.dump(),
            versions={package.__name__: str(package.__version__) for package in packages},
        )

    def started_as(self, earlier: "CheckpointInfo") -> "CheckpointInfo":
        """Return the same with the pre-trained weights that an interrupted training began with.

        The config of one that goes on names none, as it loads none.
        """
        config, first = (parse_yaml(one.config, "the checkpoint") for one in (self, earlier))
        for node, key in _PRETRAINED:
            # One of before there were such keys has none of them.
            if key in first["MODEL"].get(node, {}):
                config["MODEL"][node][key] = first["MODEL"][node][key]
        return replace(self, config=yaml.safe_dump(config))

    @classmethod
    def from_dict(cls, values: Any, path: str) -> "CheckpointInfo":
        """Read what a checkpoint holds; keys of later versions are left out.

        Raises:
            UsageError: something is missing or of another type, or a class has an impossible name.
        """
        kinds = {"system": str, "config": str, "versions": dict}
        kinds |= {"class_names": list, "prompt_names": list}
        for key, kind in kinds.items():
            if not isinstance(values, dict) or not isinstance(values.get(key), kind):
                what = f"the checkpoint is damaged: its {key!r} is missing or no {kind.__name__}"
                raise UsageError(what, path, HINT)
        for name in (*values["class_names"], *values["prompt_names"]):
            fault = fault_of_name(name) if isinstance(name, str) else "is no text"
            if fault:
                raise UsageError(f"the class {name!r} {fault}", path, HINT)
        return cls(**{key: values[key] for key in kinds})


def read_info(path: Path) -> CheckpointInfo:
    """Return what a checkpoint says about itself.

    Raises:
        UsageError: it is unreadable, or was written before checkpoints kept their config.
    """
    data = read_file(str(path))
    if INFO not in data:
        what = "it does not hold its config and classes, as none did before version 0.2"
        raise UsageError(what, path, "name its config file too")
    return CheckpointInfo.from_dict(data[INFO], str(path))
