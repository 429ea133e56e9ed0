# SPDX-License-Identifier: Apache-2.0
"""Label maps made by a Ray Data job, beside those of the plain command."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from dalnet.cli import main

TAGS = {"a": ["cat"], "b": ["dog", "cat"], "sub/c": ["dog"], "d": ["cat"], "e": []}


@pytest.fixture
def folder(tmp_path):
    """Five images, and one that cannot be read."""
    folder = tmp_path / "own"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(TAGS):
        noise = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all tests: it takes seconds to start."""
    pytest.importorskip("ray").init(
        address="local", num_cpus=3, num_gpus=0, include_dashboard=False
    )
    yield
    sys.modules["ray"].shutdown()


def write_list(path, rows):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    content = {"file": [file for file, _ in rows], "tags": [tags for _, tags in rows]}
    parquet.write_table(pa.table(content), path)
    return path


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def label(model, output, *options):
    argv = ["label", "--weights", model.weights, "--output", output, "--protocol", "ss", *options]
    main([str(word) for word in argv])


def read_output(output):
    """Masks by image, and reasons by rejected image; every image once."""
    dataset = pytest.importorskip("pyarrow.dataset")
    rows = dataset.dataset(output / "masks").to_table().to_pylist()
    assert len(rows) == len({row["file"] for row in rows})
    masks = {r["file"]: np.array(Image.open(io.BytesIO(r["mask"]))) for r in rows if r["mask"]}
    rejected = dataset.dataset(output / "rejected.parquet").to_table().to_pylist()
    return masks, {row["file"]: row["reason"] for row in rejected}


def lose_shards(output):
    """Undo a finished job as a kill would have: one shard is not there, one is not committed."""
    first, second, *_ = sorted((output / "checkpoint").iterdir())
    for shard in (output / "masks").glob(f"{first.stem}*"):
        shard.unlink()
    first.unlink()
    second.rename(second.with_name(f"{second.stem}.pending.parquet"))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("dalnet.labeling.cluster._BLOCK", 2)


@pytest.mark.extra
@pytest.mark.usefixtures("cluster", "small_blocks")
def test_masks_of_a_list_are_those_of_the_plain_command(voc_model, folder, tmp_path, capsys):
    rows = [(f"{name}.png", tags) for name, tags in TAGS.items()]
    rows += [("broken.png", ["cat"]), ("none.png", ["cat"]), ("../own/a.png", ["cat"])]
    places = write_list(tmp_path / "list.parquet", [*rows, ("untagged.png", None)])
    (tmp_path / "tags.json").write_text(json.dumps({**dict(rows[:6])}))
    label(voc_model, tmp_path / "plain", "--images", folder, "--tags", tmp_path / "tags.json")
    argv = ["--engine", "ray", "--images", folder, "--tags", places]
    argv += ["--cpus", 0.5, "--shard-size", 2]
    output = tmp_path / "out"
    label(voc_model, output, *argv)
    assert "5 images are labeled, 4 rejected" in capsys.readouterr().out
    masks, rejected = read_output(output)
    assert masks.keys() == {f"{name}.png" for name in TAGS}
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, np.array(Image.open(tmp_path / "plain/masks" / name)))
    assert rejected.keys() == {"broken.png", "none.png", "../own/a.png", "untagged.png"}
    assert "outside" in rejected["../own/a.png"] and "tags" in rejected["untagged.png"]

    lose_shards(output)
    kept = {path: path.stat().st_mtime_ns for path in (output / "masks").iterdir()}
    assert len(kept) == 4  # the second of them is of no use, its checkpoint not being there
    label(voc_model, output, *argv)
    assert read_output(output)[0].keys() == masks.keys()
    assert read_output(output)[1] == rejected
    still = {path: path.stat().st_mtime_ns for path in (output / "masks").iterdir()}
    assert len(still.items() & kept.items()) == 3
    with pytest.raises(SystemExit):
        label(voc_model, output, *argv, "--untagged", "none")
    assert "settings" in capsys.readouterr().err


@pytest.mark.extra
@pytest.mark.usefixtures("cluster", "small_blocks")
def test_shards_are_labeled_by_the_tags_in_them(voc_model, folder, tmp_path, capsys):
    content = {name: (folder / f"{name}.png").read_bytes() for name in TAGS}
    jpeg = io.BytesIO()
    Image.open(folder / "a.png").save(jpeg, "JPEG")
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shard(
        shards / "0.tar",
        [
            ("a.png", content["a"]),
            ("a.json", b'{"tags": ["cat"]}'),
            ("b.JPG", jpeg.getvalue()),
            ("b.cls", b"1"),
            ("c.png", content["d"]),
            ("c.json", b"[" * 9000),
        ],
    )
    write_shard(
        shards / "1.tar",
        [("a.png", content["b"]), ("a.json", b'{"tags": ["cat", "dog"]}'), ("b.cls", b"cat")],
    )
    argv = ["--engine", "ray", "--images", shards, "--shard-size", 1]
    output = tmp_path / "out"
    label(voc_model, output, *argv)
    assert "3 images are labeled, 2 rejected" in capsys.readouterr().out
    masks, rejected = read_output(output)
    assert {Path(name).parts[-2:] for name in masks} == {
        ("0.tar", "a"),
        ("0.tar", "b"),
        ("1.tar", "a"),
    }
    assert {Path(name).parts[-2:] for name in rejected} == {("0.tar", "c"), ("1.tar", "b")}
    lose_shards(output)
    label(voc_model, output, *argv)
    assert read_output(output)[0].keys() == masks.keys()

    (shards / "1.tar").write_bytes((shards / "1.tar").read_bytes()[:2000])
    with pytest.raises(SystemExit):
        label(voc_model, tmp_path / "damaged", *argv)
    assert "the job stopped" in capsys.readouterr().err


@pytest.mark.extra
@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([], "no image"),
        ([("a.png", ["cat"]), ("a.png", ["dog"])], "twice"),
        ([("a.png", ["cat"]), (None, ["cat"])], "no file"),
        ([("a.png", "cat;cow")], "cow"),
        ([("a.png", [1])], "int64"),
        ([(b"a.png", ["cat"])], "binary"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, rows, word):
    pytest.importorskip("ray")
    from dalnet.labeling.cluster_input import find_list

    path = write_list(tmp_path / "list.parquet", rows or [("a.png", ["cat"])])
    if not rows:
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(parquet.read_table(path).slice(0, 0), path)
    with refused(path, word):
        find_list(str(path), ("background", "cat", "dog"))


@pytest.mark.extra
@pytest.mark.parametrize("field", ["row group", "file"])
def test_a_list_that_claims_more_than_it_holds_is_refused_before_it_is_read(tmp_path, field):
    pytest.importorskip("ray")
    from dalnet.labeling.cluster_input import find_list

    path = write_list(tmp_path / "list.parquet", [("a.png", ["cat"])] * 7)
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    head, about = content[: -8 - footer], content[-8 - footer : -8]
    # Compact Thrift: field 2 of a row group (total_byte_size) and field 3, its rows; or the file's.
    seven = b"\x16\x0e"  # an i64 of 7
    at = about.rindex(seven) if field == "row group" else about.index(seven)
    about = about[:at] + b"\x16" + varint(7 << 40) + about[at + 2 :]
    path.write_bytes(head + about + len(about).to_bytes(4, "little") + b"PAR1")
    with refused(path, "claims"):
        find_list(str(path), ("background", "cat", "dog"))


def varint(number):
    """Return a number as compact Thrift writes it."""
    number, parts = 2 * number, []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


@pytest.mark.extra
@pytest.mark.parametrize("old", [b"a.png", b"cat"])
def test_a_list_with_bytes_that_are_no_text_is_refused(tmp_path, old):
    pytest.importorskip("ray")
    from dalnet.labeling.cluster_input import find_list

    path = write_list(tmp_path / "list.parquet", [("a.png", ["cat"])])
    path.write_bytes(path.read_bytes().replace(old, b"\x9f" + old[1:]))
    with refused(path, "Parquet"):
        find_list(str(path), ("background", "cat", "dog"))


@pytest.mark.extra
def test_a_list_without_tags_is_refused(tmp_path):
    pytest.importorskip("ray")
    from dalnet.labeling.cluster_input import find_list

    parquet = pytest.importorskip("pyarrow.parquet")
    path = write_list(tmp_path / "list.parquet", [("a.png", ["cat"])])
    parquet.write_table(parquet.read_table(path).rename_columns(["file", "labels"]), path)
    with refused(path, "'tags'", "labels"):
        find_list(str(path), ("background", "cat", "dog"))


@pytest.mark.extra
def test_a_list_may_be_a_folder_of_files_with_tags_as_text(tmp_path):
    pytest.importorskip("ray")
    from dalnet.labeling.cluster_input import find_list

    for number, tags in enumerate(["cat; dog", " ", None, "cat|dog"]):
        write_list(tmp_path / f"{number}.parquet", [(f"{number}.png", tags)])
    (tmp_path / "_SUCCESS.parquet").touch()
    assert len(find_list(str(tmp_path), ("background", "cat", "dog")).files) == 4
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    with refused(tmp_path, "Parquet"):
        find_list(str(tmp_path), ("background", "cat", "dog"))


@pytest.mark.extra
@pytest.mark.parametrize(
    ("members", "word"),
    [
        ([("a.jpg", b"")], "tags"),
        ([("a.json", b"{}")], "image"),
        ([("a.jpg", b""), ("b.json", b"{}")], "tags"),
        ([], "image"),
        (None, "tar"),
    ],
)
def test_shards_that_cannot_be_used_are_refused(tmp_path, members, word):
    pytest.importorskip("ray")
    from dalnet.labeling.cluster_input import find_shards

    path = tmp_path / "0.tar"
    with refused(tmp_path, "no .tar"):
        find_shards(str(tmp_path))
    if members is None:
        path.write_bytes(b"no archive")
    else:
        write_shard(path, members)
    with refused(path, word):
        find_shards(str(tmp_path))


@pytest.mark.extra
def test_shards_are_not_decompressed(tmp_path):
    pytest.importorskip("ray")
    from dalnet.labeling.cluster_input import find_shards

    path = tmp_path / "0.tar"
    write_shard(path, [("a.jpg", b""), ("a.cls", b"0")])
    assert find_shards(str(tmp_path)).files == [str(path)]
    path.write_bytes(gzip.compress(path.read_bytes()))
    with refused(path, "tar"):
        find_shards(str(tmp_path))


@pytest.mark.extra
def test_rows_that_mean_harm_are_refused(tmp_path):
    pytest.importorskip("ray")
    from dalnet.labeling.cluster_input import TagReader, row_image

    os.mkfifo(tmp_path / "pipe.jpg")
    for file in (str(tmp_path / "pipe.jpg"), "/dev/zero"):
        with refused(file):
            row_image({"file": file, "tags": []}, "")
    row = {"file": "0.tar/a", "json": None, "cls": b"9" * 100_000}
    with refused("0.tar/a"):
        TagReader(["background", "cat"]).read(row)


@pytest.mark.extra
def test_a_folder_with_something_else_is_refused(voc_model, folder, tmp_path, capsys):
    pytest.importorskip("ray")
    places = write_list(tmp_path / "list.parquet", [("a.png", ["cat"])])
    argv = ["--engine", "ray", "--images", folder, "--tags", places]
    for options, output, word in (
        (argv, folder, "not empty"),
        (argv, places, "cannot be used"),
        ([*argv, "--actors", 0], tmp_path / "out", "--actors"),
        ([*argv, "--format", "coco"], tmp_path / "out", "--engine"),
        (["--engine", "ray"], tmp_path / "out", "--tags"),
    ):
        with pytest.raises(SystemExit):
            label(voc_model, output, *options)
        assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.extra
@pytest.mark.usefixtures("cluster")
def test_a_job_for_which_the_cluster_is_too_small_is_named(caplog):
    from dalnet.labeling.cluster import ClusterOptions, _cluster

    with _cluster(ClusterOptions(actors=2, cpus=0.5)):
        assert "waits" not in caplog.text
    with _cluster(ClusterOptions(actors=4, gpus=0.5)):
        assert "3 CPUs, the job waits for 6" in caplog.text
        assert "0 GPUs, the job waits for 2" in caplog.text


def test_ray_that_is_not_installed_is_named(voc_model, folder, tmp_path, capsys, monkeypatch):
    for name in ("ray", "dalnet.labeling.cluster"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit):
        label(voc_model, tmp_path / "out", "--engine", "ray", "--images", folder)
    assert 'pip install "dalnet[cluster]"' in capsys.readouterr().err


@pytest.mark.extra
def test_workers_that_read_and_filter_do_not_load_torch():
    pytest.importorskip("ray")
    code = "import sys, dalnet.labeling.cluster_workers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
