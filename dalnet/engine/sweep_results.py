# SPDX-License-Identifier: Apache-2.0
"""What is on disk of a sweep's trainings: which config, how far, with what results."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog

from dalnet.errors import UsageError
from dalnet.evaluation import build_evaluator
from dalnet.files import complete_or_absent
from dalnet.numbers import finite_or_none
from dalnet.report.files import read_metrics

from .sweep_plan import Job

JOB_FILE, RESULT_FILE, LOG_FILE = "job.yaml", "result.json", "console.txt"
_METRICS, _CHECKPOINT = "metrics.json", "last_checkpoint"  # Detectron2's
# A job's folder says where it is, not what is trained.
_FREE_KEYS = {"OUTPUT_DIR"}

Result = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a training is: ``iteration`` of those done, ``seconds`` for one."""

    iteration: int
    seconds: float


def claim(job: Job) -> None:
    """Write the config that is trained into the job's folder.

    The training reads this file: edits of the sweep's configs while it runs change nothing.

    Raises:
        UsageError: the folder holds something else, or cannot be written.
    """
    check(job)
    with complete_or_absent(job.folder / JOB_FILE) as unfinished:
        unfinished.write_text(job.cfg.dump(), encoding="utf-8")


def check(job: Job) -> None:
    """Refuse a folder that holds another training than ``job``, begun or finished.

    Keys that one side lacks are not compared: they came or went with another version of the code.

    Raises:
        UsageError: it does.
    """
    # What failed before its first checkpoint may be tried again with other keys.
    if not any((job.folder / name).exists() for name in (_CHECKPOINT, RESULT_FILE)):
        return
    path = job.folder / JOB_FILE
    if not path.exists():
        raise UsageError(
            f"{job.folder} holds a training that no sweep has begun: choose another --output."
        )
    before, now = _flatten(_read_text(path), path), _flatten(job.cfg.dump(), job.config)
    for key in sorted(before.keys() & now.keys() - _FREE_KEYS):
        if before[key] != now[key]:
            raise UsageError(
                f"{job.folder} was trained with {key} {before[key]}, not {now[key]}: choose "
                "another --output, or remove that folder."
            )


def load_result(job: Job) -> Result | None:
    """What :func:`collect` has written; None for a job that is not finished.

    Raises:
        UsageError: the file cannot be read.
    """
    path = job.folder / RESULT_FILE
    if not path.exists():
        return None
    try:
        return json.loads(_read_text(path))
    except ValueError as error:
        raise UsageError(f"{path} is no JSON ({error}): remove it.") from error


def collect(job: Job) -> Result | None:
    """Read the last evaluation of a training that has ended, and mark the job as finished.

    Returns:
        ``run``, ``seed``, ``config``, ``iterations`` and ``splits``: by name of the split
        ``num_images`` and ``sources``, by their key in Detectron2's metrics ``title``,
        ``protocol``, ``miou`` and ``labelled`` (both in percent, None where not finite). Or None:
        the evaluation is not complete.

    Raises:
        UsageError: a split that cannot be listed, or a file that cannot be written.
    """
    iterations = job.cfg.SOLVER.MAX_ITER
    metrics: dict[str, float] = {}
    for key, values in _read_metrics(job.folder).items():
        # Detectron2 counts the iteration after the last one, or one more when only evaluating.
        if max(values) >= iterations - 1:
            metrics[key] = values[max(values)]
    splits = {split: _read_split(job, split, metrics) for split in job.cfg.DATASETS.TEST}
    if None in splits.values():
        return None
    result = {
        "run": job.run,
        "seed": job.seed,
        "config": str(job.config),
        "iterations": iterations,
        "splits": splits,
    }
    with complete_or_absent(job.folder / RESULT_FILE) as unfinished:
        unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _read_split(job: Job, split: str, metrics: dict[str, float]) -> Result | None:
    # Detectron2's keys name the split only if there are several.
    prefix = f"{split}/" if len(job.cfg.DATASETS.TEST) > 1 else ""
    sources = {}
    for source in (e.source for e in build_evaluator(job.cfg, split).evaluators):
        if f"{prefix}{source.key}/mIoU" not in metrics:
            return None
        sources[source.key] = {
            "title": source.title,
            "protocol": source.protocol,
            "miou": finite_or_none(metrics[f"{prefix}{source.key}/mIoU"]),
            "labelled": finite_or_none(metrics[f"{prefix}{source.key}/labelled"]),
        }
    return {"num_images": len(DatasetCatalog.get(split)), "sources": sources}


def progress(job: Job) -> Progress | None:
    """How far the training says it is; None before its first figures."""
    seconds = _read_metrics(job.folder).get("time")
    return Progress(max(seconds) + 1, seconds[max(seconds)]) if seconds else None


def _read_metrics(folder: Path) -> dict[str, dict[int, float]]:
    """What the training has logged so far: by key its values by iteration."""
    path = folder / _METRICS
    return read_metrics(path) if path.exists() else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): remove it.") from error


def _flatten(config: str, path: Path) -> dict[str, Any]:
    """The values of a dumped config by full key."""
    settings: dict[str, Any] = {}

    def add(prefix: str, node: dict[str, Any]) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                add(f"{prefix}{key}.", value)
            else:
                settings[prefix + key] = value

    try:
        add("", yaml.safe_load(config))
    except (yaml.YAMLError, AttributeError) as error:
        raise UsageError(f"{path} is no config: remove its folder.") from error
    return settings
