# SPDX-License-Identifier: Apache-2.0
"""What a hostile file is: how it is made, what reads it, and how it is to be answered."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFUSED = "refused"  # by one sentence, a UsageError
LEFT_OUT = "left out"  # and named in the log
HARMLESS = "harmless"  # read, as what it says does no harm


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Attributes:
        name: what is wrong with it.
        make: writes it into a folder, and returns its path.
        read: gives the path to the code that reads such files.
        expect: how it is answered.
    """

    name: str
    make: Callable[[Path], Any]
    read: Callable[[Any], Any]
    expect: str = REFUSED
