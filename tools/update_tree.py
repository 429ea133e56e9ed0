#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Write the tree of docs/architecture.md anew: each file of the package with its first line.

python tools/update_tree.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "## The tree\n", "Beside the package:"
WIDTH = 27
OTHERS = {
    ".css": "Its style.",
    ".j2": "The page as a jinja2 template.",
    ".js": "Its filter.",
}


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN), text.index(END)
    PAGE.write_text(text[:begin] + tree() + text[end:], encoding="utf-8")


def tree() -> str:
    """Return the section of the page."""
    lines = ["dalnet/", *lines_of(ROOT / "dalnet", "  ")]
    return "\n".join([BEGIN, "```", *lines, "```", "", ""])


def lines_of(folder: Path, indent: str) -> Iterator[str]:
    """Yield a line for each file and package below a folder, files first."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        index = path / "__init__.py"
        if index.is_file():
            yield f"{indent}{path.name + '/':<{WIDTH - len(indent)}}{first_line(index)}"
            yield from lines_of(path, indent + "  ")
        elif path.suffix in OTHERS or (path.suffix == ".py" and path.name != "__init__.py"):
            about = OTHERS.get(path.suffix) or first_line(path)
            yield f"{indent}{path.name:<{WIDTH - len(indent)}}{about}"


def first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return text.splitlines()[0] if text else ""


if __name__ == "__main__":
    main()
