# SPDX-License-Identifier: Apache-2.0
"""Rules that a config's values have to keep, checked before anything is built."""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from detectron2.config import CfgNode

from dalnet.errors import UsageError


@dataclass(frozen=True)
class Rule:
    """What the values of some keys have to be.

    Attributes:
        keys: full names, as ``MODEL.CAM.SCALES``.
        is_valid: returns whether a value can be used.
        hint: how to correct one that cannot, a clause without a full stop.
    """

    keys: tuple[str, ...]
    is_valid: Callable[[Any], bool]
    hint: str


@dataclass(frozen=True)
class LatePart:
    """A part of the network that does not learn from the first iteration on.

    Attributes:
        key: full name of the key of its first iteration, counted from 0.
        name: what it is, as "the segmentation head".
        weights: full names of the weights of its losses; where all are 0 it is not to learn.
    """

    key: str
    name: str
    weights: tuple[str, ...]


def get_value(cfg: CfgNode, key: str) -> Any:
    """Return the value of a key by its full name."""
    return reduce(operator.getitem, key.split("."), cfg)


def has_key(cfg: CfgNode, key: str) -> bool:
    """Return whether there is a key or node of this full name."""
    first, dot, rest = key.partition(".")
    return isinstance(cfg, CfgNode) and first in cfg and (not dot or has_key(cfg[first], rest))


def check_rules(cfg: CfgNode, rules: Iterable[Rule]) -> None:
    """Refuse the first value that breaks a rule.

    Raises:
        UsageError: ``where`` is its key.
    """
    for rule in rules:
        for key in rule.keys:
            value = get_value(cfg, key)
            if not rule.is_valid(value):
                raise UsageError(f"it is {value!r}", key, rule.hint)


def at_least(least: float, *keys: str) -> Rule:
    """Return the rule that values are ``least`` or more, and finite."""
    return Rule(keys, lambda value: least <= value < math.inf, f"it must be {least} or more")


def at_most(most: float, *keys: str) -> Rule:
    """Return the rule that values are ``most`` or less."""
    return Rule(keys, lambda value: value <= most, f"it must be {most} or less")


def above_zero(*keys: str) -> Rule:
    """Return the rule that values are above 0, and finite."""
    return Rule(keys, lambda value: 0 < value < math.inf, "it must be above 0")


def fraction(*keys: str) -> Rule:
    """Return the rule that values lie in 0..1."""
    return Rule(keys, lambda value: 0 <= value <= 1, "it must be from 0 to 1")


def one_of(choices: Iterable[object], *keys: str) -> Rule:
    """Return the rule that values are among ``choices``."""
    known = tuple(choices)
    return Rule(keys, known.__contains__, f"set it to one of {', '.join(map(repr, known))}")


def are_positive(values: Sequence[object]) -> bool:
    """Return whether there are values and all are finite numbers above 0."""
    return len(values) > 0 and all(isinstance(v, int | float) and 0 < v < math.inf for v in values)


def are_finite(values: Sequence[object], count: int) -> bool:
    """Return whether the values are this many finite numbers."""
    return len(values) == count and all(
        isinstance(v, int | float) and math.isfinite(v) for v in values
    )


def are_counts(values: Sequence[object]) -> bool:
    """Return whether there are values and all are integers above 0."""
    return are_positive(values) and all(isinstance(v, int) for v in values)


def is_size(values: Sequence[object]) -> bool:
    """Return whether the values are two integers above 0."""
    return len(values) == 2 and are_counts(values)


def is_range(values: Sequence[Any]) -> bool:
    """Return whether the values are two numbers above 0, the smaller one first."""
    return len(values) == 2 and are_positive(values) and values[0] <= values[1]


def is_fraction_range(values: Sequence[Any]) -> bool:
    """Return whether the values are two fractions above 0, the smaller one first."""
    return is_range(values) and values[1] <= 1
