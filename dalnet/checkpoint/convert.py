# SPDX-License-Identifier: Apache-2.0
"""Turn a system's published checkpoint into one that the commands read: what converters share.

The published files hold weights alone, which do not say what they were trained with: the config
does, and its data set names the classes.
"""

import argparse
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from detectron2.modeling import build_model
from torch import Tensor, serialization

import dalnet.data  # noqa: F401  registers the data sets
from dalnet.config import load_config
from dalnet.errors import UsageError, one_sentence_errors
from dalnet.modeling.weight_files import local_file, read_state, refused_with

from .checkpointer import Checkpointer
from .info import CheckpointInfo
from .models import expect_checkpoint

State = dict[str, Any]
# From the weights of the published network to the same by the names that they have here.
Rename = Callable[[State], dict[str, Tensor]]


def convert_checkpoint(
    source: str, target: Path, config: str, rename: Rename, opts: Sequence[str] = ()
) -> None:
    """Read a published checkpoint and write one that holds its classes and config too.

    Args:
        source: the published file, read without unpickling.
        target: ends in ``.pth``.
        config: the recipe that it was trained by.
        rename: gives the weights the names that they have here.
        opts: ``KEY, VALUE, ...`` that change the config.

    Raises:
        UsageError: a file that cannot be read, or that does not fit the config.
    """
    if target.suffix != ".pth":
        raise UsageError(f"{target} is no checkpoint's name", "target", "let it end in .pth")
    published, hint = read_published(source), "name a published checkpoint of this system"
    with refused_with("its weights are of another form", source, hint):
        state = rename(published)
    cfg = load_config(config, opts)
    cfg.MODEL.DEVICE = "cpu"
    info = CheckpointInfo.of_training(cfg)
    expect_checkpoint(cfg)
    model = build_model(cfg)
    own = model.state_dict()
    wrong = [key for key in {*own, *state} if key not in own or key not in state]
    wrong += [key for key in own if key in state and own[key].shape != state[key].shape]
    if wrong:
        raise UsageError(
            f"{len(wrong)} weight(s) do not fit {config}, as {min(wrong)}",
            where=source,
            hint="name the config of its data set and encoder",
        )
    model.load_state_dict(state)
    Checkpointer(model, str(target.parent), info=info).save(target.stem)


def read_published(source: str) -> State:
    """Return the weights in a published file, which may hold the rest of its training too.

    Raises:
        UsageError: the file is missing or cannot be read safely.
    """
    path = local_file(source, "source", (".pth", ".pt"))
    with _other_objects_ignored(path):
        return read_state(path, "source")


class _Ignored:
    """A stub for an object beside the weights, such as a config; nothing of it is run."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


@contextmanager
def _other_objects_ignored(path: Path) -> Iterator[None]:
    """Let PyTorch's safe reader replace objects that are no tensors by stubs."""
    names: list[str] = []
    # Since PyTorch 2.6; before, and of a file in PyTorch's oldest form, such objects are refused.
    if hasattr(serialization, "get_unsafe_globals_in_checkpoint") and zipfile.is_zipfile(path):
        with suppress(Exception):  # a damaged file, of which the reader says more
            names = serialization.get_unsafe_globals_in_checkpoint(path)
    if not names:
        yield
        return
    with serialization.safe_globals([(_Ignored, name) for name in names]):
        yield


def run_converter(
    prog: str,
    description: str | None,
    rename: Rename,
    argv: Sequence[str] | None = None,
    choose_config: Callable[[State], str] | None = None,
) -> None:
    """Run ``python -m <package>.convert IN OUT``.

    Args:
        prog, description: of the command.
        rename: see :func:`convert_checkpoint`.
        argv: the command line; that of the program where not given.
        choose_config: names a recipe for the published weights; where not given, the command asks
            for one.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", metavar="IN", help="the published .pth")
    add("target", metavar="OUT", type=Path, help="the .pth to write")
    asked = "the recipe that it was trained by"
    add("--config", required=choose_config is None, metavar="NAME|FILE", help=asked)
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
    args = parser.parse_intermixed_args(argv)
    with one_sentence_errors():
        config = args.config
        if choose_config is not None and not config:
            config = choose_config(read_published(args.source))
        convert_checkpoint(args.source, args.target, config, rename, args.opts)
        print(f"Written: {args.target}, with the config {config}")
