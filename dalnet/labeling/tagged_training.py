# SPDX-License-Identifier: Apache-2.0
"""Write the config of a training on one's own tagged images."""

import logging
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm.models

from dalnet.config import new_config
from dalnet.config.recipes import ENCODERS, Recipe, choose_recipe
from dalnet.data.datasets.tagged import (
    CORRECTED_MASK,
    TaggedImages,
    classes_of,
    match_masks,
    read_tag_table,
)
from dalnet.data.image_files import find_images
from dalnet.data.image_io import short_side
from dalnet.data.labels import is_known
from dalnet.data.tags import match_names
from dalnet.documents import read_yaml
from dalnet.errors import UsageError
from dalnet.io import read_lines
from dalnet.modeling.clip.weights import find_weights
from dalnet.modeling.memory import gpu_memory

from .mask_values import convert_masks, read_mask_values

DESCRIPTION = "dataset.yaml"  # in the folder of the run
# Of the masks that a description names: the part, the key of its records, and the folder in that of
# the run that gets those of the classes' values, where the given ones have others.
_MASKS = {
    "masks": ("val", "sem_seg_file_name", "val_masks"),
    "corrections": ("train", CORRECTED_MASK, "corrected_masks"),
}
_HELD_OUT = 0.15  # of the images that have a mask
_SAMPLES = 50  # images whose size is looked at
_NAMED = 5  # examples in a message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassWords:
    """What a YAML file of classes says.

    Attributes:
        classes: the words for the text prompts by class, in the order of labels.
        synonyms: the class that another tag means.
        background: the words for the background; empty for the recipe's.
    """

    classes: Mapping[str, str] = field(default_factory=dict)
    synonyms: Mapping[str, str] = field(default_factory=dict)
    background: str = ""


def read_class_words(path: Path) -> ClassWords:
    """Read ``classes`` (a list, or words by name), ``synonyms`` and ``background`` from YAML.

    Raises:
        UsageError: unreadable, another key, or a synonym of no class.
    """
    hint = "write classes: {dog: dog}, synonyms: {puppy: dog}, background: background"
    try:
        # All scalars as text: YAML takes no and 007 for other things than words.
        content = read_yaml(path, hint, as_text=True)
        if not isinstance(content, dict) or content.keys() - {"classes", "synonyms", "background"}:
            raise ValueError("another key than classes, synonyms and background")
        classes = content["classes"]
        if not classes or not isinstance(classes, list | dict):
            raise ValueError("classes is no list and no words by name")
        classes = classes if isinstance(classes, dict) else dict(zip(classes, classes, strict=True))
        synonyms = content.get("synonyms") or {}
        if unknown := set(synonyms.values()) - classes.keys():
            raise ValueError(f"the synonym of {min(map(str, unknown))!r}, which is no class")
        words = {str(name): str(text or name) for name, text in classes.items()}
        return ClassWords(words, dict(synonyms), str(content.get("background") or ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"no list of classes ({error})", path, hint) from error


def describe_images(
    images: Path,
    tags: Path | None,
    *,
    words: ClassWords | None = None,
    masks: Path | None = None,
    corrections: Path | None = None,
    val: str = "",
    untagged: str = "unknown",
) -> TaggedImages:
    """Return the description of one's own images, with what is held out for validation.

    Args:
        images, tags, masks, corrections, untagged: see :mod:`dalnet.data.datasets.tagged`.
        words: the classes; by default all tags, in the file's order or sorted.
        val: a text file that lists the held-out images, or the fraction of the images (of those
            with a mask, where there are masks); by default 0.15 where there are masks, else 0.

    Raises:
        UsageError: something that cannot be read or matched, or a class that no image shows.
    """
    for name, folder in (("images", images), ("masks", masks), ("corrections", corrections)):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{folder} is no folder", where=name, hint="name an existing one")
        if folder is not None and name != "images":
            require_outside(folder, images, name)
    files = find_images(images)
    words = words or ClassWords({n: n for n in classes_of(read_tag_table(images, tags, files))})
    whole = TaggedImages(
        images=images.absolute(),
        tags=tags and tags.absolute(),
        classes=words.classes,
        synonyms=words.synonyms,
        masks=masks and masks.absolute(),
        corrections=corrections and corrections.absolute(),
        untagged=untagged,
    )
    records = whole.records("train")
    for name, folder in (("masks", masks), ("corrections", corrections)):
        if folder is not None:
            _warn_of_unused(name, folder, files)
    shown = Counter(label for record in records for label in record["image_labels"])
    names = list(words.classes)
    if absent := [name for label, name in enumerate(names) if not shown[label]]:
        what = f"no image shows {absent[0]}" + (f" ({len(absent)} such)" if absent[1:] else "")
        raise UsageError(what, tags or images, "tag images, or list the other classes (--classes)")
    for label, count in shown.items():
        if count == len(records):
            logger.warning(
                "every image shows %s: nothing tells it apart from the background; add images "
                "without it",
                names[label],
            )
    held_out = tuple(_choose_held_out(records, val))
    return replace(whole, held_out=held_out)


def require_outside(folder: Path, images: Path, parameter: str) -> None:
    """Refuse a folder within that of the images, whose PNGs would be taken for images.

    Raises:
        UsageError: it lies there, or is the same; ``parameter`` says which one it is.
    """
    if folder.resolve().is_relative_to(images.resolve()):
        what = f"{folder} lies in the folder of the images, and what it holds would be images too"
        raise UsageError(what, parameter, "choose a folder beside it")


def _warn_of_unused(parameter: str, folder: Path, files: Sequence[str]) -> None:
    """Name the masks in a folder that are of no image; they may be called otherwise than it.

    Raises:
        UsageError: all of them.
    """
    masks = match_masks(folder, files)
    if not masks.by_image:
        hint = "name the folder of PNGs that are called like their images"
        raise UsageError(f"no mask in {folder} belongs to an image", parameter, hint)
    if masks.unused:
        names = ", ".join(masks.unused[:_NAMED]) + (" ..." if masks.unused[_NAMED:] else "")
        logger.warning("%d masks in %s are of no image: %s", len(masks.unused), folder, names)


def held_out_count(candidates: int, fraction: float = _HELD_OUT) -> int:
    """Return how many of ``candidates`` images are held out: a fraction, but at least one."""
    return max(round(fraction * candidates), int(fraction > 0 and candidates > 0))


def _choose_held_out(records: Sequence[Mapping[str, Any]], val: str) -> list[str]:
    names = [str(record["image_id"]) for record in records]
    with_mask = [str(r["image_id"]) for r in records if "sem_seg_file_name" in r]
    try:
        fraction = float(val) if val else _HELD_OUT * bool(with_mask)
    except ValueError:
        return _read_held_out(Path(val), names)
    if not 0 <= fraction < 1:
        raise UsageError(f"{fraction} of the images", where="val", hint="use 0 to below 1")
    candidates = with_mask or names
    count = held_out_count(len(candidates), fraction)
    chosen = np.random.default_rng(0).permutation(len(candidates))[:count]
    return _leave_some([candidates[number] for number in sorted(chosen)], names)


def _read_held_out(path: Path, names: Sequence[str]) -> list[str]:
    """Return the images that a text file lists, as files of tags name them."""
    if not path.is_file():
        hint = "write a fraction, as 0.2, or name a list of images"
        raise UsageError(f"{str(path)!r} is no number and no file", "val", hint)
    found, unclear = match_names(read_lines(path, "write one image a line"), names)
    for line, candidates in unclear.items():
        meant = " or ".join(candidates) or "no image"
        raise UsageError(f"{line!r} means {meant}", path, "write paths below the folder of images")
    return _leave_some(list(dict.fromkeys(found.values())), names)


def _leave_some(held_out: list[str], names: Sequence[str]) -> list[str]:
    if len(held_out) == len(names):
        raise UsageError("it holds out every image", "val", "leave some for the training")
    return held_out


@dataclass(frozen=True)
class PreparedRun:
    """A training on one's own images, of which nothing is written yet.

    Attributes:
        recipe: with the keys that name the data set.
        images: what it trains on.
        output: the folder of the run, absolute.
    """

    recipe: Recipe
    images: TaggedImages
    output: Path

    def write(self) -> None:
        """Write ``dataset.yaml`` into the folder of the run, and masks of other values anew.

        Raises:
            UsageError: a mask cannot be read, or the folder cannot be written to.
        """
        _convert_masks(self.images, self.output).save(self.output / DESCRIPTION)


def prepare_run(
    images: Path,
    output: str | None,
    *,
    tags: Path | None = None,
    classes: Path | None = None,
    untagged: str = "unknown",
    masks: Path | None = None,
    corrections: Path | None = None,
    val: str = "",
    encoder: str = "",
    texts: str = "",
    align: bool = True,
    config: str = "",
    resume: bool = False,
) -> PreparedRun:
    """Describe one's own images, and choose the recipe for them.

    Args:
        output: folder of the run.
        images, tags, masks, corrections, val, untagged: see :func:`describe_images`.
        classes: see :func:`read_class_words`.
        encoder: a name in :data:`ENCODERS`, a model of timm, or a file of its weights that is
            called like it.
        texts: a file of text embeddings; by default CLIP's text tower, downloaded if need be.
        align: whether to align with texts at all.
        config: the user's own; of it nothing is changed but the data set, its number of classes,
            and what ``encoder``, ``texts`` and ``classes`` say.
        resume: the run may exist; its images must then be described as now.

    Raises:
        UsageError: something that cannot be used, or no folder.
    """
    if not output:
        raise UsageError("the run needs a folder", where="output", hint="name one")
    run, path = Path(output).absolute(), Path(output).absolute() / DESCRIPTION
    words = read_class_words(classes) if classes else ClassWords()
    described = describe_images(
        images,
        tags,
        words=words if words.classes else None,
        masks=masks,
        corrections=corrections,
        val=val,
        untagged=untagged,
    )
    require_outside(run, images, "output")
    if resume and path.is_file() and not _is_same(TaggedImages.load(path), described, run):
        hint = "name what the training began with, or another folder"
        raise UsageError("it describes other images than these", path, hint)
    if align and not (texts or config):
        _require_text_tower()
    chosen = _choose_encoder(encoder)
    recipe = _choose_recipe(described, config, align, chosen.name)
    last = f"recipe {recipe.config}; any key of it can be overruled at the end of the command"
    print("\n".join(f"- {line}" for line in (*recipe.reasons, last)))
    opts = [*recipe.opts, *_data_options(described, path), *chosen.opts]
    opts += _text_options(texts, words.background)
    return PreparedRun(replace(recipe, opts=tuple(opts)), described, run)


def _text_options(texts: str, background: str) -> list[str]:
    """Return the keys of the texts: of the file that they come from, and of the background's."""
    opts = ["MODEL.CLIP.SOURCE", "embeddings", "MODEL.CLIP.WEIGHTS", texts] if texts else []
    return opts + (["MODEL.CLIP.BACKGROUND", background] if background else [])


def _is_same(earlier: TaggedImages, now: TaggedImages, run: Path) -> bool:
    """Return whether two descriptions are of the same images, but for masks that were converted."""
    if now.corrections and earlier.corrections == run / _MASKS["corrections"][2]:
        if _corrected(earlier) != _corrected(now):
            return False
        earlier = replace(earlier, corrections=now.corrections)
    return replace(earlier, masks=None) == replace(now, masks=None)


def _corrected(described: TaggedImages) -> set[str]:
    return {str(r["image_id"]) for r in described.records("train") if CORRECTED_MASK in r}


def _convert_masks(described: TaggedImages, run: Path) -> TaggedImages:
    """Return the description with masks of the classes' values, written into ``run`` if need be."""
    converted: dict[str, Any] = {}
    for kind, (part, key, name) in _MASKS.items():
        given = getattr(described, kind)
        values = read_mask_values(given, list(described.classes)) if given else None
        if values is not None:
            masks = {
                f"{r['image_id']}.png": Path(r[key]) for r in described.records(part) if key in r
            }
            convert_masks(masks, values, run / name)
            converted[kind] = run / name
    return replace(described, **converted)


@dataclass(frozen=True)
class _Encoder:
    """A vision transformer of timm: its name, and the keys that go with it; empty for any."""

    name: str = ""
    opts: tuple[str, ...] = ()


def _choose_encoder(encoder: str) -> _Encoder:
    """Read ``--encoder``: a name in :data:`ENCODERS` or timm, or a file that is called like it."""
    if not encoder:
        return _Encoder()
    is_file = Path(encoder).is_file()
    name = Path(encoder).stem if is_file else ENCODERS.get(encoder, encoder)
    opts = ["MODEL.VIT.WEIGHTS", encoder] if is_file else []
    published = timm.models.get_pretrained_cfg(name)
    if published is not None:
        # Those that its pre-training normalized images by.
        for key, values in (("PIXEL_MEAN", published.mean), ("PIXEL_STD", published.std)):
            opts += [f"MODEL.{key}", str([round(255 * value, 3) for value in values])]
    return _Encoder(name, tuple(opts))


def _data_options(described: TaggedImages, path: Path) -> list[str]:
    """Return the keys that name the data set which ``path`` describes."""
    tests = ("tagged_val",) if described.held_out else ()
    names = ["DATASETS.TRAIN", str(("tagged_train",)), "DATASETS.TEST", str(tests)]
    return [*names, "DATASETS.DESCRIPTION", str(path), "OUTPUT_DIR", str(path.parent)]


def _choose_recipe(described: TaggedImages, config: str, align: bool, encoder: str) -> Recipe:
    """Return the recipe of a training: the user's config, or one chosen for these images."""
    if not config:
        return _recipe_for(described, align, encoder)
    # Of the user's own, only the number of classes and the encoder are set.
    opts = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(len(described.classes) + 1)]
    opts += ["MODEL.VIT.NAME", encoder] if encoder else []
    return Recipe(config, tuple(opts), (f"images of {len(described.classes)} classes",))


def _recipe_for(described: TaggedImages, align: bool, encoder: str) -> Recipe:
    """Look at the images and the hardware, and choose."""
    names = list(described.classes)
    records = [record for record in described.records("train") if is_known(record, len(names))]
    if not records:
        what = "it holds out every image of which a tag is known"
        raise UsageError(what, "val", "leave some for the training")
    sides = [short_side(str(r["file_name"])) for r in records[:: len(records) // _SAMPLES + 1]]
    side = int(statistics.median(sides))
    return choose_recipe(len(records), len(names), side, gpu_memory(), align, encoder)


def _require_text_tower() -> None:
    """Say before anything starts that CLIP's texts cannot be had."""
    clip = new_config().MODEL.CLIP
    try:
        find_weights(clip.NAME, clip.WEIGHTS)
    except UsageError as error:
        raise UsageError(
            f"CLIP's text tower cannot be had ({error.what})",
            where="texts",
            hint="name a file of text embeddings, or train without alignment (--no-alignment)",
        ) from error
