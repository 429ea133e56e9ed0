# SPDX-License-Identifier: Apache-2.0
"""Hold the words that an open-vocabulary system looks for."""

from collections import Counter
from collections.abc import Sequence

from open_clip import SimpleTokenizer

from dalnet.errors import UsageError

_MOST_NAMES = 254  # label maps have one byte a pixel: 0 is the background, 255 is ignored


def check_vocabulary(names: Sequence[str], most_tokens: int) -> None:
    """Refuse names that a system cannot be asked for.

    Args:
        names: the classes without the background.
        most_tokens: for which there is room, start and end of text not counted.

    Raises:
        UsageError: there is none, or too many; or one is empty, occurs twice, is the background, or
            is too long. Upper and lower case and the number of spaces make no difference to CLIP.
    """
    where = "vocabulary"
    if not 1 <= len(names) <= _MOST_NAMES:
        raise UsageError(f"there are {len(names)} names", where, f"give 1 to {_MOST_NAMES}")
    if not all(name.strip() for name in names):
        raise UsageError("a name is empty", where, "take it out")
    read = [as_clip_reads(name) for name in names]
    (name, times), *_ = Counter(read).most_common(1)
    if times > 1:
        raise UsageError(f"{name!r} occurs {times} times", where, "name each class once")
    if "background" in read:
        raise UsageError("it names the background", where, "leave it out: it is class 0 by itself")
    tokenizer = SimpleTokenizer()
    for name in names:
        if (length := len(tokenizer.encode(name))) > most_tokens:
            raise UsageError(
                f"{name[:40]!r}... has {length} tokens, more than the {most_tokens} that CLIP's "
                "text tower has room for",
                where,
                "shorten it",
            )


def as_clip_reads(text: str) -> str:
    """Return a text in lower case with single spaces, as CLIP's tokenizer reads it."""
    return " ".join(text.lower().split())
