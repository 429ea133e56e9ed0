# SPDX-License-Identifier: Apache-2.0
"""The README's recipes and keys exist (tests/test_docs.py: its commands and links)."""

import re
from pathlib import Path

from dalnet.config import new_config
from dalnet.config.checks import has_key

README = Path(__file__).parents[1] / "README.md"


def test_recipes_and_keys_exist():
    text = README.read_text()
    assert len(re.findall("^dalnet ", text, re.MULTILINE)) >= 4
    recipes = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert {p.stem for p in (README.parent / "configs").glob("[a-z]*.yaml")} == recipes
    cfg = new_config()
    for key in re.findall(r"`((?:MODEL|DATALOADER)\.[A-Z_.]+)", text):
        assert has_key(cfg, key.rstrip(".")), key
