# SPDX-License-Identifier: Apache-2.0
"""Config files and options, merged into a config or refused in one sentence."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from dalnet.assets import CONFIGS
from dalnet.errors import UsageError

from .dalnet import RENAMED_KEYS, add_dalnet_config
from .systems import installed_systems, require_system

_BASE = "_BASE_"


def new_config() -> CfgNode:
    """Return Detectron2's config with the keys of DALNet and of every installed system."""
    cfg = get_cfg()
    add_dalnet_config(cfg)
    for system in installed_systems().values():
        system.add_config(cfg)
    return cfg


def load_config(config: str, opts: Sequence[str] = ()) -> CfgNode:
    """Read a config file, then ``KEY, VALUE, ...``.

    Args:
        config: a path, or the name of a recipe that comes with DALNet, as ``voc_dalnet`` or
            ``photos/dalnet``.
        opts: keys and values that go before those of the file.

    Returns:
        The config, not frozen and not checked yet.

    Raises:
        UsageError: no such file, no config, or a key or value that does not fit.
    """
    cfg = new_config()
    merge_file(cfg, find_config(config))
    merge_options(cfg, opts)
    return cfg


def find_config(config: str) -> str:
    """Return the path of a config that is named by a path or as a recipe of DALNet.

    Raises:
        UsageError: there is none.
    """
    if not config:
        raise UsageError("No config was given; name a file or a recipe, as voc_dalnet.")
    recipe = CONFIGS / f"{config}.yaml"
    for path in (Path(config), recipe):
        if path.is_file():
            return str(path)
    if config.startswith("dalnet://"):
        return config
    raise UsageError(
        f"The config {config} does not exist, neither as a file nor as a recipe in {CONFIGS}."
    )


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a config file, with what it names as its ``_BASE_``, into ``cfg``.

    Raises:
        UsageError: it cannot be read, is no config, or has a key or value that does not fit.
    """
    with _refused_if_unusable(path):
        content = _read_with_base(path, ())
        model = content.get("MODEL")
        if isinstance(model, dict) and "META_ARCHITECTURE" in model:
            require_system(model["META_ARCHITECTURE"], path)
        merge_content(cfg, content)


def merge_content(cfg: CfgNode, content: dict[str, Any]) -> None:
    """Merge nested keys, as a YAML file has them, into ``cfg``.

    Raises:
        KeyError, TypeError, ValueError: a key that does not exist or a value that does not fit.
        UsageError: a key that has another name now.
    """
    _refuse_renamed(content)
    _check_nodes(content, cfg)
    cfg.merge_from_other_cfg(CfgNode(content))


def merge_options(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Merge ``KEY, VALUE, ...`` into ``cfg``.

    Raises:
        UsageError: a key or value that does not fit.
    """
    with _refused_if_unusable(" ".join(map(str, opts))):
        for key, value in zip(opts[::2], opts[1::2], strict=False):
            parts = reversed(key.split("."))
            content = reduce(lambda inner, part: {part: inner}, parts, value)
            _refuse_renamed(content)
            _check_nodes(content, cfg)
        cfg.merge_from_list(list(opts))


def _read_with_base(path: str, readers: tuple[str, ...]) -> dict[str, Any]:
    """Read a file over its bases, which may have bases of their own."""
    local = os.path.realpath(PathManager.get_local_path(path))
    if local in readers:
        raise ValueError(f"it leads back to itself, by its {_BASE}; name other files only")
    with open(local, encoding="utf-8") as stream:
        # Plain values only: a config comes from anywhere, and YAML's other tags run code.
        content = yaml.safe_load(stream)
    if not isinstance(content, dict):
        raise UsageError(
            f"{path} is no config: write lines of KEY: VALUE into it and, if it has a {_BASE}, "
            "the path of another config there."
        )
    named = content.pop(_BASE, [])
    bases = named if isinstance(named, list) else [named]
    merged: dict[str, Any] = {}
    for base in bases:
        if not isinstance(base, str):
            raise UsageError(f"{path} is no config: its {_BASE} is {base!r}; give a path there.")
        found = _read_with_base(_beside(path, base), (*readers, local))
        _overlay(found, merged)
    _overlay(content, merged)
    return merged


def _beside(path: str, base: str) -> str:
    """Return the path of a base, which is relative to the file that names it."""
    base = os.path.expanduser(base)
    if "://" in base:
        return base
    return os.path.join(os.path.dirname(path), base)


def _overlay(upper: Mapping[str, Any], lower: dict[str, Any]) -> None:
    """Put the values of ``upper`` over those of ``lower``, in place, key by key."""
    for key, value in upper.items():
        if isinstance(value, dict) and isinstance(lower.get(key), dict):
            _overlay(value, lower[key])
        else:
            lower[key] = value


def _check_nodes(content: Mapping[str, Any], cfg: CfgNode, above: str = "") -> None:
    """Refuse a value in the place of further keys, and the reverse; other keys are not looked at.

    Raises:
        ValueError: which key it is.
    """
    for key, value in content.items():
        own, name = cfg.get(key), f"{above}{key}"
        if isinstance(own, CfgNode) and isinstance(value, dict):
            _check_nodes(value, own, f"{name}.")
        elif isinstance(own, CfgNode):
            raise ValueError(f"{name} is {value!r}, but it is made of the keys below it")
        elif key in cfg and isinstance(value, dict):
            raise ValueError(f"{name} has no keys below it such as {', '.join(map(str, value))}")


def _refuse_renamed(content: Mapping[str, Any]) -> None:
    for key in _full_names(content):
        old = next((o for o in RENAMED_KEYS if key == o or key.startswith(f"{o}.")), None)
        if old is not None:
            new, hint = RENAMED_KEYS[old]
            raise UsageError(f"{key} has another name now: use {new}{key[len(old) :]}{hint}.")


def _full_names(content: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _full_names(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


@contextmanager
def _refused_if_unusable(what: str) -> Iterator[None]:
    """Turn what Detectron2 and YAML raise, in as many types as they have parts, into a sentence."""
    try:
        yield
    except (
        AssertionError,
        AttributeError,
        KeyError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
        yaml.YAMLError,
    ) as error:
        # str() puts quotes around the text of a KeyError.
        plain = error.args[0] if isinstance(error, KeyError) and error.args else error
        message = (str(plain) or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"{what} cannot be used: {message}; every key is listed in dalnet/config and "
            "Detectron2's documentation."
        ) from error
