# SPDX-License-Identifier: Apache-2.0
"""READMEs and docs: their Python runs, their commands parse, their links lead somewhere."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from string import Template

import numpy as np
import pytest
from helpers import code_blocks
from PIL import Image

from dalnet.cli import build_parser
from dalnet.config.load import find_config

ROOT = Path(__file__).parents[1]
PATTERNS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "projects/*/README.md")
PAGES = [path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]
WRITTEN_BY_READERS = ("my_sweep.yaml", "pets.yaml")

every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def commands(path):
    """Words of each line that calls dalnet, with the block's shell variables put in."""
    for block in code_blocks(path, "bash"):
        lines = re.sub(r"\\\n", " ", block).splitlines()
        values = {}
        for line in lines:
            if found := re.match(r' *(\w+)="(.*)"', line):
                values[found[1]] = found[2]
            found = re.match(r"(?:.*&& )?(?:nohup )?(?:python -m )?dalnet (.*)", line.strip())
            if found:
                text = Template(found[1]).safe_substitute(values)
                yield [w for w in shlex.split(text, comments=True) if w not in (">", "2>&1", "&")]


def test_readme_has_under_200_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_tree_of_the_architecture_is_that_of_the_package():
    spec = importlib.util.spec_from_file_location("update_tree", ROOT / "tools/update_tree.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    hint = "run: python tools/update_tree.py"
    assert tool.tree() in (ROOT / "docs/architecture.md").read_text(), hint


@every_page
def test_commands_parse_and_their_recipes_exist(path):
    parser, found = build_parser(), list(commands(path))
    assert len(found) >= len(re.findall(r"^ *dalnet ", path.read_text(), re.MULTILINE))
    for words in found:
        args = parser.parse_args(words)
        config = getattr(args, "config", None)
        if config and not config.endswith(".yaml"):
            find_config(config)
        elif config and config not in WRITTEN_BY_READERS:
            assert (ROOT / config).is_file(), config


@every_page
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", path.read_text()):
        name, _, heading = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)", file.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, f"{path}: {target}"


def test_python_of_the_readme_runs(voc_model, tmp_path, monkeypatch):
    (code,) = code_blocks(ROOT / "README.md", "python")
    folder = tmp_path / "elsewhere" / "output" / "pets"
    folder.mkdir(parents=True)
    shutil.copy(voc_model.weights, folder / "model_final.pth")
    monkeypatch.chdir(tmp_path / "elsewhere")
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save("dog.jpg")
    names = {}
    exec(code, names)
    assert names["prediction"].labels.shape == (40, 50)
    assert Image.open("dog.png").size == (50, 40)
