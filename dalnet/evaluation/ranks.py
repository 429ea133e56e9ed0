# SPDX-License-Identifier: Apache-2.0
"""Bring together what several ranks have measured."""

from typing import TypeVar

from detectron2.utils import comm

Value = TypeVar("Value")


def gather(value: Value) -> list[Value]:
    """Return the values of all ranks on the main rank, and an empty list on the others.

    All ranks return once the main rank has read everything: a rank that ends resets its
    connections, and what is still on its way would be lost.
    """
    values = comm.gather(value)
    comm.synchronize()
    return values
