# SPDX-License-Identifier: Apache-2.0
"""Rules that a config's values have to keep, checked before anything is built."""

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
        is_valid: whether a value will do.
        hint: how to mend one that will not, as half a sentence.
    """

    keys: tuple[str, ...]
    is_valid: Callable[[Any], bool]
    hint: str


def get_value(cfg: CfgNode, key: str) -> Any:
    """Return the value of a key by its full name."""
    return reduce(operator.getitem, key.split("."), cfg)


def check_rules(cfg: CfgNode, rules: Iterable[Rule]) -> None:
    """Check every rule.

    Raises:
        UsageError: a value that breaks one.
    """
    for rule in rules:
        for key in rule.keys:
            value = get_value(cfg, key)
            if not rule.is_valid(value):
                raise UsageError(f"{key} is {value!r}; {rule.hint}.")


def at_least(least: float, *keys: str) -> Rule:
    """Return the rule that values are ``least`` or more."""
    return Rule(keys, lambda value: value >= least, f"it must be {least} or more")


def above_zero(*keys: str) -> Rule:
    """Return the rule that values are above 0."""
    return Rule(keys, lambda value: value > 0, "it must be above 0")


def fraction(*keys: str) -> Rule:
    """Return the rule that values lie in 0..1."""
    return Rule(keys, lambda value: 0 <= value <= 1, "it must be from 0 to 1")


def one_of(choices: Sequence[str], *keys: str) -> Rule:
    """Return the rule that values are among ``choices``."""
    names = ", ".join(repr(choice) for choice in choices)
    return Rule(keys, lambda value: value in choices, f"set it to one of {names}")


def are_integers(values: Sequence[Any], least: int) -> bool:
    """Return whether all values are integers of at least ``least``."""
    return all(isinstance(value, int) and value >= least for value in values)


def are_positive(values: Sequence[Any]) -> bool:
    """Return whether all values are numbers above 0."""
    return all(isinstance(value, int | float) and value > 0 for value in values)


def is_range(values: Sequence[Any]) -> bool:
    """Return whether the values are two positive numbers, the smaller one first."""
    return len(values) == 2 and are_positive(values) and values[0] <= values[1]
