# SPDX-License-Identifier: Apache-2.0
"""Images wait for their CRFs, not too many of them, and every one is counted once."""

from concurrent.futures import Future

import numpy as np
import pytest

from dalnet.errors import UsageError
from dalnet.evaluation.counting import CountsEvaluator
from dalnet.evaluation.counts import Counts
from dalnet.evaluation.crf import CRFTask
from dalnet.evaluation.sources import make_measurements
from dalnet.modeling.meta_arch import DALNet

TASK = CRFTask(np.zeros((40, 50, 3), np.uint8), np.ones((1, 40, 50), np.float32), (0,))
LABELS = np.zeros((40, 50), np.uint8)


class WaitedFor(Future):
    """Ends when somebody waits for it."""

    def result(self, timeout=None):
        if not self.done():
            self.set_result(LABELS)
        return super().result(timeout)


class ManualPool:
    """One worker whose CRFs end when a test says so, or when an evaluator waits for them."""

    workers = 1

    def __init__(self):
        self.futures = []

    def refine(self, task):
        self.futures.append(WaitedFor())
        return self.futures[-1]


@pytest.fixture
def counts(tiny_cfg):
    measurements = make_measurements(tiny_cfg, DALNet.sources, "sem_seg", "ss,ss+crf")
    return Counts(measurements, 4, 0.5)


@pytest.fixture
def inputs(split):
    return [record | {"height": 40, "width": 50} for record in split.records]


def process(evaluator, counts, record):
    plain, refined = counts.measurements
    evaluator.process([record], [{plain: LABELS, refined: TASK}])


def test_images_wait_for_their_crfs_but_not_too_many(counts, inputs):
    pool = ManualPool()
    evaluator = CountsEvaluator(counts, pool)
    for record in inputs[:2]:
        process(evaluator, counts, record)
    assert counts.names == []
    process(evaluator, counts, inputs[2])  # a third has no room: the oldest is waited for
    assert counts.names == ["0"]
    for future in pool.futures[1:]:
        future.set_result(LABELS)
    process(evaluator, counts, inputs[3])
    assert counts.names == ["0", "1", "2"]
    assert evaluator.evaluate().names == ["0", "1", "2", "3"]
    for one in counts.measurements:
        # 38 rows have a truth; 20 x 20 pixels of it are a cat or a dog.
        assert counts.matrix(one)[:, 0].tolist() == [4 * (38 * 50 - 400), 800, 800, 0]


def test_goes_on_where_another_has_stopped(counts, inputs, tmp_path):
    first = CountsEvaluator(counts, ManualPool(), folder=tmp_path)
    assert first.resume(inputs) == inputs
    for record in inputs[:3]:
        process(first, counts, record)
    first.save()
    (tmp_path / "rank0.npz").rename(tmp_path / "rank7.npz")
    second = CountsEvaluator(counts.empty_copy(), ManualPool(), folder=tmp_path)
    assert second.resume(inputs) == inputs[1:]
    assert second.counts.names == ["0"]
    assert [path.name for path in tmp_path.glob("*.npz")] == ["rank0.npz"]
    assert CountsEvaluator(counts.empty_copy(), folder=tmp_path).resume(inputs) == inputs[1:]


def test_counts_are_saved_now_and_then(counts, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("dalnet.evaluation.counting._SAVE_EVERY", -1.0)
    evaluator = CountsEvaluator(counts, ManualPool(), folder=tmp_path)
    for number, record in enumerate(inputs):
        process(evaluator, counts, record)
        saved = counts.load(tmp_path.glob("*.npz"))
        assert saved.names == counts.names == [str(i) for i in range(number - 1)]


def test_images_without_a_mask_are_only_noted(counts, inputs):
    evaluator = CountsEvaluator(counts, ManualPool())
    del inputs[0]["sem_seg_file_name"]
    process(evaluator, counts, inputs[0])
    assert (evaluator.evaluate().names, counts.num_scored) == (["0"], 0)


def test_a_mask_of_another_size_is_named(counts, inputs):
    evaluator = CountsEvaluator(counts, ManualPool())
    with pytest.raises(UsageError, match="1.png"):
        process(evaluator, counts, inputs[1] | {"width": 60})
