# SPDX-License-Identifier: Apache-2.0
"""Train every run of a YAML file with every seed, and report mean and spread.

Each training is a process with a folder of its own, ``OUTPUT/RUN/seedN``: ``job.yaml`` is the
config that it reads, ``console.txt`` its log, ``evaluation/SPLIT/results.json`` its results.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from threading import Event
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tabulate import tabulate
from torch.cuda import device_count

from dalnet.config import load_config
from dalnet.config.load import flatten
from dalnet.data.datasets import ensure_registered
from dalnet.data.datasets.tagged import register_tagged
from dalnet.documents import read_json, read_yaml, write_json
from dalnet.errors import UsageError
from dalnet.io import write_text
from dalnet.numbers import percent

TRAIN_COMMAND = (sys.executable, "-m", "dalnet", "train")
_MEASURED = ("split", "num_images", "source", "protocol", "scales", "threshold")
Trainings = dict[Path, CfgNode]  # configs by their OUTPUT_DIR


def run_sweep(
    path: Path,
    seeds: Sequence[int] = (1, 2, 3),
    output: Path | None = None,
    opts: Sequence[str] = (),
    *,
    runs: Sequence[str] = (),
    jobs: int = 1,
    reference: str | None = None,
    table_only: bool = False,
    train_command: Sequence[str] = TRAIN_COMMAND,
) -> None:
    """Train what is not finished yet, then print and write the table of everything.

    Args:
        path: YAML file, see :func:`read_sweep` and configs/sweeps.
        seeds: each run is trained with each of them.
        output: folder (default: output/sweeps/<name of the file>).
        opts: ``KEY, VALUE, ...`` for all runs.
        runs: only these of the file (default: all).
        jobs: trainings at a time.
        reference: run that the others are compared with, seed by seed.
        table_only: train nothing.
        train_command: starts a training; gets ``--resume --config-file FILE`` as arguments.

    Raises:
        UsageError: input or a folder cannot be used, or trainings have failed.
        KeyboardInterrupt: Ctrl-C or ``kill``; the trainings have been ended.
    """
    if jobs < 1:
        raise UsageError(f"{jobs} trainings at a time are none", where="jobs", hint="use 1 or more")
    output = output or Path("output/sweeps") / path.stem
    trainings = read_sweep(path, seeds, output, opts)
    names = dict.fromkeys(folder.parent.name for folder in trainings)
    chosen = list(runs or names)
    if unknown := {*chosen, *filter(None, [reference])} - {*names}:
        hint = f"it has {', '.join(names)}"
        raise UsageError(f"there is no run {min(unknown)}", where=path, hint=hint)
    if reference and reference not in chosen:
        raise UsageError(f"{reference} is not among the runs", "reference", "name it in runs too")
    trainings = {path: cfg for path, cfg in trainings.items() if path.parent.name in chosen}
    for folder, cfg in trainings.items():
        _verify_folder(folder, cfg)
    if not table_only:
        # Runs differ in the method, hardly in the splits: each list of them is looked at once.
        for cfg in {cfg.DATASETS.TEST: cfg for cfg in trainings.values()}.values():
            _require_masks(cfg)
    try:
        failed = 0 if table_only else _train_all(trainings, train_command, jobs, output)
    finally:
        _write_table(trainings, reference, output)
    if failed:
        hint = "the same command tries again"
        raise UsageError(f"{failed} trainings failed, see above", where=output, hint=hint)


def read_sweep(path: Path, seeds: Iterable[int], output: Path, opts: Sequence[str]) -> Trainings:
    """Read the config of every training, by its folder ``output/RUN/seedN``.

    ``runs`` of the file maps names to config files, relative to it, or recipes, or to ``{config:
    FILE, opts: {KEY: VALUE}}``; its ``opts`` are for all runs, and the argument ``opts`` replaces
    both. All runs with the first seed come first, so that an unfinished table has the same seeds
    for all.

    Raises:
        UsageError: a file or key that cannot be used.
    """
    try:
        runs = dict(_parse_runs(read_yaml(path, "see configs/sweeps for examples") or {}))
    except (ValueError, TypeError, AttributeError) as error:
        what = " ".join(str(error).split())
        raise UsageError(what, where=path, hint="see configs/sweeps for examples") from error
    trainings = {}
    for seed in seeds:
        for name, (file, own) in runs.items():
            if {"SEED", "OUTPUT_DIR"} & {*own[::2], *opts[::2]}:
                hint = "take them off: the sweep sets them itself"
                raise UsageError("SEED or OUTPUT_DIR is set", where=path, hint=hint)
            folder = output / name / f"seed{seed}"
            last = ["SEED", str(seed), "OUTPUT_DIR", str(folder)]
            near = path.parent / file
            config = str(near) if near.is_file() else file  # a recipe's name
            trainings[folder] = load_config(config, [*own, *opts, *last])
    return trainings


def _parse_runs(file: Any) -> Iterator[tuple[str, tuple[str, list]]]:
    """Yield name, config file and ``KEY, VALUE, ...`` of each run of a sweep file."""
    if "runs" not in file:
        raise ValueError("it has no 'runs', so it is no file of a sweep")
    if wrong := file.keys() - {"runs", "opts"}:
        raise ValueError(f"{', '.join(map(repr, wrong))} is neither 'runs' nor 'opts'")
    for name, spec in file["runs"].items():
        spec = {"config": spec} if isinstance(spec, str) else spec
        opts = flatten({**(file.get("opts") or {})}) | flatten({**spec.get("opts", {})})
        wrong = (spec.keys() ^ {"config"}) - {"opts"}
        if wrong or not re.fullmatch(r"\w[\w.+-]*", name):
            raise ValueError(f"run {name!r}: {', '.join(wrong) or 'use letters and digits'}")
        yield name, (str(spec["config"]), [part for pair in opts.items() for part in pair])


def _verify_folder(folder: Path, cfg: CfgNode) -> None:
    """Raise ``UsageError`` for a folder in which another config than ``cfg`` was trained."""
    if not cfg.DATASETS.TEST:
        what = f"it is empty in the run {folder.parent.name}"
        raise UsageError(what, where="DATASETS.TEST", hint="name a split to evaluate on")
    # What failed before its first checkpoint may be tried again with other keys.
    if any((folder / name).exists() for name in ("last_checkpoint", "evaluation")):
        before = load_config(str(folder / "job.yaml"), ["OUTPUT_DIR", cfg.OUTPUT_DIR])
        # Compared as JSON, because the file has lists where ``cfg`` has tuples.
        found, wanted = ({k: json.dumps(v) for k, v in flatten(c).items()} for c in (before, cfg))
        if changed := ", ".join(f"{k} {found.get(k)}" for k in wanted if found.get(k) != wanted[k]):
            hint = "choose another folder for the sweep"
            raise UsageError(f"it was trained with {changed}", where=folder, hint=hint)


def _require_masks(cfg: CfgNode) -> None:
    """Raise ``UsageError`` if a split to evaluate on has no masks."""
    if cfg.DATASETS.DESCRIPTION:
        register_tagged(Path(cfg.DATASETS.DESCRIPTION))
    for split in filter(ensure_registered, cfg.DATASETS.TEST):
        if not any("sem_seg_file_name" in record for record in DatasetCatalog.get(split)):
            what = f"{split} has no masks, which the table is measured with"
            raise UsageError(what, "DATASETS.TEST", "name a split with masks")


def _train_all(trainings: Trainings, command: Sequence[str], jobs: int, output: Path) -> int:
    """Train what is not finished; return how many trainings have failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    all_gpus = ",".join(map(str, range(device_count())))
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", all_gpus).split(",")
    free_gpus, stop = [gpus[i % len(gpus)] for i in range(jobs)], Event()
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as lock, ThreadPoolExecutor(jobs) as pool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            train = partial(_train, command=command, gpus=free_gpus, lock=lock.fileno(), stop=stop)
            return list(pool.map(train, trainings, trainings.values())).count(False)
        except BlockingIOError:
            what = "a sweep, or a training that a killed sweep left, runs here"
            raise UsageError(what, where=output, hint="wait for it") from None
        finally:
            stop.set()


def _train(
    folder: Path, cfg: CfgNode, command: Sequence[str], gpus: list[str], lock: int, stop: Event
) -> bool:
    """Run a training until its end or ``stop``; return whether it is finished."""
    if stop.is_set() or _read_results(folder, cfg) is not None:
        return not stop.is_set()
    write_text(folder / "job.yaml", cfg.dump())
    print(time.strftime("[%H:%M:%S]"), f"{folder}: started", flush=True)
    log, gpu = folder / "console.txt", gpus.pop()
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [*command, "--resume", "--config-file", str(folder / "job.yaml")],
            stdout=stream,
            stderr=subprocess.STDOUT,
            # One thread each, so that results do not depend on ``jobs``.
            env={"OMP_NUM_THREADS": "1", **os.environ, "CUDA_VISIBLE_DEVICES": gpu},
            start_new_session=True,  # so that the terminal's Ctrl-C does not reach it
            pass_fds=[lock],  # the training holds the lock too, also if the sweep is killed
        )
    while process.poll() is None:
        if stop.wait(0.1):
            # Python unwinds on SIGINT and so removes half-written files; SIGTERM would leave them.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
    gpus.append(gpu)
    finished = process.returncode == 0 and _read_results(folder, cfg) is not None
    last_line = log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]
    outcome = "finished" if finished else f"failed, see {log}: {last_line}"
    print(time.strftime("[%H:%M:%S]"), f"{folder}: {outcome}", flush=True)
    return finished


def _read_results(folder: Path, cfg: CfgNode) -> list[dict[str, Any]] | None:
    """Return what the evaluation after the last iteration has measured; None if not finished."""
    measurements = []
    for split in cfg.DATASETS.TEST:
        path = folder / "evaluation" / split / "results.json"
        result = read_json(path) if path.exists() else {}
        # Results after fewer iterations come from TEST.EVAL_PERIOD.
        if result.get("iteration", 0) < cfg.SOLVER.MAX_ITER:
            return None
        measurements += [result | m for m in result["measurements"] if m["miou"] is not None]
    return measurements


def _summarize(trainings: Trainings, reference: str | None) -> list[dict[str, Any]]:
    """Return mean and spread over the seeds, for every measurement of every run."""
    rows: dict[tuple, dict[str, Any]] = {}
    for folder, cfg in trainings.items():
        for result in _read_results(folder, cfg) or ():
            key = (*(result[name] for name in _MEASURED[:4]), folder.parent.name)
            row = rows.setdefault(key, {"run": key[-1], "miou": {}, "labeled": {}})
            row |= {name: result[name] for name in _MEASURED}
            row["miou"][cfg.SEED], row["labeled"][cfg.SEED] = result["miou"], result["labeled"]
    for key, row in rows.items():
        base = rows.get((*key[:4], reference), {"miou": {}})["miou"]
        row["difference"] = {s: miou - base[s] for s, miou in row["miou"].items() if s in base}
        for name in ("miou", "labeled", "difference"):
            values = list(row[name].values())
            row[f"{name}_mean"] = mean(values) if values else None
            row[f"{name}_std"] = stdev(values) if len(values) > 1 else None
    return [rows[key] for key in sorted(rows, key=lambda key: key[:4])]


def _write_table(trainings: Trainings, reference: str | None, output: Path) -> None:
    """Print the table, and write it with every seed's numbers to ``table.md`` and ``.json``."""
    unfinished = [str(path) for path, cfg in trainings.items() if _read_results(path, cfg) is None]
    rows, cells = _summarize(trainings, reference), []
    titles = {"miou": "mIoU"} | ({"difference": f"minus {reference}"} if reference else {})
    for row in rows:
        cell = {name: row[name] for name in (*_MEASURED, "run")}
        for name, title in titles.items():
            cell[title] = f"{percent(row[f'{name}_mean'])} ± {percent(row[f'{name}_std'])}"
        cell["labeled %"] = percent(row["labeled_mean"])
        cells.append(cell | {f"seed {s}": percent(miou) for s, miou in row["miou"].items()})
    text = "mIoU in percent, mean ± sample standard deviation over the seeds:\n\n"
    text += tabulate(cells, headers="keys", tablefmt="github", disable_numparse=True)
    text += f"\n\nNot finished: {', '.join(unfinished) or 'none'}\n"
    table = {"reference": reference, "unfinished": unfinished, "rows": rows}
    write_text(output / "table.md", text)
    write_json(output / "table.json", table)
    print(text, flush=True)
