# SPDX-License-Identifier: Apache-2.0
"""Files of a ToyCLIP: the small one that is kept, and OpenAI's layout that others read.

CLIP's token table has 49,408 rows, of which captions of the toy world use two hundred. The small
file holds these, and one row for all others; float16, 4 MB.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dalnet.data.datasets.toy import SIZE
from dalnet.errors import UsageError
from dalnet.io import atomic_write

from .handler import WEIGHTS
from .toy_clip import ToyCLIP
from .vocabulary import CONTEXT, NUM_WORDS, OTHER_WORD, known_ids

_TABLE = "token_embedding.weight"
_IDS = "token_ids"


def save_small(model: ToyCLIP, path: Path) -> None:
    """Write the towers in half precision, with OpenAI's names.

    ``token_embedding.weight`` has one row for all other tokens and then one for each of
    ``token_ids``.

    Raises:
        UsageError: the file cannot be written.
    """
    state = {key: value.half().contiguous() for key, value in model.towers.state_dict().items()}
    state[_IDS] = known_ids().int()
    with atomic_write(path) as unfinished:
        save_file(state, unfinished)


def read_small(path: Path) -> dict[str, Tensor]:
    """Return what :func:`save_small` wrote.

    Raises:
        UsageError: the file cannot be read, or is none of these.
    """
    hint = "name a file that python -m dalnet_toyclip train has written"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"cannot be read as safetensors ({error})", path, hint) from error
    if _IDS not in state or len(state.get(_TABLE, ())) != 1 + len(state[_IDS]):
        raise UsageError("is not the small file of a ToyCLIP", path, hint)
    return state


def load_small(path: Path = WEIGHTS) -> ToyCLIP:
    """Return the network of a file of :func:`save_small`, in eval mode.

    Raises:
        UsageError: the file cannot be read, or is of other words or sizes.
    """
    state, model = read_small(path), ToyCLIP()
    if not torch.equal(state.pop(_IDS).long(), known_ids()):
        raise UsageError("knows other words than this version's captions have", path, "train anew")
    try:
        model.towers.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"has towers of other sizes ({error})", path, "train anew") from error
    return model.eval()


def openai_state(small: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return OpenAI's state dict for what :func:`read_small` returns: with the whole token table.

    Like OpenAI's archives it names the image's side, the length of texts and the number of words;
    readers tell from these that the activation is QuickGELU.
    """
    state = dict(small)
    ids, rows = state.pop(_IDS).long(), state[_TABLE]
    table = rows[OTHER_WORD].repeat(NUM_WORDS, 1)
    table[ids] = rows[1:]
    sizes = {"input_resolution": SIZE, "context_length": CONTEXT, "vocab_size": NUM_WORDS}
    return state | {_TABLE: table} | {key: torch.tensor(size) for key, size in sizes.items()}


def export(path: Path, output: Path) -> None:
    """Write the small file ``path`` in OpenAI's layout, 17 MB.

    Raises:
        UsageError: a file cannot be read or written.
    """
    state = openai_state(read_small(path))
    with atomic_write(output) as unfinished:
        save_file(state, unfinished)


def save_texts(embeddings: Tensor, names: list[str], path: Path) -> None:
    """Write text embeddings ``[K, d]`` as ``MODEL.CLIP.WEIGHTS`` reads them."""
    with atomic_write(path) as unfinished:
        save_file({"embeddings": embeddings}, unfinished, {"names": json.dumps(names)})
