# SPDX-License-Identifier: Apache-2.0
"""The toy world with captions: ``toy_captions/captions.jsonl``, generated where it is first named.

Its images show classes of the toy data set on any ground. A caption names them, now and then with
their color, often the ground, and things that nobody sees. Two classes are never shown nor named:
what a model makes of them on ``toy_val``, it did not learn here.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dalnet.data.datasets.toy import SIZE, TOY_CLASSES, TOY_LOOKS
from dalnet.data.datasets.toy.background import GROUNDS, draw_background
from dalnet.data.datasets.toy.drawing import add_grain, draw_object
from dalnet.errors import UsageError

CAPTIONS = Path("toy_captions", "captions.jsonl")  # below the data root
# Their shapes, ring and rocket, and the texture of the second, checks, are nowhere else.
UNSEEN = ("wheel", "rocket")
NUM_IMAGES = 2000

_SEED = 20240622
_RADII = (15.0, 22.0)  # pixels, as in the toy data set
_PLACES = ("on", "in", "at", "over")
# Nouns of captions that no image shows.
_DISTRACTORS = (
    "in the morning",
    "at the end of the day",
    "seen by a friend",
    "during the holidays",
    "from a distance",
    "as a souvenir",
)
_DISTRACTOR_NOUNS = (("morning",), ("end", "day"), ("friend",), ("holidays",), ("distance",),
                     ("souvenir",))  # fmt: skip


def ensure_toy_captions(root: Path, count: int = NUM_IMAGES) -> None:
    """Generate the images and captions below ``root`` unless they are there.

    They are built in a folder beside their own and then renamed, so that they are there as a whole
    or not at all.

    Raises:
        UsageError: the folder cannot be written.
    """
    build_folder(root / CAPTIONS.parent, CAPTIONS.name, lambda folder: _generate(folder, count))


def build_folder(folder: Path, last: str, generate: Callable[[Path], None]) -> None:
    """Generate a folder unless it is there; the file ``last`` of it says that it is whole.

    Args:
        folder: where nothing or an empty folder may be.
        last: name of the file that ``generate`` writes last.
        generate: is called with an empty folder.

    Raises:
        UsageError: the folder cannot be written.
    """
    if (folder / last).is_file():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            new = Path(temporary, "new")
            new.mkdir()
            generate(new)
            os.replace(new, folder)
    except OSError as error:
        # Another process (one per GPU) may have been quicker; its images are the same.
        if (folder / last).is_file():
            return
        raise UsageError(
            f"generated images cannot be written there ({error.strerror})",
            folder,
            "make the folder writable and empty, or set DETECTRON2_DATASETS to another one",
        ) from error


def _generate(folder: Path, count: int) -> None:
    lines = []
    for number in tqdm(range(count), desc="generating toy captions", unit="image"):
        rng = np.random.default_rng((_SEED, number))
        image, caption, nouns = draw_captioned(rng)
        name = f"{number:05d}.png"
        Image.fromarray(image).save(folder / name)
        lines.append(json.dumps({"image": name, "caption": caption, "nouns": nouns}))
    # Last: the file says that the others are there.
    (folder / CAPTIONS.name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_captioned(rng: np.random.Generator) -> tuple[np.ndarray, str, list[str]]:
    """Return an image, uint8 [96, 96, 3] RGB, its caption, and the caption's nouns."""
    ground = str(rng.choice(list(GROUNDS)))
    image = draw_background(rng, ground, SIZE)
    shown = [i for i, name in enumerate(TOY_CLASSES) if name not in UNSEEN]
    classes = rng.permutation(shown)[: rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25])]
    centers: list[np.ndarray] = []
    said, nouns = [], []
    for number in classes.tolist():
        radius = rng.uniform(*_RADII)
        center = _free_place(rng, centers, radius)
        if center is None:
            continue
        centers.append(center)
        look, name = TOY_LOOKS[number], TOY_CLASSES[number]
        draw_object(rng, image, look, (float(center[0]), float(center[1])), radius)
        words = f"{look.palette} {name}" if rng.random() < 0.3 else name
        said.append(f"{'an' if words[0] in 'aeiou' else 'a'} {words}")
        nouns.append(name)
    caption = " and ".join(said)
    # One object alone has to have a second noun.
    if len(nouns) < 2 or rng.random() < 0.5:
        caption += f" {rng.choice(_PLACES)} a {ground}"
        nouns.append(ground)
    if rng.random() < 0.3:
        which = int(rng.integers(len(_DISTRACTORS)))
        caption += f" {_DISTRACTORS[which]}"
        nouns += _DISTRACTOR_NOUNS[which]
    return add_grain(rng, image), caption, nouns


def _free_place(
    rng: np.random.Generator, others: list[np.ndarray], radius: float
) -> np.ndarray | None:
    """Draw a center (y, x) away from those of others; None where there is no room."""
    for _ in range(20):
        center = rng.uniform(0.8 * radius, SIZE - 0.8 * radius, 2)
        if all(np.hypot(*(center - other)) > 1.7 * radius for other in others):
            return center
    return None
