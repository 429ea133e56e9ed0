# SPDX-License-Identifier: Apache-2.0
"""Parse JSON and YAML from outside: plain values alone, within bounds, or one sentence."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from dalnet.errors import UsageError
from dalnet.io import read_text

_MAX_YAML = 16 << 20  # characters, which take PyYAML minutes
_MAX_VALUES = 1_000_000  # of a YAML text whose aliases are written out


def read_json(path: Path, hint: str = "") -> Any:
    """Return what a JSON file holds, see :func:`parse_json`.

    Raises:
        UsageError: it cannot be read.
    """
    return parse_json(read_text(path), path, hint)


def parse_json(text: str, where: object, hint: str = "") -> Any:
    """Return what a JSON text says.

    Args:
        text: the text.
        where: it comes from, for the error.
        hint: of the error, a clause.

    Raises:
        UsageError: it is no JSON, nested too deeply, or has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_doubled)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not readable JSON ({error})", where, hint) from error


def _without_doubled(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"{key!r} is there twice")
        content[key] = value
    return content


def read_yaml(path: Path, hint: str = "", *, as_text: bool = False) -> Any:
    """Return what a YAML file holds, see :func:`parse_yaml`.

    Raises:
        UsageError: it cannot be read.
    """
    return parse_yaml(read_text(path), path, hint, as_text=as_text)


def parse_yaml(text: str, where: object, hint: str = "", *, as_text: bool = False) -> Any:
    """Return what a YAML text says: lists, mappings and plain values, as other tags run code.

    Args:
        text: the text.
        where: it comes from, for the error.
        hint: of the error, a clause.
        as_text: leave numbers and words as ``no`` as they are written.

    Raises:
        UsageError: it is no YAML, nested too deeply, too large, or has a key twice.
    """
    try:
        if len(text) > _MAX_YAML:
            raise ValueError(f"it has {len(text):,} characters")
        return yaml.load(text, Loader=_TextLoader if as_text else _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"not readable YAML ({error})", where, hint) from error


class _Bounded:
    """Mixed into a loader of PyYAML: refuses keys that occur twice and aliases that multiply."""

    def get_single_node(self) -> yaml.Node | None:
        """Return the text as nodes."""
        node: yaml.Node | None = super().get_single_node()  # type: ignore[misc]
        if node is not None and _count_values(node, {}) > _MAX_VALUES:
            raise ValueError("its aliases stand for too many values")
        return node


class _PlainLoader(_Bounded, yaml.SafeLoader):
    """Reads plain values."""


class _TextLoader(_Bounded, yaml.BaseLoader):
    """Reads all values as text."""


def _count_values(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Return how many values a node stands for when its aliases are written out.

    Raises:
        ValueError: it contains itself, or a mapping in it has a key twice.
    """
    if node not in known:
        known[node] = -1  # not counted to its end
        parts = list(node.value) if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            keys = Counter((k.tag, k.value) for k, _ in parts if isinstance(k, yaml.ScalarNode))
            if doubled := [value for (_, value), times in keys.items() if times > 1]:
                raise ValueError(f"{doubled[0]!r} is there twice")
            parts = [one for pair in parts for one in pair]
        known[node] = 1 + sum(_count_values(part, known) for part in parts)
    if known[node] < 0:
        raise ValueError("an alias in it stands for what it lies in")
    return known[node]
