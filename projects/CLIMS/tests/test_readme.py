# SPDX-License-Identifier: Apache-2.0
"""The README's recipes exist, and its YAML is read (tests/test_docs.py: commands and links)."""

import re
from pathlib import Path

import yaml
from helpers import code_blocks

from clims import refine
from clims.texts import read_texts

README = Path(__file__).parents[1] / "README.md"


def test_recipes_exist():
    text = README.read_text()
    assert len(re.findall("^dalnet ", text, re.MULTILINE)) == 13
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    recipes = [name for row in rows for name in re.findall(r"`(\w+)`", row) if "clims" in name]
    assert len(recipes) == 12
    assert all((README.parent / "configs" / f"{name}.yaml").is_file() for name in recipes)


def test_texts_of_the_readme(tmp_path):
    (block,) = code_blocks(README, "yaml")
    assert set(yaml.safe_load(block)) == {"words", "background"}
    (tmp_path / "mine.yaml").write_text(block)
    assert read_texts(str(tmp_path / "mine.yaml"), ["cat", "dog"]).background[0] == "grass"


def test_the_command_tells_its_methods():
    assert all(f"--refine {method}" in (refine.__doc__ or "") for method in refine.METHODS)
