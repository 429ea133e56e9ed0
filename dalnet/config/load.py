# SPDX-License-Identifier: Apache-2.0
"""Read config files and options, and merge them into a config."""

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.utils.file_io import PathManager

from dalnet.assets import CONFIGS, AssetHandler
from dalnet.documents import read_yaml
from dalnet.errors import UsageError

from .checks import get_value, has_key
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


def load_config(config: str, opts: Sequence[object] = ()) -> CfgNode:
    """Return the config of a file, changed by options; not frozen and not checked yet.

    Args:
        config: a path, or the name of a recipe of DALNet, as ``voc_dalnet`` or ``photos/dalnet``.
        opts: ``KEY, VALUE, ...``, which replace the values of the file.

    Raises:
        UsageError: no such file, no config, or a key or value that does not fit.
    """
    cfg = new_config()
    path = find_config(config)
    values = read_values(path)
    require_system(str(values.get("MODEL.META_ARCHITECTURE", "DALNet")), path)
    merge_values(cfg, values, path)
    merge_options(cfg, opts)
    return cfg


def find_config(config: str) -> str:
    """Return the path of a config that is named by a path or as a recipe of DALNet.

    Raises:
        UsageError: there is none; the sentence names the recipes of the most similar names.
    """
    for path in (Path(config), CONFIGS / f"{config}.yaml"):
        if path.is_file():
            return str(path)
    if config.startswith(AssetHandler.PREFIX):
        return config
    recipes = recipe_names()
    nearest = get_close_matches(config.removesuffix(".yaml"), recipes, n=3) or recipes
    raise UsageError(
        "it is neither a file nor a recipe of DALNet",
        where=config or "config",
        hint=f"name a file, or a recipe as {', '.join(nearest)}",
    )


def recipe_names() -> list[str]:
    """Return the names of all config files that come with DALNet, bases and sweeps too, sorted."""
    return sorted(str(p.relative_to(CONFIGS).with_suffix("")) for p in CONFIGS.rglob("*.yaml"))


def read_values(path: str, readers: tuple[str, ...] = ()) -> dict[str, object]:
    """Return the values of a YAML file and of its ``_BASE_``, by full key; its own go first.

    ``readers`` are the files whose ``_BASE_`` led here, so that a circle is found.

    Raises:
        UsageError: a file cannot be read, is no config, or is its own base.
    """
    try:
        local = os.path.realpath(PathManager.get_local_path(path))
        os.stat(local)
    except (OSError, ValueError, RuntimeError) as error:  # the latter of NUL, and of catalog://
        raise UsageError(f"it cannot be read as a config ({error})", path) from error
    content = read_yaml(Path(local))
    if not isinstance(content, dict):
        raise UsageError("it is no config", path, "write lines of KEY: VALUE into it")
    if "runs" in content:
        raise UsageError("it lists the runs of a sweep", path, "give it to dalnet sweep --config")
    if local in readers:
        raise UsageError(f"it leads back to itself by its {_BASE}", path, "name other files there")
    bases = content.pop(_BASE, [])
    values: dict[str, object] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        # A path is relative to the file that names it; an address stands for itself.
        is_address = "://" in str(base)
        if is_address and not str(base).startswith(AssetHandler.PREFIX):
            hint = f"fetch it yourself, and name the file in {path}"
            raise UsageError(f"a {_BASE} is not fetched from elsewhere", base, hint)
        beside = "" if is_address else os.path.dirname(path)
        name = os.path.join(beside, os.path.expanduser(str(base)))
        values |= read_values(name, (*readers, local))
    return values | flatten(content)


def flatten(content: Mapping[object, object], above: str = "") -> dict[str, object]:
    """Return nested values by their full keys, as ``MODEL.CAM.SCALES``; ``above`` goes before."""
    values: dict[str, object] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            values |= flatten(value, f"{above}{key}.")
        else:
            values[f"{above}{key}"] = value
    return values


def merge_options(cfg: CfgNode, opts: Sequence[object]) -> None:
    """Merge ``KEY, VALUE, ...`` into ``cfg``.

    Raises:
        UsageError: a key or value that does not fit, or a flag among the keys.
    """
    keys = [str(key) for key in opts[::2]]
    flags = [word for word in map(str, opts) if word.startswith("--")]
    if flags:
        raise UsageError("it stands behind a config key", flags[0], "flags come before keys")
    if len(opts) % 2:
        raise UsageError("it has no value", keys[-1], "give keys and values in turn: KEY VALUE ...")
    merge_values(cfg, dict(zip(keys, opts[1::2], strict=True)))


def merge_values(cfg: CfgNode, values: Mapping[str, object], source: str = "") -> None:
    """Set keys of ``cfg`` to values, of which strings may be Python literals, as "(1, 2)".

    ``values`` are by full key; ``source`` is the file that they come from, for messages.

    Raises:
        UsageError: a key that does not exist or has another name now, or a value of another type.
    """
    inside = f" in {source}" if source else ""
    for key, value in values.items():
        if not has_key(cfg, key):
            raise UsageError(f"there is no such key{inside}", key, _similar_key(cfg, key))
        default = get_value(cfg, key)
        try:
            # Refused here, because yacs accepts None instead of a value of any type.
            if value in (None, "None") and default is not None:
                raise ValueError
            if value != {} or not isinstance(default, CfgNode):
                cfg.merge_from_list([key, value])
        except ValueError as error:
            hint = f"give a {type(default).__name__}, as {default!r}"
            if isinstance(default, CfgNode):
                hint = f"it is made of the keys below it, as {key}.{next(iter(default), '')}"
            raise UsageError(f"{value!r}{inside} does not fit", key, hint) from error


def _similar_key(cfg: CfgNode, key: str) -> str:
    """Return a hint: the name that a key has now, or a key with a similar name."""
    for old, (new, more) in RENAMED_KEYS.items():
        if f"{key}.".startswith(f"{old}."):
            return f"it has another name now: use {new}{key[len(old) :]}{more}"
    nearest = get_close_matches(key, flatten(cfg), n=1)
    return f"the nearest is {nearest[0]}" if nearest else "every key is listed in dalnet/config"
