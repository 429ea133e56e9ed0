# SPDX-License-Identifier: Apache-2.0
"""Define ``UsageError``, whose message is meant for the user, and end programs with it."""

import re
import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LINE_BREAKS = re.compile(r"\s*[\r\n]\s*")
_MAX_LETTERS = 1000  # of each part of a sentence


class UsageError(Exception):
    """Input, configuration or environment that the user has to correct.

    Attributes:
        what: what is wrong, a clause without a full stop.
        where: the file, config key, data set or parameter that is wrong; empty if there is none.
            A parameter bears the name that the function has for it: the command line writes
            ``workers`` as ``--workers``.
        hint: how to correct it, a clause without a full stop; may be empty.

    ``str()`` of it is one sentence, ``where: what; hint.``
    """

    def __init__(self, what: str, where: object = "", hint: str = "") -> None:
        """Keep the three parts; ``where`` may be a path."""
        super().__init__(what, str(where), hint)
        self.what, self.where, self.hint = what, str(where), hint

    def __str__(self) -> str:
        """Return the sentence."""
        return self.sentence(self.where)

    def sentence(self, where: str) -> str:
        """Return the sentence with another word for the place, as ``--workers`` for ``workers``."""
        what, hint, where = map(_on_one_line, (self.what, self.hint, where))
        text = "; ".join(filter(None, (what.removesuffix("."), hint.removesuffix("."))))
        return f"{where}: {text}." if where else f"{text}."


def printable(text: str) -> str:
    """Return a text with what no log can hold escaped.

    That is bytes of file names that are no UTF-8, and characters that control a terminal.
    """
    text = text.encode(errors="backslashreplace").decode()
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _on_one_line(text: str) -> str:
    """Return a text without line breaks, its middle left out where it is very long."""
    # Other space stays, because names of files may have two in a row.
    text = printable(_LINE_BREAKS.sub(" ", text.strip()))
    half = _MAX_LETTERS // 2
    return text if len(text) <= _MAX_LETTERS else f"{text[:half]} ... {text[-half:]}"


@contextmanager
def one_sentence_errors(parameters: Collection[str] = ()) -> Iterator[None]:
    """End the program with one sentence and status 1 at a :class:`UsageError`, with 130 at Ctrl-C.

    Args:
        parameters: the command's arguments; an error about one of them names its flag.
    """
    try:
        yield
    except UsageError as error:
        flag = f"--{error.where.replace('_', '-')}"
        sentence = error.sentence(flag if error.where in parameters else error.where)
        # A data-loading worker wraps the sentence in its own traceback.
        print(f"error: {sentence.rsplit('UsageError: ', 1)[-1].strip()}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
