# SPDX-License-Identifier: Apache-2.0
"""Normalize names (Unicode), and check that a word can be the name of a class."""

import re
import unicodedata

# Characters that control a terminal or break lines, and halves of characters, which no file holds.
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MAX_LETTERS = 200


def plain_name(name: str) -> str:
    """Return a class, tag or file name in Unicode form NFC, in which names are compared."""
    return unicodedata.normalize("NFC", name)


def fault_of_name(name: str) -> str:
    """Return what is wrong with a name, to be read after it; empty for nothing.

    Names stand in lists with one name a line, in logs and on pages.
    """
    if len(name) > _MAX_LETTERS:
        return f"has {len(name):,} letters, more than {_MAX_LETTERS}"
    return "holds a character that cannot be printed" if _ODD.search(name) else ""
