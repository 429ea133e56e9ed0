# SPDX-License-Identifier: Apache-2.0
"""Measure ``dalnet label --engine ray`` on this machine.

That is images a second with 1 and 2 actors, and how many images are labeled twice if the job's
process is killed half-way and started again.

    python -m benchmarks.cluster --weights RUN --images DIR --tags image_tags.json
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from dalnet.errors import one_sentence_errors
from dalnet.labeling import cluster
from dalnet.labeling.cluster_input import find_list
from dalnet.prediction import Predictor

LOG = "DALNET_LABELED"  # names the file that gets a line for each labeled image


class LoggingLabeler(cluster.Labeler):
    """Labels images and writes down when, and in how many CPU seconds."""

    def label(self, row):
        """Return the row of one image."""
        begin = time.process_time()
        result = super().label(row)
        with open(os.environ[LOG], "a") as stream:
            stream.write(f"{time.time()} {time.process_time() - begin} {row['file']}\n")
        return result


def run_job(args):
    """Label the list; this process is the one that is killed."""
    cluster.Labeler = LoggingLabeler
    model = {"model": str(args.weights.resolve())}
    model |= dict.fromkeys(("multi_scale", "flip", "crf"), False)
    names = Predictor(**model).class_names
    options = cluster.ClusterOptions(args.actors, 0.5, 0.0, args.shard_size)
    images = find_list(str(args.list), names)
    output, folder = str(args.output), str(args.images.absolute())
    counts = cluster.label_on_cluster(
        images, output, model, names, {}, folder=folder, options=options
    )
    print("labeled and rejected:", *counts)


class Job:
    """A process that labels the list into a folder."""

    def __init__(self, args, folder, actors):
        self.output, self.log = folder / "out", folder / "log"
        folder.mkdir(exist_ok=True)
        own = {"--weights": args.weights, "--images": args.images, "--list": args.list}
        own |= {"--output": self.output, "--actors": actors, "--shard-size": args.shard_size}
        words = [str(word) for pair in own.items() for word in pair]
        with (folder / "ray.log").open("a") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.cluster", "--job", *words],
                env={**os.environ, LOG: str(self.log)},
                stdout=stream,
                stderr=stream,
            )

    def lines(self):
        """Return time, CPU seconds and file of each image labeled so far."""
        text = self.log.read_text() if self.log.exists() else ""
        return [line.split(maxsplit=2) for line in text.splitlines()]

    def written(self):
        """Return how many images are finished, as Ray's checkpoint says."""
        parts = [p for p in (self.output / "checkpoint").iterdir() if ".pending." not in p.name]
        return sum(pa.parquet.read_metadata(path).num_rows for path in parts)


def measure(args, folder):
    """Return the figures by name."""
    tags = json.loads(args.tags.read_text())
    names = sorted(tags)[: args.number]
    files = [next(args.images.glob(f"{name}.*")).name for name in names]
    rows = pa.table({"file": files, "tags": [tags[name] for name in names]})
    figures = {"images": len(rows), "shard_size": args.shard_size}
    args.list = folder / "half.parquet"
    pa.parquet.write_table(rows.slice(0, len(rows) // 2), args.list)
    for actors in (1, 2):
        begin, job = time.time(), Job(args, folder / f"{actors}", actors)
        assert job.process.wait() == 0, folder
        moments = sorted(float(moment) for moment, _, _ in job.lines())
        rate = (len(moments) - 1) / (moments[-1] - moments[0])
        seconds = sum(float(one) for _, one, _ in job.lines()) / len(moments)
        figures[f"{actors} actors: images a second"] = round(rate, 2)
        figures[f"{actors} actors: CPU seconds an image"] = round(seconds, 3)
        figures[f"{actors} actors: seconds before the first image"] = round(moments[0] - begin, 1)
    args.list = folder / "all.parquet"
    pa.parquet.write_table(rows, args.list)
    job = Job(args, folder / "killed", 2)
    while len(job.lines()) < len(files) // 2:
        time.sleep(0.1)
    os.kill(job.process.pid, signal.SIGKILL)
    job.process.wait()
    time.sleep(10)  # Ray notices that the process is gone, and ends its own
    figures |= {"labeled when killed": len(job.lines()), "written when killed": job.written()}
    job = Job(args, folder / "killed", 2)
    assert job.process.wait() == 0, folder
    counts = Counter(Counter(file for _, _, file in job.lines()).values())
    assert sorted(counts) in ([1], [1, 2]), counts
    masks = pa.dataset.dataset(job.output / "masks").to_table(columns=["file"])["file"]
    assert sorted(masks.to_pylist()) == sorted(files)  # every image once
    return figures | {"written": job.written(), "labeled twice": counts[2]}


def main():
    """Measure, or be one job of the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("weights", "images", "tags", "list", "output"):
        parser.add_argument(f"--{name}", type=Path)
    for name, value in (("number", 500), ("shard-size", 64), ("actors", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        run_job(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(args, Path(folder)), indent=1))


if __name__ == "__main__":
    with one_sentence_errors():
        main()
