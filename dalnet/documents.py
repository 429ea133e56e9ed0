# SPDX-License-Identifier: Apache-2.0
"""Parse JSON, YAML and XML from outside within bounds, and write JSON."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, AnyStr
from xml.etree.ElementTree import Element

import yaml
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from dalnet.errors import UsageError
from dalnet.io import read_text, write_text

_MAX_YAML = 16 << 20  # characters
_MAX_YAML_PARTS = 500_000  # lines, commas and brackets, which take PyYAML some seconds
_MAX_VALUES = 1_000_000  # of a YAML text whose aliases are written out
_MAX_DIGITS = 4300  # of a number, as Python's own limit for text that is no hexadecimal number
# Largest numbers that fit into 2 GB; COCO's annotations, the largest usual ones, have a third.
_MAX_JSON_LISTS, _MAX_JSON_VALUES, _MAX_ELEMENTS = 16_000_000, 64_000_000, 8_000_000


def read_json(path: Path, hint: str = "") -> Any:
    """Return what a JSON file holds, see :func:`parse_json`.

    Raises:
        UsageError: it cannot be read.
    """
    return parse_json(read_text(path), path, hint)


def write_json(path: Path, content: Any, durable: bool = False) -> None:
    """Write a JSON file, whole or not at all; ``durable`` as in :func:`dalnet.io.atomic_write`.

    Raises:
        UsageError: the file cannot be written.
    """
    write_text(path, json.dumps(content, indent=1) + "\n", durable)


def parse_json(text: str, where: object, hint: str = "") -> Any:
    """Return what a JSON text says.

    Args:
        text: the text.
        where: it comes from, for the error.
        hint: of the error, a clause.

    Raises:
        UsageError: it is no JSON, nested too deeply, too large, or has a key twice.
    """
    try:
        _refuse_many(text, "[{", _MAX_JSON_LISTS)
        _refuse_many(text, ",", _MAX_JSON_VALUES)
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
        _refuse_many(text, "[{,\n", _MAX_YAML_PARTS)
        return yaml.load(text, Loader=_TextLoader if as_text else _PlainLoader)
    except UsageError:
        raise
    except Exception as error:  # Of a tag that does not fit, as !!bool x, PyYAML raises anything.
        raise UsageError(f"not readable YAML ({error})", where, hint) from error


def parse_xml(content: str | bytes, where: object, hint: str = "") -> Element:
    """Return the root of an XML text, whose entities are not replaced.

    Args:
        content: the text, or the bytes of a file that declares its encoding.
        where: it comes from, for the error.
        hint: of the error, a clause.

    Raises:
        UsageError: it is no XML, declares entities, or is too large.
    """
    try:
        if isinstance(content, str):
            # Without the declaration: the text is decoded already.
            content = content[content.index("<") :].encode("utf-8")
        _refuse_many(content, b"<", _MAX_ELEMENTS)
        return fromstring(content)
    # ValueError and LookupError: encodings that the parser cannot read or does not know.
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise UsageError(f"not readable XML ({error})", where, hint) from error


def _refuse_many(text: AnyStr, signs: AnyStr, most: int) -> None:
    """Refuse a text with more than so many of some signs, before a parser makes room for them."""
    count = sum(text.count(signs[place : place + 1]) for place in range(len(signs)))
    if count > most:
        raise ValueError(f"it has more than {most:,} parts")


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
        ValueError: it contains itself, or a mapping in it has a key twice, or a number is too long.
    """
    if node not in known:
        known[node] = -1  # not counted to its end
        if node.tag.endswith((":int", ":float")) and len(node.value) > _MAX_DIGITS:
            raise ValueError(f"a number in it has more than {_MAX_DIGITS:,} digits")
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
