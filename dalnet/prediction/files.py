# SPDX-License-Identifier: Apache-2.0
"""What a prediction reads and writes: pictures and films in, overlays, masks and CAMs out."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dalnet.data.images import write_mask
from dalnet.errors import UsageError
from dalnet.figures.overlay import draw_heat
from dalnet.files import complete_or_absent

from .video import VIDEO_SUFFIXES

_JPEG_SUFFIXES = (".jpg", ".jpeg")
# Also what needs a plug-in of Pillow, so that it is named as unreadable rather than passed over.
PICTURE_SUFFIXES = (
    *_JPEG_SUFFIXES,
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)


@dataclass(frozen=True)
class PredictionInput:
    """One picture or film.

    Attributes:
        source: its file, or the number of a camera.
        name: what its results are called, relative to the output folder and without suffix.
        is_video: whether it is a film or a camera.
    """

    source: Path | int
    name: Path
    is_video: bool = False


def find_inputs(texts: Sequence[str], output: Path, video: bool = False) -> list[PredictionInput]:
    """List the pictures and films that were asked for, each once.

    Folders are searched with everything below them for pictures, patterns (``*``, ``?``, ``[]``,
    ``**`` for any folders) for pictures and films, both without hidden files and without what
    lies in ``output``. A file that is named itself is taken whatever its suffix.

    Results are named by the path below the deepest folder that all inputs share, so that equal
    file names do not meet; files that differ only in their suffix keep it in the name.

    Args:
        texts: files, folders, patterns.
        output: where the results will be.
        video: every file is a film, whatever its suffix.

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
        PredictionInput(path, name, video or path.suffix.lower() in VIDEO_SUFFIXES)
        for path, name in zip(paths, names, strict=True)
    ]


class PredictionWriter:
    """Writes results beside each other into one folder; an input is never overwritten.

    ``<name>_overlay.jpg`` (of JPEG) or ``.png``, ``<name>_mask.png``, a palette PNG of class
    indices, ``<name>_cam_<class>.png``; of a film ``<name>_overlay.mp4``, ``<name>_mask/*.png``.
    """

    def __init__(self, output: Path, inputs: Sequence[PredictionInput]) -> None:
        """Take the folder and all inputs."""
        self.output = output
        self.inputs = inputs

    def check(self, cam_classes: Sequence[str]) -> None:
        """Refuse, before anything is written, what would overwrite an input.

        Args:
            cam_classes: the classes whose CAMs may be written.

        Raises:
            UsageError: a result would have the path of an input.
        """
        sources = {item.source.resolve() for item in self.inputs if isinstance(item.source, Path)}
        taken = sources | {path.parent for path in sources}
        for item in self.inputs:
            targets = [self.overlay_path(item), self.mask_path(item)]
            folder = targets[0].parent.resolve()
            if folder not in taken and not item.is_video:
                continue
            targets += [self.cam_path(item, name) for name in cam_classes]
            clash = next((path for path in targets if folder / path.name in taken), None)
            if clash is not None:
                raise UsageError(
                    f"{clash}, a result of {item.source}, is an input or the folder of one: choose "
                    "another output folder."
                )

    def overlay_path(self, item: PredictionInput) -> Path:
        """Where the overlay of a picture or film is written."""
        if item.is_video:
            return self._path(item, "overlay.mp4")
        is_jpeg = item.source.suffix.lower() in _JPEG_SUFFIXES
        return self._path(item, "overlay.jpg" if is_jpeg else "overlay.png")

    def mask_path(self, item: PredictionInput) -> Path:
        """Where the mask of a picture is written; of a film the folder of its masks."""
        return self._path(item, "mask" if item.is_video else "mask.png")

    def cam_path(self, item: PredictionInput, class_name: str) -> Path:
        """Where a picture's CAM is written; what may not be in a file's name becomes ``_``."""
        return self._path(item, "cam_" + re.sub(r"[^\w.-]+", "_", class_name) + ".png")

    def write_overlay(self, item: PredictionInput, overlay: np.ndarray) -> None:
        """Write an overlay, uint8 [H, W, 3].

        Raises:
            UsageError: it cannot be written.
        """
        path = self.overlay_path(item)
        _save(path, Image.fromarray(overlay), "PNG" if path.suffix == ".png" else "JPEG")

    def write_mask(self, item: PredictionInput, labels: np.ndarray, frame: int = 0) -> None:
        """Write a label map, uint8 [H, W]; of a film's frame with its number, from 0.

        Raises:
            UsageError: it cannot be written.
        """
        path = self.mask_path(item)
        write_mask(path / f"{frame:06d}.png" if item.is_video else path, labels)

    def write_cams(
        self, item: PredictionInput, photo: np.ndarray, cams: Mapping[str, np.ndarray]
    ) -> None:
        """Write CAMs, float [H, W] in 0..1 by class, over their photograph, uint8 [H, W, 3].

        Raises:
            UsageError: one cannot be written.
        """
        for name, cam in cams.items():
            _save(self.cam_path(item, name), Image.fromarray(draw_heat(photo, cam)), "PNG")

    def _path(self, item: PredictionInput, ending: str) -> Path:
        return self.output / item.name.parent / f"{item.name.name}_{ending}"


def _save(path: Path, picture: Image.Image, kind: str) -> None:
    with complete_or_absent(path) as unfinished:
        picture.save(unfinished, format=kind, quality=95)


def _expand(text: str, output: Path) -> tuple[Path, list[Path]]:
    """The folder that a text is about, and the files it stands for, sorted."""
    path = Path(text).expanduser()
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        root, found, suffixes = path, _walk(path), PICTURE_SUFFIXES
    elif any(sign in text for sign in "*?["):
        root, suffixes = _fixed_part(path), PICTURE_SUFFIXES + VIDEO_SUFFIXES
        found = (Path(match) for match in glob.glob(str(path), recursive=True))
    else:
        raise UsageError(f"{text} does not exist: give a file, a folder or a quoted pattern.")
    # Results of an earlier run, where the output folder lies among the inputs.
    spared = output.resolve()
    spares = spared != root.resolve() and spared.is_relative_to(root.resolve())
    kept = sorted(
        file
        for file in found
        if file.suffix.lower() in suffixes
        and file.is_file()
        and not (spares and file.resolve().is_relative_to(spared))
    )
    if not kept:
        raise UsageError(
            f"{text} holds no file to predict ({', '.join(suffixes)}; hidden ones and those in the "
            "output folder do not count): give another folder or pattern."
        )
    return root, kept


def _walk(folder: Path) -> Iterable[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _fixed_part(pattern: Path) -> Path:
    """The last folder of a pattern before its first special sign."""
    fixed = pattern
    while any(sign in str(fixed) for sign in "*?["):
        fixed = fixed.parent
    return fixed


def _distinct_names(paths: Sequence[Path]) -> list[Path]:
    """Paths without suffix; with it where they would be equal otherwise."""
    full: set[Path] = set()
    while True:
        names = [path if path in full else path.with_suffix("") for path in paths]
        counts = Counter(names)
        equal = {path for path, name in zip(paths, names, strict=True) if counts[name] > 1}
        if equal <= full:
            return names
        full |= equal
