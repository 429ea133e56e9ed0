# SPDX-License-Identifier: Apache-2.0
"""Save and load checkpoints: weights with their classes and config, which are never unpickled."""

import logging
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import detectron2
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from safetensors.torch import load_file

import dalnet
import dalnet.modeling  # noqa: F401  registers the network's parts
from dalnet.config import (
    class_difference,
    fill_class_names,
    load_config,
    new_config,
    require_system,
    with_class_names,
)
from dalnet.config.checks import has_key
from dalnet.config.load import flatten, merge_options, merge_values
from dalnet.config.validation import use_cpu_without_cuda
from dalnet.errors import UsageError
from dalnet.io import atomic_write, sha256
from dalnet.modeling.meta_arch import WeakSegmentor
from dalnet.modeling.weight_files import fetch

_KEY = "MODEL.WEIGHTS"
# A config says where and how its training ran, which need not suit this machine.
_MACHINE_DEFAULTS = ("MODEL.DEVICE", "cuda", "MODEL.VIT.COMPILE", "")
# Keys that say where pre-trained weights come from; a checkpoint takes their place.
_PRETRAINED = (
    ("VIT", "WEIGHTS"),
    ("VIT", "STEM_WEIGHTS"),
    ("CNN", "WEIGHTS"),
    ("CLIP", "SOURCE"),
)
_INFO = "dalnet"  # where a checkpoint's dict holds its CheckpointInfo
_HINT = "name a checkpoint that a training has saved"

logger = logging.getLogger(__name__)


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
        config, first = yaml.safe_load(self.config), yaml.safe_load(earlier.config)
        for node, key in _PRETRAINED:
            # One of before there were such keys has none of them.
            if key in first["MODEL"].get(node, {}):
                config["MODEL"][node][key] = first["MODEL"][node][key]
        return replace(self, config=yaml.safe_dump(config))

    @classmethod
    def from_dict(cls, values: Any, path: str) -> "CheckpointInfo":
        """Read what a checkpoint holds; keys of later versions are left out.

        Raises:
            UsageError: something is missing or of another type.
        """
        kinds = {"system": str, "config": str, "versions": dict}
        kinds |= {"class_names": list, "prompt_names": list}
        for key, kind in kinds.items():
            if not isinstance(values, dict) or not isinstance(values.get(key), kind):
                what = f"the checkpoint is damaged: its {key!r} is missing or no {kind.__name__}"
                raise UsageError(what, path, _HINT)
        return cls(**{key: values[key] for key in kinds})


class Checkpointer(DetectionCheckpointer):
    """``DetectionCheckpointer`` that refuses what Detectron2 would only warn about."""

    # Buffers that another training keeps when it starts from a checkpoint; None: all has to fit.
    _kept: Sequence[str] | None = None

    def __init__(
        self,
        model: torch.nn.Module,
        save_dir: str = "",
        *,
        info: CheckpointInfo | None = None,
        **checkpointables: Any,
    ) -> None:
        """Keep what is loaded and saved, ``info`` and other states beside the model's."""
        super().__init__(model, save_dir, **checkpointables)
        self._info = info

    def start_from(self, path: str, keep: Sequence[str] = ()) -> None:
        """Load what fits, the encoder at least, as the beginning of another training.

        The rest, such as classifiers of other classes, stays as it was built and is named in the
        log, and so do the buffers ``keep``, as the texts of this training's classes. An empty path
        loads nothing.

        Raises:
            UsageError: the file is missing, unreadable or of another encoder, or buffers that are
                to come from it are missing or of other classes.
        """
        self._kept = keep
        try:
            self.resume_or_load(path, resume=False)
        finally:
            self._kept = None

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
        """Load a checkpoint; ``path`` may be empty for none.

        Raises:
            UsageError: the file is missing, unreadable or does not fit the model.
        """
        if path and not fetch(path, _KEY).is_file():
            raise UsageError(f"{path} does not exist", _KEY, "give the path of a checkpoint")
        self._path = path
        try:
            return super().load(path, *args, **kwargs)
        except (KeyError, ValueError) as error:
            # Optimizer and scheduler raise these when their parameters differ.
            hint = "use the config it was trained with, or train anew in another OUTPUT_DIR"
            raise UsageError(f"this config cannot resume it ({error})", path, hint) from error

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth whole or not at all: an interrupted save loses nothing.

        Raises:
            UsageError: the folder is not writable or the disk is full.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        if self._info is not None:
            data[_INFO] = asdict(self._info)
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        path = Path(self.save_dir, f"{name}.pth")
        try:
            with atomic_write(path) as temporary:
                torch.save(data, temporary)
        except RuntimeError as error:  # torch raises it where the disk is full
            raise UsageError(f"it cannot be written ({error})", path, "free space") from error
        self.logger.info(f"Saved checkpoint to {path}")
        self.tag_last_checkpoint(f"{name}.pth")

    def _load_file(self, filename: str) -> dict:
        data = _read_file(filename)
        if _INFO in data:
            info = CheckpointInfo.from_dict(data.pop(_INFO), filename)
            self._check_info(info)
            if self._kept is None and self._info is not None:
                self._info = self._info.started_as(info)
        elif self._kept is None and hasattr(self.model, "class_names"):
            logger.warning("%s does not name its classes: those of the config are taken.", filename)
        return data

    def _check_info(self, info: CheckpointInfo) -> None:
        """Compare system and classes, by name and order: as many do not make them the same."""
        system = type(self.model).__name__
        if self._kept is None and info.system != system:
            what = f"it is a model of the system {info.system}, not of {system}"
            hint = f"set MODEL.META_ARCHITECTURE to {info.system}, with its config"
            raise UsageError(what, self._path, hint)
        own = getattr(self.model, "class_names", info.class_names)
        # Another training may know other classes, unless it takes over their texts.
        rebuilt = set(getattr(self.model, "rebuilt", ())) & self.model.state_dict().keys()
        keeps_classes = getattr(self.model, "keeps_classes", False)
        takes_all = keeps_classes or self._kept is None or rebuilt - set(self._kept)
        difference = class_difference(info.class_names, own) if takes_all else ""
        if difference:
            what = f"it was trained on other classes than the config's: {difference}"
            hint = "use the data set it was trained on as DATASETS.TRAIN"
            raise UsageError(what, self._path, hint)

    def _load_model(self, checkpoint: dict) -> Any:
        kept = self._kept or ()
        for key in kept:
            checkpoint["model"].pop(key, None)
        incompatible = super()._load_model(checkpoint)
        # What the model does not save, as a frozen CLIP, is not missing.
        saved = self.model.state_dict().keys() - set(kept)
        incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if k in saved]
        needed = ("",) if self._kept is None else self.model.required
        wrong = [
            f"{key} has shape {tuple(a)}, not {tuple(b)}"
            for key, a, b in incompatible.incorrect_shapes
            if key.startswith(needed)
        ]
        wrong += [f"{k} is missing" for k in incompatible.missing_keys if k.startswith(needed)]
        if self._kept is None:
            # Parts that the model lacks altogether, as texts without alignment, change nothing.
            parts = tuple(f"{name}." for name, _ in self.model.named_children())
            left = [k for k in incompatible.unexpected_keys if k.startswith(parts)]
            wrong += [f"the model has no {key}" for key in left]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            what = f"it does not fit the config: {wrong[0]}{more}"
            raise UsageError(what, self._path, "use the config it was trained with")
        return incompatible


def checkpoint_hash(weights: str) -> str:
    """Return the SHA-256 of the file that ``MODEL.WEIGHTS`` names, hexadecimal.

    Raises:
        UsageError: an address that nothing can be fetched from.
    """
    return sha256(fetch(weights, _KEY))


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that a path names: the file itself, or the newest one of a run folder.

    Raises:
        UsageError: there is none.
    """
    found = fetch(str(path), _KEY)
    if found.is_dir():
        newest = found / "last_checkpoint"
        found = found / (newest.read_text().strip() if newest.is_file() else "model_final.pth")
    if not found.is_file():
        raise UsageError("it is no checkpoint and no run folder with one", path, _HINT)
    return found


def read_info(path: Path) -> CheckpointInfo:
    """Return what a checkpoint says about itself.

    Raises:
        UsageError: it is unreadable, or was written before checkpoints kept their config.
    """
    data = _read_file(str(path))
    if _INFO not in data:
        what = "it does not hold its config and classes, as none did before version 0.2"
        raise UsageError(what, path, "name its config file too")
    return CheckpointInfo.from_dict(data[_INFO], str(path))


def load_model(cfg: CfgNode, resume: bool = False) -> WeakSegmentor:
    """Build the model with ``MODEL.WEIGHTS`` or, with ``resume``, ``OUTPUT_DIR``'s newest weights.

    Raises:
        UsageError: there are no weights, or they do not fit.
    """
    model = build_model(cfg)
    checkpointer = Checkpointer(model, save_dir=cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        key, hint = ("OUTPUT_DIR", f"{cfg.OUTPUT_DIR} holds none; ") if resume else (_KEY, "")
        raise UsageError("there is no checkpoint to load", key, f"{hint}name one as {_KEY}")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return model


def config_for(weights: str | Path = "", config: str = "", opts: Sequence[str] = ()) -> CfgNode:
    """Return the config to use a trained model with, from a file or from its checkpoint.

    Args:
        weights: a checkpoint or a run folder; where not given, the ``MODEL.WEIGHTS`` of ``opts`` or
            of the config.
        config: a config file or the name of a recipe; where not given, the config in the
            checkpoint, see :func:`config_of_checkpoint`.
        opts: ``KEY, VALUE, ...`` that go before those of the config.

    Returns:
        The config, not frozen. Its ``MODEL.WEIGHTS`` is the checkpoint, and pre-trained weights are
        not loaded beside it. Without ``config``, ``OUTPUT_DIR`` is the folder of the checkpoint
        unless ``opts`` name another.

    Raises:
        UsageError: no model is named, or a file, key or value cannot be used.
    """
    options = dict(zip(opts[::2], opts[1::2], strict=False))
    named = str(weights or "") or options.get(_KEY, "")
    cfg = load_config(config, opts) if config else None
    if cfg is not None:
        named = named or cfg.MODEL.WEIGHTS
    if not named:
        raise UsageError("no model is named", "weights", "give a checkpoint or a run folder")
    if cfg is None:
        cfg = config_of_checkpoint(named, opts)
        if "OUTPUT_DIR" not in options:
            cfg.OUTPUT_DIR = str(Path(cfg.MODEL.WEIGHTS).parent)
        return cfg
    cfg.MODEL.WEIGHTS = str(find_checkpoint(named))
    fill_class_names(cfg)
    expect_checkpoint(cfg)
    use_cpu_without_cuda(cfg)
    return cfg


def config_of_checkpoint(path: str | Path, opts: Sequence[str] = ()) -> CfgNode:
    """Return the config that a checkpoint was trained with, ready to load it for prediction.

    It is not frozen, and its ``MODEL.WEIGHTS`` is the checkpoint. Neither its data set nor
    pre-trained weights need to exist here, and none are fetched. The device is a GPU where there is
    one, and nothing is compiled, whatever the training had.

    Args:
        path: a checkpoint or a run folder.
        opts: ``KEY, VALUE, ...``, which replace the checkpoint's own.

    Raises:
        UsageError: no checkpoint, one without config, or of a system that is not installed.
    """
    file = find_checkpoint(path)
    info = read_info(file)
    require_system(info.system, str(file))
    cfg = new_config()
    try:
        content = yaml.safe_load(info.config)
        values = flatten(content)
    except (AttributeError, yaml.YAMLError) as error:
        raise UsageError(f"its config cannot be read ({error})", file, _HINT) from error
    # A section of MODEL is another system's, which need not be installed here.
    foreign = tuple(f"MODEL.{name}." for name in content.get("MODEL", ()) if name not in cfg.MODEL)
    unknown = [k for k in values if not has_key(cfg, k) and not k.startswith(foreign)]
    if unknown:
        logger.warning("Keys of %s that are not known here are left out: %s", file, unknown)
    merge_values(cfg, {k: v for k, v in values.items() if has_key(cfg, k)}, str(file))
    merge_options(cfg, (*_MACHINE_DEFAULTS, *opts))
    cfg.MODEL.WEIGHTS = str(file)
    expect_checkpoint(cfg)
    use_cpu_without_cuda(cfg)
    return cfg


def expect_checkpoint(cfg: CfgNode) -> None:
    """Load no pre-trained weights: a checkpoint carries the encoder and the text embeddings."""
    cfg.MODEL.VIT.WEIGHTS = cfg.MODEL.VIT.STEM_WEIGHTS = cfg.MODEL.CNN.WEIGHTS = ""
    cfg.MODEL.CLIP.SOURCE = "checkpoint"


def _read_file(filename: str) -> dict[str, Any]:
    """Read a file without unpickling; what is only a state dict is put under ``model``."""
    try:
        if filename.endswith(".safetensors"):
            return {"model": load_file(filename)}
        data = torch.load(filename, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many types, and pass on those of bad content
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        what = f"it is no checkpoint that can be read without running code ({reason})"
        raise UsageError(what, filename, f"{_HINT}, or a .safetensors file") from error
    data = data if isinstance(data, dict) and "model" in data else {"model": data}
    fault = _fault_of_state(data["model"])
    if fault:
        raise UsageError(f"it is no checkpoint: {fault}", filename, _HINT)
    return data


def _fault_of_state(state: object) -> str:
    """Return why ``state`` is not the tensors of a model by their names; empty if it is."""
    if not isinstance(state, dict):
        return f"where a model's tensors belong it holds a {type(state).__name__}"
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            return f"under {key!r} it holds a {type(value).__name__} instead of a named tensor"
    return ""
