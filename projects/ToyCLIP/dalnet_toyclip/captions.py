# SPDX-License-Identifier: Apache-2.0
"""Captions of toy images, and which images of a batch each of them fits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dalnet.modeling.clip.prompts import IMAGENET_TEMPLATES

from .images import MAX_OBJECTS, ToyImage
from .words import (
    ANY_OBJECT,
    ATTRIBUTE_WORDS,
    CLASS_WORDS,
    EMPTY_WORDS,
    GROUND_WORDS,
    PREPOSITIONS,
    Words,
)

ANY = -1  # in a caption: a field that it does not mention

PROMPT = "a photo of {}."  # the template of class prompts


@dataclass(frozen=True)
class Caption:
    """A sentence and what it says.

    Attributes:
        text: the sentence.
        objects: of each object that it mentions class, shape, texture and palette, or ``ANY``.
        ground: number of the ground, or ``ANY``.
        empty: it says that there is nothing but ground.
    """

    text: str
    objects: tuple[tuple[int, ...], ...] = ()
    ground: int = ANY
    empty: bool = False


def draw_caption(rng: np.random.Generator, image: ToyImage) -> Caption:
    """Return one of the many captions that fit the image.

    Half of them stand inside one of CLIP's templates, and half of them end in a full stop.
    """
    caption = _draw_content(rng, image)
    text = caption.text
    if rng.random() < 0.5:
        article, _, rest = text.partition(" ")
        if article in ("a", "an") and rng.random() < 0.9:
            text = rest
        common = rng.random() < 0.4
        text = (PROMPT if common else IMAGENET_TEMPLATES[rng.integers(80)]).replace("{}", text)
    text = text.removesuffix(".") + ("." if rng.random() < 0.5 else "")
    return Caption(text, caption.objects, caption.ground, caption.empty)


def _draw_content(rng: np.random.Generator, image: ToyImage) -> Caption:
    """Draw what is said, without a template around it."""
    has_ground = image.ground >= 0
    if not image.objects and rng.random() < 0.5:
        return Caption(with_article(_word(rng, (EMPTY_WORDS,), 0)), empty=True)
    if not image.objects or (has_ground and rng.random() < 0.1):
        words = f"a {_word(rng, GROUND_WORDS, image.ground)}"
        return Caption(words, ground=image.ground)
    count = len(image.objects)
    if rng.random() < 0.5:
        count = int(rng.integers(1, count + 1))
    chosen = rng.permutation(len(image.objects))[:count]
    # Equal descriptions of two objects are said once.
    said: dict[tuple[int, ...], str] = {}
    for i in chosen:
        fields, words = _describe(rng, image.objects[i])
        said.setdefault(fields, words)
    *first, last = said.values()
    text = f"{', '.join(first)} and {last}" if first else last
    ground = ANY
    if has_ground and rng.random() < 0.4:
        ground = image.ground
        text += f" {rng.choice(PREPOSITIONS)} a {_word(rng, GROUND_WORDS, ground)}"
    return Caption(text, tuple(said), ground)


def _describe(rng: np.random.Generator, shown: Sequence[int]) -> tuple[tuple[int, ...], str]:
    """Name an object by its class, its attributes or both: the fields said, and the words."""
    number, *attributes = shown
    named = number != ANY and rng.random() < 0.7
    said = rng.random(3) < (0.0, 0.15, 0.15) if named else rng.random(3) < 0.6
    if not named and not said.any():
        said[rng.integers(3)] = True
    shape, texture, palette = (
        _word(rng, words, value) if use else ""
        for use, words, value in zip(said, ATTRIBUTE_WORDS, attributes, strict=True)
    )
    noun = _word(rng, CLASS_WORDS, number) if named else shape or str(rng.choice(ANY_OBJECT))
    words = " ".join(filter(None, (palette, texture, noun)))
    values = (v if use else ANY for use, v in zip(said, attributes, strict=True))
    return (number if named else ANY, *values), with_article(words)


def with_article(words: str) -> str:
    """Put "a" or "an" before the words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _word(rng: np.random.Generator, words: Words, number: int) -> str:
    """Return the usual word in half of the cases, else a synonym."""
    usual, *others = words[number]
    return usual if rng.random() < 0.5 else others[rng.integers(len(others))]


def find_fits(captions: Sequence[Caption], images: Sequence[ToyImage]) -> np.ndarray:
    """Return which images each caption fits, bool ``[captions, images]``.

    A caption fits if each object that it mentions is there, and the ground if it mentions one.
    """
    shown = _padded([image.objects for image in images], -2)  # [I, 3, 4]
    said = _padded([caption.objects for caption in captions], -3)  # [C, 3, 4]
    same = (said[:, None, :, None] == shown[None, :, None]) | (said == ANY)[:, None, :, None]
    same &= (shown[..., 1] >= 0)[None, :, None, :, None]  # the padding is no object
    found = same.all(-1).any(-1)  # [C, I, 3]
    fits = (found | (said[..., 1] == -3)[:, None]).all(-1)
    ground = np.array([image.ground for image in images])
    wanted = np.array([caption.ground for caption in captions])[:, None]
    fits &= (wanted == ANY) | (wanted == ground)
    nothing = np.array([not image.objects and image.ground >= 0 for image in images])
    return fits & (nothing | ~np.array([caption.empty for caption in captions])[:, None])


def _padded(rows: Sequence[Sequence[Sequence[int]]], filler: int) -> np.ndarray:
    table = np.full((len(rows), MAX_OBJECTS, 4), filler)
    for i, objects in enumerate(rows):
        if objects:
            table[i, : len(objects)] = objects
    return table
