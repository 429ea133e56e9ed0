# SPDX-License-Identifier: Apache-2.0
"""Pre-trains the small ViT of the embedded data set, as ImageNet does for the paper's ViT-B.

The task is classification of generated pictures of one object, or none, on a cluttered ground: its
shape, its texture and its palette. Four such pictures make a collage (as CutMix and mosaic
augmentation do), which keeps the tokens local: the max-pooled patch tokens of each quarter name
the attributes of its own picture, the class token names those of all four. There are no masks and
no boxes of objects. No picture shows a class of the embedded data set: an object that shares two
or more of the three attributes with a class is never drawn, and grounds are drawn independently.

    python tools/pretrain_toy_backbone.py
"""

import argparse
import itertools
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from dalnet.assets import ASSETS
from dalnet.data.datasets.toy import TOY_LOOKS
from dalnet.data.datasets.toy_background import GROUNDS, draw_background
from dalnet.data.datasets.toy_drawing import (
    PALETTES,
    SHAPES,
    TEXTURES,
    Appearance,
    draw_object,
)
from dalnet.errors import UsageError
from dalnet.files import complete_or_absent

logger = logging.getLogger("pretrain_toy_backbone")

ARCHITECTURE = {
    "img_size": 96,
    "patch_size": 8,
    "embed_dim": 144,
    "depth": 6,
    "num_heads": 3,
}
SIDE, PATCH = ARCHITECTURE["img_size"], ARCHITECTURE["patch_size"]
GRID = SIDE // PATCH
PIXEL_MEAN = PIXEL_STD = 127.5

BATCH = 16  # collages
MEMORY = 4096  # collages kept to draw batches from
FIRST, FRESH = 256, 4  # collages drawn at the start, and per iteration
EMPTY = 0.2  # share of the pictures without an object
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 1e-3, 0.05, 150
BETAS = (0.9, 0.98)
LOG_EVERY, SAVE_EVERY = 20, 200
TRAINING, BATCHES, HELD_OUT, CLASSES = range(4)  # streams of random numbers

ATTRIBUTES = (tuple(SHAPES), tuple(TEXTURES), tuple(PALETTES))
SIZES = [1 + len(values) for values in ATTRIBUTES]  # with "no object" as index 0


def foreign_looks() -> list[Appearance]:
    """All looks that share at most one attribute with every class of the embedded data set."""

    def shared(a: Appearance, b: Appearance) -> int:
        return (a.shape == b.shape) + (a.texture == b.texture) + (a.palette == b.palette)

    looks = (Appearance(*values) for values in itertools.product(*ATTRIBUTES))
    return [look for look in looks if all(shared(look, own) <= 1 for own in TOY_LOOKS)]


def draw_picture(
    rng: np.random.Generator,
    height: int,
    width: int,
    looks: Sequence[Appearance],
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """One object or none: float [height, width, 3] RGB; shape, texture, palette (0: no object)."""
    image = draw_background(rng, str(rng.choice(list(GROUNDS))), max(height, width))
    labels = (0, 0, 0)
    if rng.random() >= EMPTY:
        look = looks[rng.integers(len(looks))]
        radius = rng.uniform(13, min(22, 0.55 * min(height, width)) + 1)
        sides = np.array((height, width))
        centre = tuple(sides / 2 + rng.uniform(-1, 1, 2) * np.maximum(sides / 2 - 0.8 * radius, 0))
        draw_object(rng, image, look, centre, radius)
        values = (look.shape, look.texture, look.palette)
        labels = tuple(names.index(v) + 1 for names, v in zip(ATTRIBUTES, values, strict=True))
    return image[:height, :width], labels


def draw_collage(
    rng: np.random.Generator, looks: Sequence[Appearance]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four pictures side by side.

    Returns uint8 [96, 96, 3] RGB, the number of the picture that each patch shows [12, 12], and
    the pictures' labels [4, 3].
    """
    cut_y, cut_x = rng.integers(GRID // 3, GRID - GRID // 3 + 1, 2)
    rows = (slice(0, cut_y), slice(cut_y, GRID))
    columns = (slice(0, cut_x), slice(cut_x, GRID))
    image = np.zeros((SIDE, SIDE, 3))
    owner = np.zeros((GRID, GRID), dtype=np.int64)
    labels = []
    for number, (r, c) in enumerate(itertools.product(rows, columns)):
        height, width = (PATCH * (s.stop - s.start) for s in (r, c))
        tile, label = draw_picture(rng, height, width, looks)
        image[PATCH * r.start : PATCH * r.stop, PATCH * c.start : PATCH * c.stop] = tile
        owner[r, c] = number
        labels.append(label)
    image += rng.normal(0, 3.0, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), owner, np.array(labels)


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Collages:
    """The latest collages of an endless numbered series, each drawn from its own number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.looks = foreign_looks()
        self.images = np.zeros((MEMORY, SIDE, SIDE, 3), dtype=np.uint8)
        self.owners = np.zeros((MEMORY, GRID, GRID), dtype=np.int64)
        self.labels = np.zeros((MEMORY, 4, 3), dtype=np.int64)
        self.drawn = 0

    def batch(self, iteration: int) -> Batch:
        """The iteration's images uint8 [B, 3, S, S], owners [B, g, g] and labels [B, 4, 3]."""
        self._draw_until(FIRST + FRESH * iteration)
        rng = np.random.default_rng((self.seed, BATCHES, iteration))
        chosen = rng.integers(0, min(self.drawn, MEMORY), BATCH)
        images, owners = self.images[chosen], self.owners[chosen]
        for axis in (1, 2):
            if rng.random() < 0.5:
                images, owners = np.flip(images, axis), np.flip(owners, axis)
        return to_batch(images, owners, self.labels[chosen])

    def _draw_until(self, count: int) -> None:
        # After a resume only the collages that are still in memory are drawn again.
        for number in range(max(self.drawn, count - MEMORY), count):
            rng = np.random.default_rng((self.seed, TRAINING, number))
            slot = number % MEMORY
            drawn = draw_collage(rng, self.looks)
            self.images[slot], self.owners[slot], self.labels[slot] = drawn
        self.drawn = count


def to_batch(images: np.ndarray, owners: np.ndarray, labels: np.ndarray) -> Batch:
    images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return images, torch.from_numpy(owners.copy()), torch.from_numpy(labels)


class AttributeClassifier(nn.Module):
    """The ViT with a linear layer on the class token and one on the pooled patch tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARCHITECTURE)
        width = ARCHITECTURE["embed_dim"]
        self.cls_head, self.patch_head = nn.Linear(width, sum(SIZES)), nn.Linear(width, sum(SIZES))

    def forward(self, images: torch.Tensor, owners: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits of all attributes side by side: of the collage [B, K], of its parts [B, 4, K]."""
        tokens = self.vit.forward_features((images.float() - PIXEL_MEAN) / PIXEL_STD)
        mine = owners.flatten(1)[:, None] == torch.arange(4)[:, None]
        patches = tokens[:, None, 1:].masked_fill(~mine[..., None], -torch.inf)
        return self.cls_head(tokens[:, 0]), self.patch_head(patches.amax(2))


def attribute_loss(outputs: tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy per attribute of each picture, and presence of each value in the collage."""
    of_collage, of_parts = outputs
    present = torch.cat([F.one_hot(labels[..., i], n).amax(1) for i, n in enumerate(SIZES)], 1)
    loss = len(SIZES) * F.binary_cross_entropy_with_logits(of_collage, present.float())
    for i, logits in enumerate(of_parts.split(SIZES, dim=2)):
        loss = loss + F.cross_entropy(logits.flatten(0, 1), labels[..., i].flatten())
    return loss


@torch.no_grad()
def accuracy(
    model: AttributeClassifier, seed: int, stream: int, looks: Sequence[Appearance], count: int
) -> list[float]:
    """Per cent of objects in ``count`` new collages whose shape, texture, palette is right."""
    model.eval()
    rng = np.random.default_rng((seed, stream))
    right, total = torch.zeros(len(SIZES)), 0
    for _ in range(count // BATCH):
        drawn = zip(*(draw_collage(rng, looks) for _ in range(BATCH)), strict=True)
        images, owners, labels = to_batch(*(np.stack(part) for part in drawn))
        objects = labels[..., 0] > 0
        for i, logits in enumerate(model(images, owners)[1].split(SIZES, dim=2)):
            right[i] += (logits.argmax(2) == labels[..., i])[objects].sum()
        total += int(objects.sum())
    model.train()
    return (100 * right / total).tolist()


def learning_rate(iteration: int, iters: int) -> float:
    warmup = min(1.0, (iteration + 1) / WARMUP)
    return LEARNING_RATE * warmup * 0.5 * (1 + math.cos(math.pi * iteration / iters))


def export(model: AttributeClassifier, path: Path) -> None:
    """Save the ViT alone as timm names it, in half precision."""
    state = {key: value.half().contiguous() for key, value in model.vit.state_dict().items()}
    with complete_or_absent(path) as temporary:
        save_file(state, temporary)


class Training:
    """Model, optimiser and the number of iterations done; what a checkpoint holds."""

    def __init__(self, seed: int, iters: int) -> None:
        torch.manual_seed(seed)
        self.seed, self.iters, self.done = seed, iters, 0
        self.model = AttributeClassifier()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=BETAS
        )
        self.collages = Collages(seed)

    def step(self) -> float:
        """Do one iteration and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.done, self.iters)
        images, owners, labels = self.collages.batch(self.done)
        loss = attribute_loss(self.model(images, owners), labels)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1
        return loss.item()

    def save(self, path: Path) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"seed": self.seed, "iters": self.iters, "done": self.done}
        with complete_or_absent(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        if (state["seed"], state["iters"]) != (self.seed, self.iters):
            raise UsageError(
                f"{path} belongs to a run with --seed {state['seed']} --iters {state['iters']}: "
                "repeat these, or leave out --resume."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]
        logger.info("resumed after iteration %d", self.done)


def train(run: Training, checkpoint: Path) -> None:
    """Do the iterations that are left, with a line of progress and a checkpoint now and then."""
    began, start, losses = time.monotonic(), run.done, []
    while run.done < run.iters:
        losses.append(run.step())
        if run.done % LOG_EVERY == 0:
            pace = (time.monotonic() - began) / (run.done - start)
            left = pace * (run.iters - run.done) / 60
            mean = sum(losses) / len(losses)
            place = f"{run.done}/{run.iters}"
            logger.info("%s  loss %.3f  %.2f s/it  %.1f min left", place, mean, pace, left)
            losses.clear()
        if run.done % SAVE_EVERY == 0 or run.done == run.iters:
            run.save(checkpoint)
            report("unseen pictures", run, HELD_OUT, run.collages.looks, 64)


def report(
    what: str, run: Training, stream: int, looks: Sequence[Appearance], collages: int
) -> None:
    shares = accuracy(run.model, run.seed, stream, looks, collages)
    logger.info("%s: shape %.1f, texture %.1f, palette %.1f %% right", what, *shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iters", type=int, default=900, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=ASSETS / "toy_vit.safetensors")
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("output/pretrain_toy/checkpoint.pth")
    )
    parser.add_argument("--resume", action="store_true", help="go on from --checkpoint, if any")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run = Training(args.seed, args.iters)
    if args.resume and args.checkpoint.is_file():
        run.restore(args.checkpoint)
    train(run, args.checkpoint)
    export(run.model, args.output)
    report("unseen pictures, other combinations", run, HELD_OUT, foreign_looks(), 512)
    report("unseen pictures, the data set's classes", run, CLASSES, TOY_LOOKS, 512)


if __name__ == "__main__":
    try:
        main()
    except UsageError as e:
        sys.exit(str(e))
