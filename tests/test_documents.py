# SPDX-License-Identifier: Apache-2.0
"""Documents in JSON, YAML and XML give plain values, or are refused."""

import pytest
from helpers import refused

from dalnet import documents
from dalnet.documents import parse_json, parse_xml, parse_yaml, read_json, read_yaml, write_json


def test_plain_values(tmp_path):
    text = '{"a": [1, 0.5, true, null], "b": {"c": "d"}}'
    (tmp_path / "a").write_text(text)
    content = {"a": [1, 0.5, True, None], "b": {"c": "d"}}
    assert read_json(tmp_path / "a") == read_yaml(tmp_path / "a") == content


def test_what_is_written_is_read_again(tmp_path):
    content = {"a": [1, 0.5, None], "\u72ac": "\udcff"}
    write_json(tmp_path / "new" / "a.json", content, durable=True)
    assert read_json(tmp_path / "new" / "a.json") == content


def test_words_may_stay_as_they_are_written():
    assert parse_yaml("[no, 007]", "") == [False, 7]
    assert parse_yaml("[no, 007]", "", as_text=True) == ["no", "007"]


def test_aliases_that_do_not_multiply_are_read():
    assert parse_yaml("a: &x [1]\nb: *x", "") == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    "text", ["{a: 1, a: 2}", "[{a: 1, b: [1], a: 2}]", "&x [*x]", "!!python/name:os.system", "["]
)
def test_yaml_that_is_refused(text):
    with refused("there", "YAML"):
        parse_yaml(text, "there")


@pytest.mark.parametrize("text", ["", "{", '{"a": 1, "a": 1}', "[" * 100_000])
def test_json_that_is_refused(text):
    with refused("there", "JSON", "do this"):
        parse_json(text, "there", "do this")


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_files_that_are_missing_or_none(tmp_path, read):
    for path in (tmp_path, tmp_path / "missing"):
        with refused(path):
            read(path)


@pytest.mark.parametrize("content", ["<a><b/></a>", '<?xml version="1.0"?><a><b/></a>'])
def test_xml_as_text_and_as_bytes(content):
    for given in (content, content.encode(), content.encode("utf-16")):
        assert [node.tag for node in parse_xml(given, "there")] == ["b"]


@pytest.mark.parametrize("content", ["", "cat", b"", "<a>", '<!DOCTYPE a [<!ENTITY b "c">]><a/>'])
def test_xml_that_is_refused(content):
    with refused("there", "XML"):
        parse_xml(content, "there")


def test_documents_have_bounds(monkeypatch):
    monkeypatch.setattr(documents, "_MAX_JSON_LISTS", 3)
    monkeypatch.setattr(documents, "_MAX_JSON_VALUES", 2)
    monkeypatch.setattr(documents, "_MAX_YAML_PARTS", 3)
    monkeypatch.setattr(documents, "_MAX_ELEMENTS", 2)
    assert parse_json('[{"a": []}, 1, 2]', "") == [{"a": []}, 1, 2]
    assert parse_yaml("[a: [1]]", "") == [{"a": [1]}]
    assert parse_xml("<a></a>", "").tag == "a"
    for parse, text in (
        (parse_json, "[[[[]]]]"),
        (parse_json, "[1, 2, 3, 4]"),
        (parse_yaml, "[1, 2, 3, 4]"),
        (parse_yaml, "a:\n- 1\n- 2\n- 3\n- 4"),
        (parse_xml, "<a><b/></a>"),
    ):
        with refused("there", "more than"):
            parse(text, "there")
