# SPDX-License-Identifier: Apache-2.0
"""Config files and options merged into a config, with one sentence for those that cannot be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import yaml
from detectron2.config import CfgNode

from dalnet.errors import UsageError


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a config file, with what it names as its ``_BASE_``, into ``cfg``.

    Raises:
        UsageError: it cannot be read, is no config, or has a key or value that does not fit.
    """
    # Config files come from anywhere: plain values only, nothing that runs code.
    with _refused_if_unusable(path):
        # Read twice: Detectron2 merges what it has read itself, in the version that it is of.
        _check_sections(_Reader.load_yaml_with_base(path, allow_unsafe=False), cfg)
        cfg.merge_from_file(path, allow_unsafe=False)


def merge_options(cfg: CfgNode, opts: Sequence[str], config_file: str) -> None:
    """Merge ``KEY, VALUE, ...`` into ``cfg``, which holds ``config_file``.

    Raises:
        UsageError: a key or value that does not fit.
    """
    with _refused_if_unusable(f"an option behind {config_file}"):
        for key, value in zip(opts[::2], opts[1::2], strict=False):
            parts = reversed(key.split("."))
            _check_sections(reduce(lambda inner, part: {part: inner}, parts, value), cfg)
        cfg.merge_from_list(list(opts))


class _Reader(CfgNode):
    """Reads files as Detectron2 does, but names the one among them that is no config."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Read a file and, through this same method, each ``_BASE_``."""
        try:
            content = super().load_yaml_with_base(filename, allow_unsafe)
        except (AttributeError, TypeError):  # nothing at all, or a number for a path
            content = None
        if not isinstance(content, dict):
            raise UsageError(
                f"{filename} is no config: write lines of KEY: VALUE into it and, if it has a "
                "_BASE_, the path of another config there."
            )
        return content


def _check_sections(content: dict[str, Any], cfg: CfgNode, above: str = "") -> None:
    """Refuse a value in the place of further keys, and the reverse; other keys are not looked at.

    Raises:
        ValueError: which key it is.
    """
    for key, value in content.items():
        own, name = cfg.get(key), f"{above}{key}"
        if isinstance(own, CfgNode) and isinstance(value, dict):
            _check_sections(value, own, f"{name}.")
        elif isinstance(own, CfgNode):
            raise ValueError(f"{name} is {value!r}, but it is made of the keys below it")
        elif key in cfg and isinstance(value, dict):
            raise ValueError(f"{name} has no keys below it such as {', '.join(map(str, value))}")


@contextmanager
def _refused_if_unusable(what: str) -> Iterator[None]:
    """Turn what Detectron2 and YAML raise, in as many types as they have parts, into a sentence."""
    try:
        yield
    except RecursionError as error:
        raise UsageError(
            f"{what} cannot be used: it leads back to itself, by its _BASE_ or an alias; have it "
            "name other files only."
        ) from error
    except (
        AssertionError,
        AttributeError,
        KeyError,
        OSError,
        TypeError,
        ValueError,
        yaml.YAMLError,
    ) as error:
        # str() puts quotes around the text of a KeyError.
        plain = error.args[0] if isinstance(error, KeyError) and error.args else error
        message = (str(plain) or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"{what} cannot be used: {message}; every key is listed in dalnet/config.py and "
            "Detectron2's documentation."
        ) from error
