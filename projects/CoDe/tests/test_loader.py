# SPDX-License-Identifier: Apache-2.0
"""The order of captioned images: complete, split over processes, and the same after a resume."""

import itertools
import json
import pickle
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from helpers import refused

from codeseg.loader import CaptionLoader, CaptionStream
from dalnet.errors import UsageError


def name_of(image, nouns):
    """Return the caption's number and a random one, in place of the mapper; refuse some images."""
    if "broken" in image.name:
        raise UsageError("broken", image.name)
    drawn = (np.random.randint(1000), int(torch.randint(1000, ())))
    return {"number": int(image.caption.split()[-1]), "drawn": drawn}


def write_lines(path, count, **changes):
    lines = [{"image": f"{i}.png", "caption": f"number {i}", "nouns": ["a", "b"]}
             for i in range(count)]  # fmt: skip
    for number, change in changes.items():
        lines[int(number.removeprefix("n"))] |= change
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def write_shards(write_tar):
    pytest.importorskip("webdataset")
    return partial(_write_shards, write_tar)


def _write_shards(write_tar, folder, count, each):
    paths = []
    for shard in range(count):
        members = {}
        for i in range(each):
            number = shard * each + i
            members[f"{i:04d}.jpg"] = b""
            members[f"{i:04d}.txt"] = f"number {number}".encode()
            members[f"{i:04d}.nouns.json"] = b'["a", "b"]'
        paths.append(write_tar(folder / f"{shard}.tar", members))
    return paths


def numbers(stream, count):
    return [record["number"] for record in itertools.islice(iter(stream), count)]


def batches(files, count, workers, start=0, **options):
    stream = CaptionStream(files, name_of, batch_size=3, **options)
    loader = CaptionLoader(stream, batch_size=3, num_workers=workers, collate_fn=list)
    loader.start_at(start)
    found = itertools.islice(iter(loader), count)
    return [[(record["number"], record["drawn"]) for record in batch] for batch in found]


def test_each_round_has_all_images_in_another_order(tmp_path):
    stream = CaptionStream([write_lines(tmp_path / "a.jsonl", 20)], name_of, batch_size=4)
    found = numbers(stream, 40)
    assert sorted(found[:20]) == sorted(found[20:]) == list(range(20))
    assert found[:20] != found[20:]
    assert found == numbers(stream, 40)
    other = CaptionStream([tmp_path / "a.jsonl"], name_of, batch_size=4, seed=1)
    assert found != numbers(other, 40)


def test_shards_are_mixed(tmp_path, write_shards):
    files = write_shards(tmp_path, 4, 10)
    found = numbers(CaptionStream(files, name_of, batch_size=4, buffer=8), 400)
    assert set(found) == set(range(40))
    shards = [number // 10 for number in found[:40]]
    assert max(len(list(group)) for _, group in itertools.groupby(shards)) < 10
    # Every image about as often as the others; the buffer moves a few from round to round.
    assert min(Counter(found).values()) >= 8


@pytest.mark.parametrize("kind", ["lines", "shards", "one shard"])
def test_processes_share_a_round(tmp_path, write_shards, kind):
    if kind == "lines":
        files, count = [write_lines(tmp_path / "a.jsonl", 24)], 24
    else:
        files = write_shards(tmp_path, 4 if kind == "shards" else 1, 6)
        count = 6 * len(files)
    streams = [
        CaptionStream(files, name_of, batch_size=4, buffer=0, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    found = [numbers(stream, count // 2) for stream in streams]
    assert sorted(found[0] + found[1]) == list(range(count))


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("kind", ["lines", "shards"])
def test_a_resumed_order_is_that_of_an_uninterrupted_run(tmp_path, write_shards, workers, kind):
    if kind == "lines":
        change = {"nouns": ["a"]}
        files = [write_lines(tmp_path / "a.jsonl", 25, n3=change, n7={"image": "broken.png"})]
    else:
        files = write_shards(tmp_path, 5, 7)
    whole = batches(files, 14, workers, buffer=6)
    assert len({tuple(number for number, _ in batch) for batch in whole}) > 10
    assert len({drawn for batch in whole for _, drawn in batch}) > 35
    for start in (1, 5):
        assert batches(files, 14 - start, workers, start, buffer=6) == whole[start:]


@pytest.mark.faults("unreadable images")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("broken", [range(3), range(1, 8, 2), range(4, 9), (0, 11)])
def test_images_that_cannot_be_read_shift_nothing_in_a_resumed_run(tmp_path, workers, broken):
    first = write_lines(tmp_path / "a.jsonl", 12)
    order = numbers(CaptionStream([first], name_of, batch_size=3), 12)
    changes = {f"n{order[place]}": {"image": f"broken{place}.png"} for place in broken}
    files = [write_lines(tmp_path / "a.jsonl", 12, **changes)]
    whole = batches(files, 8, workers)
    for start in range(1, 6):
        assert batches(files, 8 - start, workers, start) == whole[start:]
    seen = numbers(CaptionStream(files, name_of, batch_size=3), 12)
    for place in set(range(12)) - {*broken}:
        assert seen[place] == order[place]


@pytest.mark.faults("unreadable images")
def test_what_is_left_out_is_counted(tmp_path, caplog):
    path = write_lines(tmp_path / "a.jsonl", 6, n1={"nouns": ["a", " "]}, n2={"nouns": ["a", "a"]},
                       n3={"caption": " "}, n4={"image": "broken.png"})  # fmt: skip
    stream = CaptionStream([path], name_of, batch_size=4)
    loader = CaptionLoader(stream, batch_size=4, collate_fn=list)
    seen = [r["number"] for batch in itertools.islice(iter(loader), 30) for r in batch]
    assert set(seen) == {0, 5}
    rounds = len(seen) / 3  # with the place of the broken image, which another one takes
    counts = loader.left_out
    assert counts["captions with fewer than 2 nouns"] == pytest.approx(2 * rounds, abs=3)
    assert counts["images without a caption"] == pytest.approx(rounds, abs=3)
    assert counts["broken images"] == pytest.approx(rounds, abs=3)
    assert "captions with fewer than 2 nouns" in caplog.text
    # Named once, however often its turn comes; a training lists it at its end.
    (sentence,) = loader.skipped
    assert "broken.png" in sentence and caplog.text.count("broken.png") == 1


def test_no_usable_caption(tmp_path, monkeypatch):
    monkeypatch.setattr("codeseg.loader._MOST_REFUSED", 20)
    lines = [{"image": "a.png", "caption": "a", "nouns": ["a"]}] * 3
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with refused("a.png", "fewer than 2 nouns"):
        numbers(CaptionStream([tmp_path / "a.jsonl"], name_of, batch_size=4), 1)


@pytest.mark.faults("unreadable images")
def test_no_readable_image(tmp_path, monkeypatch):
    monkeypatch.setattr("codeseg.loader._MOST_BROKEN", 20)
    path = write_lines(tmp_path / "a.jsonl", 1, n0={"image": "broken.png"})
    with refused("broken.png", "20"):
        numbers(CaptionStream([path], name_of, batch_size=4), 1)


@pytest.mark.faults("unreadable images")
def test_an_unreadable_image_where_that_is_an_error(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", 4, n1={"image": "broken.png"})
    with refused("broken.png"):
        numbers(CaptionStream([path], name_of, batch_size=4, strict=True), 4)


def test_nouns_that_nothing_finds(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"image": "a.png", "caption": "a dog"}')
    with refused("a.png", "MODEL.CODE.CAPTIONS.NOUNS"):
        numbers(CaptionStream([tmp_path / "a.jsonl"], name_of, batch_size=1), 1)
    found = CaptionStream(
        [tmp_path / "a.jsonl"], lambda image, nouns: {"nouns": nouns}, str.split, batch_size=1
    )
    assert next(iter(found))["nouns"] == ["a", "dog"]


def test_workers_need_not_fork(tmp_path):
    lines = ['{"image": "a.png", "caption": "dog number 0"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    stream = CaptionStream([tmp_path / "a.jsonl"], name_of, lambda text: text.split(), batch_size=1)
    assert numbers(pickle.loads(pickle.dumps(stream)), 2) == [0, 0]


def test_more_processes_than_images(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", 1)
    stream = CaptionStream([path], name_of, batch_size=1, rank=1, world_size=2)
    with refused("MODEL.CODE.CAPTIONS.FILES", "2 processes"):
        numbers(stream, 1)


def test_a_loader_that_has_begun(tmp_path):
    stream = CaptionStream([write_lines(tmp_path / "a.jsonl", 4)], name_of, batch_size=2)
    loader = CaptionLoader(stream, batch_size=2, collate_fn=list)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="begun"):
        loader.start_at(3)
