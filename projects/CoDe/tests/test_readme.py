# SPDX-License-Identifier: Apache-2.0
"""The README's commands parse, and its recipes, links and keys exist."""

import re
import shlex
from pathlib import Path

from helpers import code_blocks

from dalnet.cli import build_parser
from dalnet.config import new_config
from dalnet.config.checks import has_key

ROOT = Path(__file__).parents[3]
README = ROOT / "projects" / "CoDe" / "README.md"


def test_commands_parse_and_their_recipes_exist():
    parser, seen = build_parser(), 0
    for block in code_blocks(README, "bash"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["dalnet"]:
                config = getattr(parser.parse_args(words[1:]), "config", None)
                assert not config or (ROOT / config).is_file()
                seen += 1
    assert seen >= 4


def test_recipes_links_and_keys_exist():
    text = README.read_text()
    recipes = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert {p.stem for p in (README.parent / "configs").glob("[a-z]*.yaml")} == recipes
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (README.parent / link).exists(), link
    cfg = new_config()
    for key in re.findall(r"`((?:MODEL|DATALOADER)\.[A-Z_.]+)", text):
        assert has_key(cfg, key.rstrip(".")), key
