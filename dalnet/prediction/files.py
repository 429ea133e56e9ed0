# SPDX-License-Identifier: Apache-2.0
"""Finds the images and videos that are to be predicted, and names their results."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from dalnet.data.image_files import IMAGE_SUFFIXES, JPEG_SUFFIXES, walk_files
from dalnet.errors import UsageError, printable

_VIDEOS = ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv"
VIDEO_SUFFIXES = tuple(_VIDEOS.split())
_CLASS_LETTERS = 40  # of a class name in a file name, which has 255 bytes at most

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionInput:
    """One image or video.

    Attributes:
        source: its file, or the number of a camera.
        name: what its results are called, relative to the output folder and without suffix.
        is_video: whether it is a video or a camera.
    """

    source: Path | int
    name: Path
    is_video: bool = False


def find_inputs(texts: Sequence[str], output: Path) -> list[PredictionInput]:
    """List the images and videos that were asked for, each once.

    Folders are searched for images, with all folders in them; patterns (``*``, ``?``, ``[]``,
    ``**`` for any folders) for images and videos; both without hidden files and without what
    lies in ``output``. A file that is named itself is taken whatever its suffix.

    An input's name is its path below the deepest folder that all share; it keeps its suffix
    where files differ in nothing else.

    Args:
        texts: files, folders, patterns.
        output: where the results will be.

    Raises:
        UsageError: something that does not exist, or in which nothing can be predicted.
    """
    roots: list[str] = []
    files: dict[Path, Path] = {}
    for text in texts:
        root, found = _expand(text, output)
        roots.append(os.path.abspath(root))
        for path in found:
            files.setdefault(path.resolve(), Path(os.path.abspath(path)))
    shared = os.path.commonpath(roots)
    names = _distinct_names([path.relative_to(shared) for path in files.values()])
    return [
        PredictionInput(path, name, path.suffix.lower() in VIDEO_SUFFIXES)
        for path, name in zip(files.values(), names, strict=True)
    ]


class ResultPaths:
    """Where results are written: beside each other in one folder, never over an input.

    ``<name>_overlay.jpg`` (of JPEG) or ``.png``, ``<name>_mask.png``, ``<name>_cam_<class>.png``;
    of a video ``<name>_overlay.mp4`` and ``<name>_mask/<frame>.png``. Each method raises a
    ``UsageError`` where the path is that of an input, or of a result of another input.
    """

    def __init__(
        self, output: Path, inputs: Sequence[PredictionInput], class_names: Sequence[str]
    ) -> None:
        """Take the folder, all inputs and the names of all classes."""
        self._output = output
        self._inputs = {
            entry.source.resolve() for entry in inputs if isinstance(entry.source, Path)
        }
        self._owners: dict[Path, PredictionInput] = {}
        slugs = [re.sub(r"[^\w.-]+", "_", name)[:_CLASS_LETTERS] for name in class_names]
        counts = Counter(slug.lower() for slug in slugs)
        # Where only such signs tell two names apart, their labels do.
        self._cam_names = {
            name: slug if counts[slug.lower()] == 1 else f"{slug}_{label}"
            for label, (name, slug) in enumerate(zip(class_names, slugs, strict=True))
        }

    def overlay(self, entry: PredictionInput) -> Path:
        """Return the path of an overlay."""
        if not isinstance(entry.source, Path) or entry.is_video:
            return self._path(entry, "overlay.mp4")
        is_jpeg = entry.source.suffix.lower() in JPEG_SUFFIXES
        return self._path(entry, "overlay.jpg" if is_jpeg else "overlay.png")

    def mask(self, entry: PredictionInput, frame: int = 0) -> Path:
        """Return the path of a label map; of a video that of a frame, counted from 0."""
        return self._path(entry, f"mask/{frame:06d}.png" if entry.is_video else "mask.png")

    def cam(self, entry: PredictionInput, class_name: str) -> Path:
        """Return the path of a CAM."""
        return self._path(entry, f"cam_{self._cam_names[class_name]}.png")

    def existing(self, entry: PredictionInput, kinds: Collection[str]) -> list[Path]:
        """Return what there is of "overlay", "mask" (of all frames) and "cam" (of all classes)."""
        found = [self.overlay(entry)] if "overlay" in kinds else []
        if "mask" in kinds and entry.is_video:
            found += self.mask(entry).parent.glob("[0-9]*.png")
        elif "mask" in kinds:
            found.append(self.mask(entry))
        if "cam" in kinds:
            found += [self.cam(entry, name) for name in self._cam_names]
        # Not by pathlib, which raises where a name is too long.
        return [path for path in found if os.path.isfile(path)]

    def _path(self, entry: PredictionInput, ending: str) -> Path:
        path = self._output / entry.name.parent / f"{entry.name.name}_{ending}"
        owner = self._owners.setdefault(path, entry)
        if path.resolve() in self._inputs or owner is not entry:
            what = "an input" if owner is entry else f"that of {owner.source}"
            hint = "choose another folder" if owner is entry else "rename one of them"
            raise UsageError(f"its result {path} would overwrite {what}", entry.source, hint)
        return path


def _expand(text: str, output: Path) -> tuple[Path, list[Path]]:
    """Return the folder that a text is about, and the files it stands for, sorted."""
    # As text: pathlib refuses a name such as ~x.jpg, and raises where a folder cannot be entered.
    path = Path(os.path.expanduser(text))
    if os.path.isfile(path):
        return path.parent, [path]
    if os.path.isdir(path):
        root, found, suffixes = path, [*walk_files(path, _warn)], IMAGE_SUFFIXES
    elif glob.has_magic(text):
        # Folders that exist are no part of the pattern, whatever their names.
        root = next(folder for folder in path.parents if os.path.isdir(folder))
        found, suffixes = _match(root, path), IMAGE_SUFFIXES + VIDEO_SUFFIXES
    else:
        raise UsageError("it does not exist", text, "give a file, a folder or a quoted pattern")
    # Results of an earlier run, where the output folder lies among the inputs.
    earlier = output.resolve()
    if earlier != root.resolve() and earlier.is_relative_to(root.resolve()):
        found = [file for file in found if not file.resolve().is_relative_to(earlier)]
    # A link to nothing is kept, so that it is named as unreadable rather than passed over.
    kept = [f for f in found if f.suffix.lower() in suffixes and (f.is_file() or not f.exists())]
    videos = [f for f in found if f.suffix.lower() in {*VIDEO_SUFFIXES} - {*suffixes}]
    if videos:
        message = "left out: %d videos in the folder %s, as %s: name them, or give a pattern"
        logger.warning(message, len(videos), printable(text), printable(videos[0].name))
    if not kept:
        raise UsageError(
            f"it holds no file to predict ({', '.join(suffixes)}; hidden ones and those in the "
            "output folder do not count)",
            text,
            "give another folder or pattern",
        )
    return root, sorted(kept)


def _match(root: Path, path: Path) -> list[Path]:
    """Return the files that match a path with patterns below a folder that exists."""
    pattern = path.relative_to(root).parts
    if "**" not in pattern:
        return [root / found for found in glob.iglob(os.path.join(*pattern), root_dir=root)]

    def fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
        if not parts or not pattern:
            return not parts and set(pattern) <= {"**"}
        if pattern[0] == "**":
            return fits(parts, pattern[1:]) or fits(parts[1:], pattern)
        return fnmatchcase(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])

    # Not by glob, which follows links that lead in a circle as long as a path can be.
    return [file for file in walk_files(root, _warn) if fits(file.relative_to(root).parts, pattern)]


def _warn(error: OSError) -> None:
    logger.warning("left out: %s: %s", error.filename, error.strerror)


def _distinct_names(paths: Sequence[Path]) -> list[Path]:
    """Return paths without suffix; with it where others are called alike without or with theirs."""
    bare = [path.with_suffix("") for path in paths]
    counts = Counter([*bare, *(path for path in paths if path.suffix)])
    return [path if counts[name] > 1 else name for path, name in zip(paths, bare, strict=True)]
