# SPDX-License-Identifier: Apache-2.0
"""Build trained models, and the configs to use them with."""

import logging
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model

import dalnet.modeling  # noqa: F401  registers the network's parts
from dalnet.config import fill_class_names, load_config, new_config, require_system
from dalnet.config.checks import check_rules, has_key
from dalnet.config.dalnet import SIZE_RULES
from dalnet.config.load import flatten, merge_options, merge_values
from dalnet.config.validation import use_cpu_without_cuda
from dalnet.documents import parse_yaml
from dalnet.errors import UsageError
from dalnet.modeling.memory import is_out_of_memory
from dalnet.modeling.meta_arch import WeakSegmentor

from .checkpointer import Checkpointer
from .files import HINT, INFO, KEY, find_checkpoint, read_file
from .info import read_info

# Keys that said how the training ran on its machine, and their values for this one.
_MACHINE_DEFAULTS = ("MODEL.DEVICE", "cuda", "MODEL.VIT.COMPILE", "")
# Schemes of addresses that Detectron2 fetches files from.
_FETCHED = ("http", "https", "ftp", "detectron2", "catalog")

logger = logging.getLogger(__name__)


def load_model(cfg: CfgNode, resume: bool = False) -> WeakSegmentor:
    """Build the model with ``MODEL.WEIGHTS`` or, with ``resume``, ``OUTPUT_DIR``'s newest weights.

    Raises:
        UsageError: there are no weights, they do not fit, or the model does not fit into memory.
    """
    try:
        model = build_model(cfg)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        what = f"the model that its config describes does not fit into memory ({error})"
        hint = "free memory, or name another checkpoint"
        raise UsageError(what, cfg.MODEL.WEIGHTS or KEY, hint) from error
    checkpointer = Checkpointer(model, save_dir=cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (resume and checkpointer.has_checkpoint()):
        key, hint = ("OUTPUT_DIR", f"{cfg.OUTPUT_DIR} holds none; ") if resume else (KEY, "")
        raise UsageError("there is no checkpoint to load", key, f"{hint}name one as {KEY}")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return model


def config_for(
    weights: str | Path | None = None, config: str | None = None, opts: Sequence[str] = ()
) -> CfgNode:
    """Return the config to use a trained model with, from a file or from its checkpoint.

    Args:
        weights: a checkpoint or a run folder; where not given, the ``MODEL.WEIGHTS`` of ``opts`` or
            of the config.
        config: a config file or the name of a recipe; where not given, the config in the
            checkpoint, see :func:`config_of_checkpoint`. Where neither it nor its data set names
            classes, they are the checkpoint's.
        opts: ``KEY, VALUE, ...``, which replace values of the config.

    Returns:
        The config, not frozen. Its ``MODEL.WEIGHTS`` is the checkpoint, and pre-trained weights are
        not loaded beside it. Without ``config``, ``OUTPUT_DIR`` is the folder of the checkpoint
        unless ``opts`` name another.

    Raises:
        UsageError: no model is named, or a file, key or value cannot be used.
    """
    options = dict(zip(opts[::2], opts[1::2], strict=False))
    cfg = load_config(config, opts) if config else None
    named = str(weights or options.get(KEY) or (cfg.MODEL.WEIGHTS if cfg else ""))
    if not named:
        raise UsageError("no model is named", "weights", "give a checkpoint or a run folder")
    if cfg is None:
        cfg = config_of_checkpoint(named, opts)
        if "OUTPUT_DIR" not in options:
            cfg.OUTPUT_DIR = str(Path(cfg.MODEL.WEIGHTS).parent)
        return cfg
    file = find_checkpoint(named)
    cfg.MODEL.WEIGHTS = str(file)
    fill_class_names(cfg)
    if not cfg.MODEL.CLASS_NAMES and INFO in read_file(str(file)):
        # Neither the config nor its data set names classes, as where the data set is not here.
        info = read_info(file)
        cfg.MODEL.CLASS_NAMES = tuple(info.class_names)
        cfg.MODEL.PROMPT_NAMES = tuple(info.prompt_names)
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
    content = parse_yaml(info.config, file, HINT)
    try:
        values = flatten(content)
        sections = content.get("MODEL", {}).keys()
    except AttributeError as error:
        raise UsageError(f"its config cannot be read ({error})", file, HINT) from error
    # Unknown sections of MODEL belong to other systems, which need not be installed here.
    foreign = tuple(f"MODEL.{name}." for name in sections if name not in cfg.MODEL)
    unknown = [k for k in values if not has_key(cfg, k) and not k.startswith(foreign)]
    if unknown:
        logger.warning("Keys of %s that are not known here are left out: %s", file, unknown)
    merge_values(cfg, {k: v for k, v in values.items() if has_key(cfg, k)}, str(file))
    check_rules(cfg, SIZE_RULES)
    _forget_addresses(cfg, file)
    merge_options(cfg, (*_MACHINE_DEFAULTS, *opts))
    cfg.MODEL.WEIGHTS = str(file)
    expect_checkpoint(cfg)
    use_cpu_without_cuda(cfg)
    return cfg


def _forget_addresses(cfg: CfgNode, file: Path) -> None:
    """Forget where CLIP was fetched from, as nothing is fetched that the user has not named."""
    clip = cfg.MODEL.CLIP
    if clip.WEIGHTS.partition("://")[0] in _FETCHED:
        message = "%s names %s, which is not fetched; where it is wanted, name it yourself as %s"
        logger.warning(message, file, clip.WEIGHTS, "MODEL.CLIP.WEIGHTS")
        clip.WEIGHTS = ""


def expect_checkpoint(cfg: CfgNode) -> None:
    """Change ``cfg`` so that no pre-trained weights are loaded.

    A checkpoint holds the encoder and the text embeddings.
    """
    cfg.MODEL.VIT.WEIGHTS = cfg.MODEL.VIT.STEM_WEIGHTS = cfg.MODEL.CNN.WEIGHTS = ""
    cfg.MODEL.CLIP.SOURCE = "checkpoint"
