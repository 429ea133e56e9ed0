# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from helpers import refused

from codeseg.caption_files import captioned_line, find_caption_files, read_captions, read_shard

FILES = "MODEL.CODE.CAPTIONS.FILES"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_files_by_patterns(root):
    pytest.importorskip("braceexpand")
    (root / "cc").mkdir()
    names = [f"cc/0000{i}.tar" for i in range(3)]
    for name in (*names, "own.jsonl"):
        (root / name).touch()
    found = find_caption_files(("own.jsonl", "cc/{00000..00002}.tar"))
    assert found == [root / name for name in ("own.jsonl", *names)]


def test_files_that_are_missing(root):
    pytest.importorskip("braceexpand")
    (root / "00001.tar").touch()
    with refused(FILES, "1 of 2", root / "00002.tar"):
        find_caption_files(("{00001..00002}.tar",))


@pytest.mark.parametrize("pattern", ["cc/{00000..00002.tar", "cc/00000}.tar {"])
def test_braces_that_do_not_fit(root, pattern):
    pytest.importorskip("braceexpand")
    with refused(FILES, pattern):
        find_caption_files((pattern,))


@pytest.mark.parametrize("files", [(), ("captions.txt",)])
def test_files_of_another_kind(root, files):
    with refused(FILES, ".jsonl"):
        find_caption_files(files)


def test_json_lines(tmp_path):
    path = tmp_path / "captions.jsonl"
    lines = [{"image": "a.png", "caption": "a dog", "nouns": ["dog"]},
             {"image": "b/c.png", "caption": "caf\u00e9"}]  # fmt: skip
    path.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    first, second = (captioned_line(tmp_path, line) for line in read_captions(path))
    assert (first.image, first.caption, first.nouns) == (str(tmp_path / "a.png"), "a dog", ("dog",))
    assert (second.image, second.nouns) == (str(tmp_path / "b" / "c.png"), None)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "JSON"),
        ("[1]", "[1]"),
        ('{"caption": "a dog"}', "image"),
        ('{"image": "a.png", "caption": 3}', "caption"),
        ('{"image": "a.png", "caption": "a dog", "nouns": "dog"}', "nouns"),
    ],
)
def test_unusable_lines(tmp_path, line, word):
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image": "a.png", "caption": "a dog"}\n' + line)
    with refused(f"{path}, line 2", word):
        read_captions(path)


def test_no_lines(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text("\n")
    with refused(path):
        read_captions(path)


def test_a_missing_file_of_lines(tmp_path):
    with refused("", tmp_path / "none.jsonl"):
        read_captions(tmp_path / "none.jsonl")


class TestShards:
    @pytest.fixture(autouse=True)
    def _needs_webdataset(self):
        pytest.importorskip("webdataset")

    def test_images_with_captions(self, tmp_path, write_tar):
        path = write_tar(
            tmp_path / "0.tar",
            {"a.jpg": b"1", "a.txt": b" a dog\n", "a.json": b"{}", "b.txt": b"no image",
             "c.png": b"2", "d.PNG": b"3", "d.text": b"caf\xc3\xa9", "d.nouns.json": b'["x"]'},
        )  # fmt: skip
        found = [(one.image, one.caption, one.nouns) for one in read_shard(path)]
        assert found == [(b"1", "a dog", None), (b"2", "", None), (b"3", "caf\u00e9", ("x",))]

    @pytest.mark.parametrize("members", [{}, {"a.json": b"{}"}, {"a.jpg": b"1", "a.json": b"{}"}])
    def test_no_caption_at_all(self, tmp_path, caplog, members, write_tar):
        path = write_tar(tmp_path / "0.tar", members)
        assert not any(one.caption for one in read_shard(path))
        assert f"{path}: no image in it has a caption" in caplog.text

    def test_a_damaged_file_is_read_up_to_the_damage(self, tmp_path, caplog, write_tar):
        members = {f"{i}.{kind}": bytes(5000) for i in range(4) for kind in ("jpg", "txt")}
        path = write_tar(tmp_path / "0.tar", members)
        path.write_bytes(path.read_bytes()[:20000])
        assert 0 < len(list(read_shard(path))) < 4
        assert str(path) in caplog.text

    @pytest.mark.parametrize("nouns", [b"dog", b'{"a": 1}'])
    def test_nouns_that_are_no_list(self, tmp_path, nouns, write_tar):
        path = write_tar(
            tmp_path / "0.tar", {"a.jpg": b"1", "a.txt": b"dog", "a.nouns.json": nouns}
        )
        with refused(f"{path}, a", "nouns"):
            list(read_shard(path))
