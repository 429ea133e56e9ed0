# SPDX-License-Identifier: Apache-2.0
"""What tests of whole evaluations share."""

import pytest

from dalnet.checkpoint import config_of_checkpoint
from dalnet.engine import setup
from dalnet.evaluation import scorer
from dalnet.evaluation.results import read_results
from dalnet.evaluation.run import evaluate


@pytest.fixture
def output(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def measure(split, checkpoint, output):
    """Evaluates the checkpoint on the split; returns results.json."""

    def execute(*options, on=split.name, workers=1, **arguments):
        options = ["OUTPUT_DIR", output, "DATASETS.TEST", f"('{on}',)", *options]
        cfg = config_of_checkpoint(checkpoint.weights, [str(option) for option in options])
        setup(cfg, eval_only=True)
        evaluate(cfg, on, output=output, workers=workers, **arguments)
        return read_results(output / "results.json")

    return execute


@pytest.fixture
def seen(monkeypatch):
    """Names of the images that go through the network; ``stop_at`` interrupts before one."""

    names = type("Names", (list,), {"stop_at": None})()
    predict = scorer.ImageScorer._predict_image

    def note(self, record):
        if len(names) == names.stop_at:
            raise KeyboardInterrupt
        names.append(record["image_id"])
        return predict(self, record)

    monkeypatch.setattr(scorer.ImageScorer, "_predict_image", note)
    return names
