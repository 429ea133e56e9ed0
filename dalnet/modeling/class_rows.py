# SPDX-License-Identifier: Apache-2.0
"""Weights of a model of other classes: rows that belong to classes are matched by name."""

from collections.abc import Mapping, Sequence

from torch import Tensor


def match_class_rows(
    state: dict[str, Tensor],
    own: Mapping[str, Tensor],
    class_rows: Mapping[str, int],
    theirs: Sequence[str] | None,
    ours: Sequence[str],
) -> list[str]:
    """Give the rows of a checkpoint's classes to the same classes of another model, by name.

    As many classes are not the same classes: a row is never taken by its number.

    Args:
        state: of the checkpoint; changed in place. Its tensors with class rows become those of
            ``own``, with the checkpoint's rows where a class is known there; those whose other
            sizes differ, or all where the names are unknown, are taken out.
        own: state dict of the model that the checkpoint is loaded into.
        class_rows: the tensors that have a row for each class, by name, and the class of row 0: 0
            where the background has one, else 1.
        theirs: C' + 1 names of the checkpoint's classes, background first; None if unknown.
        ours: C + 1 names of the model's classes, background first.

    Returns:
        The names of the model's classes whose rows come from the checkpoint, the background's not
        among them.
    """
    taken = [] if theirs is None else [name for name in ours[1:] if name in theirs[1:]]
    for key in class_rows.keys() & state.keys():
        rows, first = state.pop(key), class_rows[key]
        if theirs is None or key not in own:
            continue
        if rows.shape != (len(theirs) - first, *own[key].shape[1:]):
            continue
        state[key] = own[key].detach().clone()
        if first == 0:
            state[key][0] = rows[0]
        for name in taken:
            state[key][ours.index(name) - first] = rows[theirs.index(name) - first]
    return taken
