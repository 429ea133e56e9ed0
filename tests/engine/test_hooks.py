# SPDX-License-Identifier: Apache-2.0
"""An evaluation that was due when a training was stopped is made before it goes on."""

from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from dalnet.engine.hooks import EvalHook


@pytest.mark.parametrize(
    ("start", "has_results", "made_up"),
    [(6, False, True), (6, True, False), (5, False, False), (0, False, False), (9, False, False)],
)
def test_what_was_missed_is_made_up_for(start, has_results, made_up):
    asked = []
    hook = EvalHook(3, lambda: {"cam": {"mIoU": 1.0}}, lambda i: asked.append(i) or has_results)
    with EventStorage(start) as storage:
        hook.trainer = SimpleNamespace(start_iter=start, max_iter=9, iter=start, storage=storage)
        hook.before_train()
        assert storage.iter == start
        assert storage.latest() == ({"cam/mIoU": (1.0, start - 1)} if made_up else {})
    assert asked == ([start] if start == 6 else [])
