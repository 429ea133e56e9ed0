# SPDX-License-Identifier: Apache-2.0
"""Put 20,000 small generated images through check, training, evaluation and labeling, and watch the
memory and the open files of all processes:

    python -m benchmarks.volume
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

from dalnet.data.image_io import write_mask

CLASSES = ("red", "green", "blue", "gray")
# A network of few parameters, so that memory and time are those of everything else.
NETWORK = {
    "MODEL.VIT.WEIGHTS": "",
    "MODEL.VIT.IMG_SIZE": 64,
    "MODEL.VIT.PATCH_SIZE": 16,
    "MODEL.VIT.EMBED_DIM": 48,
    "MODEL.VIT.DEPTH": 2,
    "MODEL.VIT.INTERMEDIATE_BLOCK": 1,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
    "MODEL.DALNET.PROJECTION_DIM": 16,
    "MODEL.CLIP.EMBED_DIM": 16,
    "INPUT.CROP.SIZE": [64, 64],
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": 150,
    "DATALOADER.NUM_WORKERS": 2,
    "TEST.EVAL_PERIOD": 0,
    "VIS_PERIOD": 0,
    "DATASETS.TRAIN": "('volume_train',)",
    "DATASETS.TEST": "()",
}


def make_images(root: Path, number: int) -> None:
    """Write blurred noise of 64 to 96 pixels with one or two classes, masks, tags and lists."""
    rng, tags = np.random.default_rng(0), {}
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for index in range(number):
        name = f"image_{index:06d}"
        size = tuple(int(side) for side in rng.integers(64, 97, 2))
        image = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        image.resize(size).save(root / f"JPEGImages/{name}.jpg")
        label_map = np.zeros(size[::-1], np.uint8)
        shown = rng.choice(len(CLASSES), rng.integers(1, 3), replace=False)
        for place, label in enumerate(shown):
            label_map[:, 30 * place : 30 * place + 20] = label + 1
        write_mask(root / f"SegmentationClass/{name}.png", label_map)
        tags[name] = [CLASSES[label] for label in shown]
    (root / "image_tags.json").write_text(json.dumps(tags))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(tags))


def process_tree(pid: int) -> list[int]:
    """Return a process and its loader's workers, which have the same command line."""
    own = Path(f"/proc/{pid}/cmdline").read_bytes()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [int(c) for c in children if Path(f"/proc/{c}/cmdline").read_bytes() == own]


def memory(pid: int) -> tuple[float, float]:
    """Return the resident and the proportional set size of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return sizes["Rss"], sizes["Pss"]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of all that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def watch(name: str, words: list[object], started: Path | None, folder: Path) -> dict[str, object]:
    """Run a command and return what it took; ``started`` grows with the first image."""
    begin, samples, start_up = time.time(), [], None
    with (folder / f"{name}.log").open("w") as log:
        command = [sys.executable, "-m", "dalnet", *map(str, words)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(1)
            try:
                tree = process_tree(process.pid)
                now = time.time() - begin
                if start_up is None and (len(tree) > 1 or (started and started.exists())):
                    start_up = now, cpu_seconds(process.pid)
                files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in tree)
                samples.append((now, [memory(pid) for pid in tree], files))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has just ended
    if process.returncode:
        sys.exit((folder / f"{name}.log").read_text())
    row = {"command": name, "seconds": round(time.time() - begin)}
    row["start-up, CPU of it"] = "{:.0f}, {:.0f}".format(*start_up) if start_up else "-"
    first, most = (start_up or (samples[-1][0] / 4, 0))[0], max(len(one[1]) for one in samples)
    steady = [one for one in samples if one[0] > first + 2 and len(one[1]) == most]
    for part in (0, 1, 2, 3):
        _, sizes, files = steady[part * (len(steady) - 1) // 3]
        workers = "+".join(f"{pss:.0f}" for _, pss in sizes[1:])
        row[f"at {part}/3"] = f"{sizes[0][0]:.0f}; {workers or '-'}; {files}"
    return row


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=20_000, help="images; default: %(default)s")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root, run, labeled = folder / "volume", folder / "run", folder / "labeled"
        make_images(root, args.number)
        os.environ["DETECTRON2_DATASETS"] = name
        own = ["--images", root / "JPEGImages", "--tags", root / "image_tags.json"]
        masks = ["--masks", root / "SegmentationClass", "--no-estimate"]
        keys = [word for pair in NETWORK.items() for word in pair]
        measured = ["--split", "volume_val", "--sources", "sem_seg", "--protocols", "ss"]
        label = ["--protocol", "ss", "--output", labeled]
        for command, words, started in (
            ("check", [*own, *masks, "--output", folder / "check.html"], None),
            ("train", ["--config", "toy_dalnet", *keys, "OUTPUT_DIR", run], None),
            ("evaluate", ["--weights", run, *measured], None),
            ("label", ["--weights", run, *own, *label], labeled / "masks"),
        ):
            rows.append(watch(command, [command, *words], started, folder))
            print(tabulate(rows[-1:], headers="keys"), flush=True)
    print(tabulate(rows, headers="keys", tablefmt="github"))
    print("at: resident MiB of the process; proportional MiB of each worker; open files of all")


if __name__ == "__main__":
    main()
