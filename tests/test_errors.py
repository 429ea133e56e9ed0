# SPDX-License-Identifier: Apache-2.0
"""The sentence of an error."""

import os

from dalnet.errors import UsageError


def test_the_sentence_names_the_place_and_the_way_out():
    error = UsageError("it is 3.", "A.KEY", "set it to 4.")
    assert str(error) == "A.KEY: it is 3; set it to 4."
    assert error.sentence("--key") == "--key: it is 3; set it to 4."
    assert str(UsageError("it is 3")) == "it is 3."


def test_names_that_are_no_utf8_can_be_logged():
    name = os.fsdecode(b"caf\xe9.png")
    error = UsageError("it cannot be read", name)
    assert error.where == name
    assert str(error).encode() == b"caf\\udce9.png: it cannot be read."
