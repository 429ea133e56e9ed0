# SPDX-License-Identifier: Apache-2.0
"""Tags by image, and the two tables that hold them: a column of tags, or one column a tag."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dalnet.data.class_names import fault_of_name
from dalnet.errors import UsageError

_MAX_IMAGES = 4_000_000  # of a file, which take about 2 GB
_NAME_COLUMNS = ("file", "file_name", "filename", "image", "image_id", "name", "path")
_TAG_COLUMNS = ("tags", "tag", "labels", "label", "classes", "class")
_CELLS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": None}


@dataclass
class TagTable:
    """What a file says about images, by the names that it gives them.

    Attributes:
        shown: the tags of each image; empty if the file says that it shows none of the classes,
            None if it names the image but says nothing about it.
        unknown: of an image, the tags that the file leaves open; only where there are any.
        classes: the tags that the file declares, in its order; empty if it declares none.
        places: where in the file an image is named, as "line 3".
    """

    path: Path
    shown: dict[str, list[str] | None] = field(default_factory=dict)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, tags: Sequence[str] | None, place: str) -> None:
        """Add an image; spaces around tags do not count, doubled tags count once.

        Raises:
            UsageError: the image has no name or is named twice, a tag cannot name a class, or there
            are too many images.
        """
        where = f"{self.path}, {place}"
        if len(self.shown) >= _MAX_IMAGES:
            hint = "cut it into several, or label with a list in Parquet"
            raise UsageError(f"it names more than {_MAX_IMAGES:,} images", self.path, hint)
        if not name.strip():
            raise UsageError("an image without a name", where, "name its file")
        if name in self.shown:
            raise UsageError(
                f"{name} is named twice, first in {self.places[name]}",
                where,
                "keep one of them, with all its tags",
            )
        stripped = None if tags is None else [tag.strip() for tag in tags]
        for tag in stripped or ():
            if fault := fault_of_name(tag):
                raise UsageError(f"the tag {tag!r} {fault}", where, "correct the tag")
        self.shown[name] = None if stripped is None else [t for t in dict.fromkeys(stripped) if t]
        self.places[name] = place


def read_table(path: Path, text: str) -> TagTable:
    """Read comma-, semicolon- or tab-separated values with a header.

    The first column names the image. Either the second is called ``tags`` and holds tags separated
    by ``;`` (an empty cell says nothing about the image), or each further column is a tag, whose
    cells are 1, 0 or blank (nothing is known).

    Raises:
        UsageError: another header, another number of cells, a cell of another kind, or several tags
            that are not separated.
    """
    table = TagTable(path)
    rows = _rows(path, text)
    _, header = next(rows, (1, []))
    names = [cell.strip() for cell in header]
    if len(names) < 2 or names[0].casefold() not in _NAME_COLUMNS:
        raise UsageError(
            f"its header is {','.join(names) or 'missing'}",
            where=f"{path}, line 1",
            hint='begin with the line "file,tags", or "file" and one column a tag',
        )
    listed = len(names) == 2 and names[1].casefold() in _TAG_COLUMNS
    if not listed:
        table.classes = names[1:]
        doubled = [name for name, times in Counter(names).items() if times > 1 or not name]
        if doubled:
            what = f"the column {doubled[0]!r} is there twice or has no name"
            raise UsageError(what, f"{path}, line 1", "give each tag one column")
    for number, cells in rows:
        place = f"line {number}"
        if len(cells) != len(names):
            what = f"{len(cells)} cells, but the header has {len(names)}"
            raise UsageError(what, f"{path}, {place}", "put cells that hold a separator in quotes")
        if listed:
            table.add(
                cells[0], cells[1].replace("|", ";").split(";") if cells[1].strip() else None, place
            )
        else:
            _add_flags(table, cells, place)
    if listed:
        _refuse_joined(table)
    return table


def _refuse_joined(table: TagTable) -> None:
    """Refuse what looks like several tags: joined by commas, or a list as Python writes it."""
    tags = {tag for shown in table.shown.values() for tag in shown or ()}
    parts = Counter(part.strip() for tag in tags for part in {*tag.split(",")})
    for name, shown in table.shown.items():
        for tag in shown or ():
            # A comma may be part of a name: "tench, Tinca tinca".
            joined = "," in tag and any(parts[part.strip()] > 1 for part in tag.split(","))
            if joined or (tag.startswith("[") and tag.endswith("]")):
                where = f"{table.path}, {table.places[name]}"
                raise UsageError(f"{tag!r} looks like several tags", where, "write cat;dog")


def _add_flags(table: TagTable, cells: list[str], place: str) -> None:
    """Add a row of ones, zeros and blanks."""
    known: dict[str, bool | None] = {}
    for tag, cell in zip(table.classes, cells[1:], strict=True):
        if cell.strip().casefold() not in _CELLS:
            raise UsageError(
                f"the cell {cell.strip()!r} of {tag!r}",
                where=f"{table.path}, {place}",
                hint="write 1 (shown), 0 (not shown) or nothing (not known)",
            )
        known[tag] = _CELLS[cell.strip().casefold()]
    unknown = [tag for tag, value in known.items() if value is None]
    all_unknown = len(unknown) == len(known)
    table.add(cells[0], None if all_unknown else [t for t, v in known.items() if v], place)
    if unknown and not all_unknown:
        table.unknown[cells[0]] = unknown


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row that is not blank."""
    text = re.sub(r"\r\n?", "\n", text)  # Excel's "CSV (Macintosh)" has \r alone
    # Excel writes the separator into a line of its own.
    text = re.sub(r"^\s*\"?sep=.\"?\n", "\n", text)
    first = text.lstrip().split("\n", 1)[0]
    # The header decides: its names hold no separators.
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise UsageError(
            str(error), f"{path}, line {reader.line_num}", "correct the line"
        ) from error
