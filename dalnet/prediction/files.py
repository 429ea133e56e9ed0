# SPDX-License-Identifier: Apache-2.0
"""The images and videos that are to be predicted, and where their results are written."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dalnet.errors import UsageError
from dalnet.io import atomic_write

_JPEG_SUFFIXES = (".jpg", ".jpeg")
# Also what needs a plug-in of Pillow, so that it is named as unreadable rather than passed over.
_OTHER_IMAGES = ".avif .bmp .gif .heic .heif .jp2 .pgm .png .ppm .tif .tiff .webp"
_VIDEOS = ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv"
IMAGE_SUFFIXES = (*_JPEG_SUFFIXES, *_OTHER_IMAGES.split())
VIDEO_SUFFIXES = tuple(_VIDEOS.split())


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
    roots, files = [], {}
    for text in texts:
        root, found = _expand(text, output)
        roots.append(os.path.abspath(root))
        for path in found:
            files.setdefault(path.resolve(), Path(os.path.abspath(path)))
    shared = os.path.commonpath(roots)
    paths = list(files.values())
    names = _distinct_names([path.relative_to(shared) for path in paths])
    return [
        PredictionInput(path, name, path.suffix.lower() in VIDEO_SUFFIXES)
        for path, name in zip(paths, names, strict=True)
    ]


class ResultPaths:
    """Where results are written: beside each other in one folder, never over an input.

    ``<name>_overlay.jpg`` (of JPEG) or ``.png``, ``<name>_mask.png``, ``<name>_cam_<class>.png``;
    of a video ``<name>_overlay.mp4`` and ``<name>_mask/<frame>.png``. Each method raises a
    ``UsageError`` where the path is that of an input.
    """

    def __init__(
        self, output: Path, inputs: Sequence[PredictionInput], class_names: Sequence[str]
    ) -> None:
        """Take the folder, all inputs and the names of all classes."""
        self._output = output
        self._inputs = {item.source.resolve() for item in inputs if isinstance(item.source, Path)}
        slugs = [re.sub(r"[^\w.-]+", "_", name) for name in class_names]
        counts = Counter(slug.lower() for slug in slugs)
        # Where only such signs tell two names apart, their labels do.
        self._cam_names = {
            name: slug if counts[slug.lower()] == 1 else f"{slug}_{label}"
            for label, (name, slug) in enumerate(zip(class_names, slugs, strict=True))
        }

    def overlay(self, item: PredictionInput) -> Path:
        """Return the path of an overlay."""
        if item.is_video:
            return self._path(item, "overlay.mp4")
        is_jpeg = item.source.suffix.lower() in _JPEG_SUFFIXES
        return self._path(item, "overlay.jpg" if is_jpeg else "overlay.png")

    def mask(self, item: PredictionInput, frame: int = 0) -> Path:
        """Return the path of a label map; of a video that of a frame, counted from 0."""
        return self._path(item, f"mask/{frame:06d}.png" if item.is_video else "mask.png")

    def cam(self, item: PredictionInput, class_name: str) -> Path:
        """Return the path of a CAM."""
        return self._path(item, f"cam_{self._cam_names[class_name]}.png")

    def _path(self, item: PredictionInput, ending: str) -> Path:
        path = self._output / item.name.parent / f"{item.name.name}_{ending}"
        if path.resolve() in self._inputs:
            raise UsageError(
                f"{item.source}: its result {path} would overwrite an input; choose another folder."
            )
        return path


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 [H, W, 3], as its suffix says, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    with atomic_write(path) as unfinished:
        kind = "JPEG" if path.suffix == ".jpg" else "PNG"
        Image.fromarray(picture).save(unfinished, format=kind, quality=95)


def _expand(text: str, output: Path) -> tuple[Path, list[Path]]:
    """The folder that a text is about, and the files it stands for, sorted."""
    path = Path(text).expanduser()
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        root, found, suffixes = path, _walk(path), IMAGE_SUFFIXES
    elif glob.has_magic(text):
        root = next(folder for folder in path.parents if not glob.has_magic(str(folder)))
        found = map(Path, glob.iglob(str(path), recursive=True))
        suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    else:
        raise UsageError(f"{text} does not exist: give a file, a folder or a quoted pattern.")
    kept = sorted(file for file in found if file.suffix.lower() in suffixes and file.is_file())
    # Results of an earlier run, where the output folder lies among the inputs.
    earlier = output.resolve()
    if earlier != root.resolve() and earlier.is_relative_to(root.resolve()):
        kept = [file for file in kept if not file.resolve().is_relative_to(earlier)]
    if not kept:
        raise UsageError(
            f"{text} holds no file to predict ({', '.join(suffixes)}; hidden ones and those in the "
            "output folder do not count): give another folder or pattern."
        )
    return root, kept


def _walk(folder: Path) -> Iterator[Path]:
    """The files below a folder, without hidden ones; linked folders are entered, each once."""
    entered = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(parent)
        folders[:] = [] if place in entered else [f for f in folders if not f.startswith(".")]
        entered.add(place)
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _distinct_names(paths: Sequence[Path]) -> list[Path]:
    """Paths without suffix; with it where others are called alike without or with theirs."""
    bare = [path.with_suffix("") for path in paths]
    counts = Counter([*bare, *(path for path in paths if path.suffix)])
    return [path if counts[name] > 1 else name for path, name in zip(paths, bare, strict=True)]
