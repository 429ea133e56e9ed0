# SPDX-License-Identifier: Apache-2.0
"""Define ``UsageError``, whose message is meant for the user, and end programs with it."""

import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager


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
        text = "; ".join(filter(None, (self.what.removesuffix("."), self.hint.removesuffix("."))))
        return printable(f"{where}: {text}." if where else f"{text}.")


def printable(text: str) -> str:
    """Return a text with bytes of file names that are no UTF-8, which no log can hold, escaped."""
    return text.encode(errors="backslashreplace").decode()


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
