# SPDX-License-Identifier: Apache-2.0
"""Tables of tags: one column of tags, or one column a tag."""

import csv
from contextlib import suppress

import pytest
from helpers import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from dalnet.data.tags import read_tags, table
from dalnet.errors import UsageError


@pytest.fixture
def read(tmp_path):
    def execute(text, name="tags.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return read_tags(path)

    return execute


def test_a_column_of_tags(read):
    found = read("file,tags\na.jpg,cat;dog\nb/c.png, dog \nd.jpg,\n")
    assert found.shown == {"a.jpg": ["cat", "dog"], "b/c.png": ["dog"], "d.jpg": None}
    assert found.classes == [] and found.unknown == {}


def test_a_table_has_a_bound(read, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_MAX_IMAGES", 2)
    assert len(read("file,tags\na.jpg,cat\nb.jpg,cat\n").shown) == 2
    with refused(tmp_path / "tags.csv"):
        read("file,tags\na.jpg,cat\nb.jpg,cat\nc.jpg,cat\n")


def test_a_column_a_tag(read):
    found = read("image,cat,dog\na.jpg,1,0\nb.jpg,0,0\nc.jpg,1,\nd.jpg,,\n")
    assert found.shown == {"a.jpg": ["cat"], "b.jpg": [], "c.jpg": ["cat"], "d.jpg": None}
    assert found.unknown == {"c.jpg": ["dog"]}
    assert found.classes == ["cat", "dog"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_line_ends_and_encodings_do_not_matter(read, separator, ending, encoding):
    lines = [["file", "tags"], ["a.jpg", "Käfer"], [], ["b.jpg", "cat|dog"]]
    text = ending.join(separator.join(line) for line in lines)
    if separator == ";":
        text = f"sep=;{ending}{text}"
    assert read(text, encoding=encoding).shown == {"a.jpg": ["Käfer"], "b.jpg": ["cat", "dog"]}


def test_cells_in_quotes(read):
    assert read('file,tags\n"a, b.jpg","cat;cat"\n').shown == {"a, b.jpg": ["cat"]}


def test_names_with_a_comma_and_the_line_that_excel_puts_first(read):
    text = "sep=;\nfile;tags\na.jpg;tench, Tinca tinca\nb.jpg;cat\n"
    assert read(text).shown == {"a.jpg": ["tench, Tinca tinca"], "b.jpg": ["cat"]}


@pytest.mark.parametrize(
    "text",
    [
        'a.jpg,"cat, dog"\nb.jpg,cat\n',
        'a.jpg,"cat,dog"\nb.jpg,"cat,bird"\n',
        "a.jpg,['cat']\n",
        "a.jpg,\"['cat', 'dog']\"\n",
    ],
)
def test_several_tags_that_are_not_separated_are_refused(read, text):
    with refused("line 2", ";"):
        read(f"file,tags\n{text}")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "tags.csv"),
        ("file,tags\n", "tags.csv"),
        ("a.jpg,cat\n", "line 1"),
        ("file\na.jpg\n", "line 1"),
        ("file,cat,cat\na.jpg,1,1\n", "line 1"),
        ("file,cat,\na.jpg,1,1\n", "line 1"),
        ("file,tags\na.jpg,cat,dog\n", "line 2"),
        ("file,tags\na.jpg,cat\na.jpg,dog\n", "line 3"),
        ("file,tags\n ,cat\n", "line 2"),
        ("file,cat,dog\na.jpg,1,maybe\n", "line 2"),
        ('file,tags\n"a.jpg,cat\n', "line"),
    ],
)
def test_what_cannot_be_read_names_the_line(read, text, where):
    with refused(where):
        read(text)


def test_other_kinds_of_files_are_refused(read, tmp_path):
    with refused("tags.xlsx"):
        read("file,tags\n", "tags.xlsx")
    with refused("gone.csv"):
        read_tags(tmp_path / "gone.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\x81\x00\x9d")
    with refused("bytes.csv"):
        read_tags(tmp_path / "bytes.csv")


CHARACTERS = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters=";|,[]")
WORDS = st.text(CHARACTERS, min_size=1, max_size=8).filter(lambda word: word.strip() == word != "")


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(WORDS, st.lists(WORDS, unique=True, max_size=3), min_size=1, max_size=5),
    st.sampled_from(",;\t"),
)
def test_what_csv_writes_is_read_back(tmp_path_factory, tags, delimiter):
    path = tmp_path_factory.getbasetemp() / "tags.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(["file", "tags"])
        writer.writerows([name, ";".join(shown)] for name, shown in tags.items())
    assert read_tags(path).shown == {name: shown or None for name, shown in tags.items()}


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=60) | st.binary(max_size=60),
    st.sampled_from(["csv", "tsv", "json", "jsonl", "xml"]),
)
def test_any_text_is_a_table_or_a_sentence(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    path.write_bytes(
        content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    )
    with suppress(UsageError):
        assert read_tags(path).shown
