# SPDX-License-Identifier: Apache-2.0
"""What a sweep trains: named runs, each with several seeds, read from one YAML file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from dalnet.config import add_dalnet_config
from dalnet.errors import UsageError

from .setup import merge_config

# Keys that a sweep sets itself, and the flag to set them with.
_RESERVED = {"SEED": "--seeds", "OUTPUT_DIR": "--output"}
# Names become folders and cells of a Markdown table.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, eq=False)
class Job:
    """One training: a run with one seed.

    Attributes:
        run: its name in the sweep file.
        seed: 0 or more.
        folder: ``OUTPUT_DIR`` of the training.
        config: path of its config file.
        cfg: what it amounts to with all keys on top of it.
    """

    run: str
    seed: int
    folder: Path
    config: Path
    cfg: CfgNode

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"{self.run}, seed {self.seed}"


def parse_seeds(text: str) -> list[int]:
    """Read ``1,2,3``.

    Raises:
        UsageError: no, negative or repeated numbers, or none at all.
    """
    parts = [part.strip() for part in text.split(",")]
    seeds = [int(part) for part in parts if re.fullmatch(r"[0-9]+", part)]
    if len(seeds) < len(parts) or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text!r}: give different whole numbers, as in --seeds 1,2,3.")
    return seeds


def check_reference(jobs: Sequence[Job], reference: str | None) -> None:
    """Refuse a reference that is none of the runs; None is no reference.

    Raises:
        UsageError: it is not.
    """
    runs = list(dict.fromkeys(job.run for job in jobs))
    if reference is not None and reference not in runs:
        raise UsageError(f"--reference {reference}: the sweep has no such run; {', '.join(runs)}.")


def read_sweep(
    path: Path,
    seeds: Sequence[int],
    output: Path,
    opts: Sequence[str] = (),
    chosen: Sequence[str] | None = None,
) -> list[Job]:
    """Read a sweep file.

    The file is a mapping. ``runs`` maps each name to a config file, relative to the sweep file, or
    to ``{config: FILE, opts: {KEY: VALUE}}``; ``opts`` (optional) holds keys for all runs.

    Args:
        path: the sweep file.
        seeds: of every run.
        output: folder of the sweep; a job's is ``output/<run>/seed<seed>``.
        opts: ``KEY``, ``VALUE``, ... for all runs; they win over those of the file.
        chosen: names of the runs to take; all where not given.

    Returns:
        These runs with the first seed, then all with the second, ...: a table of what is finished
        early compares the runs fairly.

    Raises:
        UsageError: a file or key that cannot be used.
    """
    content = _read_yaml(path)
    _refuse_unknown(content, {"runs", "opts"}, str(path))
    runs = content.get("runs")
    if not isinstance(runs, dict) or not runs:
        raise UsageError(f"{path} has no runs; list them below runs:, as in NAME: CONFIG.yaml.")
    for name in chosen or ():
        if name not in runs:
            raise UsageError(
                f"--runs {name}: {path} has no such run; it has {', '.join(map(str, runs))}."
            )
    common = _read_opts(content.get("opts"), f"opts of {path}")
    _refuse_reserved(opts, "the command line")
    specs = {name: _read_run(path, name, run, common, list(opts)) for name, run in runs.items()}
    return [
        _make_job(name, seed, output / name / f"seed{seed}", *spec)
        for seed in seeds
        for name, spec in specs.items()
        if chosen is None or name in chosen
    ]


def _make_job(run: str, seed: int, folder: Path, config: Path, opts: list[str]) -> Job:
    opts = [*opts, "SEED", str(seed), "OUTPUT_DIR", str(folder)]
    cfg = get_cfg()
    add_dalnet_config(cfg)
    try:
        merge_config(cfg, str(config), opts)
    except UsageError as error:
        raise UsageError(f"run {run}: {error}") from error
    if not cfg.DATASETS.TEST:
        raise UsageError(
            f"run {run}: DATASETS.TEST of {config} is empty, so there would be nothing to report; "
            "name a split with masks."
        )
    return Job(run, seed, folder, config, cfg)


def _read_run(
    path: Path, name: Any, run: Any, common: list[str], opts: list[str]
) -> tuple[Path, list[str]]:
    """Config file and all keys of a run, those that win last."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{path}: {name!r} cannot name a run, as it becomes a folder; use letters, digits and "
            "_ . + - only."
        )
    where = f"run {name} of {path}"
    run = {"config": run} if isinstance(run, str) else run
    if not isinstance(run, dict):
        raise UsageError(f"{where} is {run!r}; give a config file, or config: and opts:.")
    _refuse_unknown(run, {"config", "opts"}, where)
    if not isinstance(run.get("config"), str):
        raise UsageError(f"{where} names no config file; add config: FILE.yaml.")
    config = path.parent / run["config"]
    if not config.is_file():
        raise UsageError(
            f"{where}: the config file {config} does not exist; its path is taken from the folder "
            "of the sweep file."
        )
    return config, [*common, *_read_opts(run.get("opts"), f"opts of {where}"), *opts]


def _read_opts(opts: Any, where: str) -> list[str]:
    """``{KEY: VALUE}`` as the list that a command line would have."""
    if opts is None:
        return []
    if not isinstance(opts, dict) or not all(isinstance(key, str) for key in opts):
        raise UsageError(f"{where} must be lines of KEY: VALUE, not {opts!r}.")
    for key, value in opts.items():
        if isinstance(value, dict):
            raise UsageError(
                f"{where}: {key} holds further keys; write each in one line, as in "
                "MODEL.DALNET.GIA: False."
            )
    pairs = [text for key, value in opts.items() for text in (key, str(value))]
    _refuse_reserved(pairs, where)
    return pairs


def _refuse_reserved(opts: Sequence[str], where: str) -> None:
    for key in opts[::2]:
        if key in _RESERVED:
            raise UsageError(f"{where}: {key} differs from job to job; use {_RESERVED[key]}.")


def _refuse_unknown(content: dict, known: set[str], where: str) -> None:
    unknown = next((key for key in content if key not in known), None)
    if unknown is not None:
        raise UsageError(
            f"{where}: unknown key {unknown!r}; there are only {' and '.join(sorted(known))}."
        )


class _StrictLoader(yaml.SafeLoader):
    """YAML without its habit of letting the last of several equal keys win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key!r} occurs twice", problem_mark=key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict:
    try:
        # A subclass of SafeLoader: builds plain values only.
        content = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the sweep file {path} cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is no YAML"
        raise UsageError(f"the sweep file {path} cannot be used: {problem}{line}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"the sweep file {path} is empty or no mapping; list its runs: in it.")
    return content
