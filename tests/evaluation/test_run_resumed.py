# SPDX-License-Identifier: Apache-2.0
"""Evaluations that are interrupted go on, and take nothing that is of others."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import refused
from PIL import Image
from safetensors import safe_open

from dalnet.data.datasets.catalog import register
from dalnet.errors import UsageError
from dalnet.evaluation import crf, evaluator


def test_an_interrupted_run_goes_on(measure, output, split, seen):
    run = partial(measure, "TEST.CRF.ITERS", 2, protocols=["ss", "ss+crf"])
    expected = run()
    shutil.rmtree(output)
    del seen[:]
    seen.stop_at = 3
    with refused("", "interrupted"):
        run()
    (folder,) = (output).glob(".progress*")
    with safe_open(next(folder.iterdir()), framework="numpy") as file:
        done = len(json.loads(file.metadata()["names"]))
    assert done > 0
    assert not (output / "results.json").exists()
    seen.stop_at = None
    del seen[:]
    assert run() == expected
    assert len(seen) == 4 - done
    assert not list((output).glob(".progress*"))
    run()
    assert len(seen) == 8 - done, "a finished evaluation starts anew"


@pytest.mark.faults("processes that end or hang")
def test_a_killed_crf_process_is_one_sentence_and_the_same_command_goes_on(
    measure, monkeypatch, seen
):
    run = partial(measure, "TEST.CRF.ITERS", 1, sources=["sem_seg"], protocols=["ss+crf"])
    expected = run()
    refine = crf.CRFPool.refine

    def kill_after_two(self, task):
        if len(seen) == 3:
            for pid in list(self._processes):
                os.kill(pid, signal.SIGKILL)
        return refine(self, task)

    # One after the other, so that two are done for certain.
    monkeypatch.setattr(evaluator, "_IMAGES_PER_WORKER", 0)
    monkeypatch.setattr(crf.CRFPool, "refine", kill_after_two)
    del seen[:]
    with refused("workers", "goes on"):
        run()
    monkeypatch.setattr(crf.CRFPool, "refine", refine)
    assert run() == expected
    assert seen == [0, 1, 2, 2, 3]


def test_nothing_is_saved_once_the_ranks_have_met(measure, output, split, monkeypatch):
    evaluate = evaluator.CountsEvaluator.evaluate

    def as_on_another_rank(self):
        evaluate(self)
        self._progress.discard()  # as the main rank does when it has written the results

    monkeypatch.setattr(evaluator.CountsEvaluator, "evaluate", as_on_another_rank)
    with refused("results.json"):
        measure(sources=["sem_seg"], protocols=["ss"])
    assert not list((output).glob(".progress*"))


def test_progress_of_other_settings_is_not_taken(measure, seen):
    run = partial(measure, sources=["cam"], protocols=["ss"])
    seen.stop_at = 1
    with refused("", "interrupted"):
        run()
    seen.stop_at = None
    result = run("MODEL.CAM.BACKGROUND_THRESHOLD", 0.3)
    assert (result["num_images"], result["measurements"][0]["threshold"]) == (4, 0.3)
    assert len(seen) == 5


def test_a_refused_mask_throws_the_counts_away(measure, output, split, seen):
    path = split.records[2]["sem_seg_file_name"]
    mask = Image.open(path)
    mask.load()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    run = partial(measure, sources=["sem_seg"], protocols=["ss"])
    with refused("2.png"):
        run()
    assert not list(output.glob(".progress*/*"))
    mask.save(path)
    assert run()["num_images"] == 4
    assert seen == [0, 1, 2, 0, 1, 2, 3]


@pytest.mark.parametrize("loaders", [0, 1])
def test_an_unreadable_image_is_named_and_what_is_counted_is_kept(measure, split, seen, loaders):
    options = ("DATALOADER.NUM_WORKERS", loaders)
    run = partial(measure, *options, sources=["sem_seg"], protocols=["ss"])
    expected = run()
    path = Path(split.records[2]["file_name"])
    content = path.read_bytes()
    path.write_bytes(content[:-20])  # its header is whole
    with pytest.raises(UsageError, match="2.jpg"):
        run()
    path.write_bytes(content)
    del seen[:]
    assert run() == expected
    assert seen == [2, 3]


def touch(path):
    """Set the time of the last change to another."""
    os.utime(path, (0, 1))


CHANGES = {
    "mask": lambda split: touch(split.records[0]["sem_seg_file_name"]),
    "image": lambda split: touch(split.records[0]["file_name"]),
    "labels": lambda split: split.records[0].update(image_labels=[0, 1]),
    "unknown": lambda split: split.records[0].update(unknown_labels=[2]),
    "list": lambda split: split.records.pop(0),
    "classes": lambda split: register(split.name, lambda: split.records, ("dog", "cat", "owl")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_counted_from_other_files_is_taken(measure, split, seen, change):
    run = partial(measure, sources=["cam"], protocols=["ss"])
    seen.stop_at = 2
    with refused("", "interrupted"):
        run()
    seen.stop_at = None
    CHANGES[change](split)
    del seen[:]
    assert run()["num_images"] == len(split.records)
    assert seen == [record["image_id"] for record in split.records]


def test_what_has_been_taken_off_the_dump_is_done_again(measure, split, seen, tmp_path):
    dump = tmp_path / "dump"
    run = partial(measure, sources=["cam"], protocols=["ss"], dump=dump)
    run()
    seen.stop_at = 4 + 2
    with refused("", "interrupted"):
        run()
    assert not list(dump.rglob(f"{split.name}.txt")), "the dump is not whole"
    (dump / "cam/ss/CAM/1.npz").unlink()
    seen.stop_at = None
    del seen[:]
    run()
    assert seen == [0, 1, 2, 3]
    assert len(list(dump.rglob("*.npz"))) == 4 and len(list(dump.rglob(f"{split.name}.txt"))) == 1


def test_a_dump_is_of_one_evaluation(measure, split, seen, tmp_path):
    dump = tmp_path / "dump"
    run = partial(measure, sources=["cam"], protocols=["ss+crf"], dump=dump)
    masks = dump / "cam/ss+crf/SegmentationClass"

    def content():
        return {path.name: path.read_bytes() for path in masks.iterdir()}

    run("TEST.CRF.ITERS", 1)
    expected = content()
    seen.stop_at = 4 + 2
    with refused("", "interrupted"):
        run("TEST.CRF.ITERS", 1)
    seen.stop_at = None
    run("TEST.CRF.ITERS", 9, "TEST.CRF.BI_W", 30.0)
    assert content() != expected
    run("TEST.CRF.ITERS", 1)
    assert content() == expected
