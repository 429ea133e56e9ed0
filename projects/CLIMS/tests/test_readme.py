# SPDX-License-Identifier: Apache-2.0
"""The README's commands parse, and its recipes, links and YAML exist."""

import re
import shlex
from pathlib import Path

import yaml
from helpers import code_blocks

from clims import refine
from clims.texts import read_texts
from dalnet.cli import build_parser

ROOT = Path(__file__).parents[3]
README = ROOT / "projects" / "CLIMS" / "README.md"


def commands():
    for block in code_blocks(README, "bash"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            yield shlex.split(line, comments=True)


def test_commands_parse_and_their_recipes_exist():
    parser, seen = build_parser(), 0
    for words in commands():
        if words[:1] == ["dalnet"]:
            config = getattr(parser.parse_args(words[1:]), "config", None)
            assert not config or (ROOT / config).is_file()
            seen += 1
    assert seen == 13


def test_recipes_and_links_exist():
    text = README.read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    recipes = [name for row in rows for name in re.findall(r"`(\w+)`", row) if "clims" in name]
    configs = ROOT / "projects" / "CLIMS" / "configs"
    assert len(recipes) == 12
    assert all((configs / f"{name}.yaml").is_file() for name in recipes)
    for target in re.findall(r"\]\((?!https?://)([^)#\s]+)", text):
        assert (README.parent / target).exists(), target


def test_texts_of_the_readme(tmp_path):
    (block,) = code_blocks(README, "yaml")
    assert set(yaml.safe_load(block)) == {"words", "background"}
    (tmp_path / "mine.yaml").write_text(block)
    assert read_texts(str(tmp_path / "mine.yaml"), ["cat", "dog"]).background[0] == "grass"


def test_the_command_tells_its_methods():
    assert all(f"--refine {method}" in (refine.__doc__ or "") for method in refine.METHODS)
