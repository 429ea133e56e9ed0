# SPDX-License-Identifier: Apache-2.0
"""Find out which class each value in a user's masks means, and convert the masks to our values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dalnet.data.class_names import plain_name
from dalnet.data.datasets.catalog import letters_of
from dalnet.data.image_io import read_mask, write_mask
from dalnet.documents import read_json
from dalnet.errors import UsageError
from dalnet.io import read_lines

IGNORE = 255
_BACKGROUND = "background"


def read_mask_values(folder: Path, classes: Sequence[str]) -> dict[int, int] | None:
    """Read from a folder of masks what their values mean.

    The folder may have ``dataset_meta.json`` (``{"label_map": {"0": "background", "7": "cat"}}``,
    as ``dalnet label`` and Datumaro write it) or ``classes.txt`` (one class a line, the values
    from 1 on; where a line is ``background`` it stands for 0, and those after it for 1 on). Where
    it has neither, ``dataset_meta.json`` in the folder above counts, where these programs leave it.
    The background may be spelled in any way, as labelme's ``_background_``.

    Args:
        folder: of the masks.
        classes: the C classes of the labels 1..C.

    Returns:
        The label of each value; values of other classes have the ignore value. None if there is no
        such file: the values are the labels.

    Raises:
        UsageError: a file of another form, or without one of the classes.
    """
    meta, names = folder / "dataset_meta.json", folder / "classes.txt"
    if not (meta.is_file() or names.is_file()):
        meta = folder.absolute().parent / meta.name
    if meta.is_file():
        path, known = meta, _read_meta(meta)
    elif names.is_file():
        lines = [_plain(line) for line in read_lines(names, "write one class a line")]
        first = 1 if _BACKGROUND not in lines else -lines.index(_BACKGROUND)
        path, known = names, dict(enumerate(lines, start=first))
        if max(known) >= IGNORE:
            what = f"it lists {len(lines)} classes, more than a mask has values for"
            raise UsageError(what, names, f"list {IGNORE - 1} at most, in the order of the values")
    else:
        return None
    classes = [_plain(name) for name in classes]
    if missing := set(classes) - set(known.values()):
        raise UsageError(f"it has no value for {min(missing)}", path, "add the class")
    labels = {name: label for label, name in enumerate(classes, start=1)}
    labels[_BACKGROUND] = 0
    values = {value: labels.get(name, IGNORE) for value, name in known.items() if value >= 0}
    return {0: 0, IGNORE: IGNORE} | values


def _plain(name: str) -> str:
    """Return a class name in one Unicode form; "background" for any spelling of it."""
    is_background = letters_of(name) == _BACKGROUND
    return _BACKGROUND if is_background else plain_name(name)


def convert_masks(masks: Mapping[str, Path], values: Mapping[int, int], folder: Path) -> None:
    """Write masks with other values.

    Args:
        masks: by name, with suffix, below ``folder``.
        values: the new value of each value, as :func:`read_mask_values` returns it.
        folder: where the new masks go; PNGs in it that are none of them are removed.

    Raises:
        UsageError: a mask that cannot be read, or a value that the map does not have.
    """
    for name, path in masks.items():
        write_mask(folder / name, convert_mask(path, values))
    for path in {*folder.rglob("*.png")} - {folder / name for name in masks}:
        path.unlink(missing_ok=True)  # of an earlier run; another process may have removed it


def convert_mask(
    path: Path, values: Mapping[int, int], size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return a mask, uint8 ``[H, W]``, with its values replaced; see :func:`convert_masks`.

    Args:
        path, values: see there.
        size: H and W that it has to have; None for any.
    """
    table = np.full(256, -1)
    table[list(values)] = list(values.values())
    mask = read_mask(str(path), size)
    new = table[mask]
    if (new < 0).any():
        what = f"the mask contains the value {mask[new < 0][0]}, which means no class"
        raise UsageError(what, path, "correct the mask, or the list of classes beside it")
    return new.astype(np.uint8)


def _read_meta(path: Path) -> dict[int, str]:
    hint = 'write {"label_map": {"0": "background", "1": "cat"}}'
    try:
        content = read_json(path, hint)
        known = {int(value): _plain(str(name)) for value, name in content["label_map"].items()}
        if not known or not all(0 <= value <= IGNORE for value in known):
            raise ValueError("values from 0 to 255 are expected")
        return known
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"it does not say what values mean ({error})", path, hint) from error
