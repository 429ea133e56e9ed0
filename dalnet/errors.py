# SPDX-License-Identifier: Apache-2.0
"""The one exception that speaks to the user."""


class UsageError(Exception):
    """Input, configuration or environment that the user has to mend.

    The message is one sentence: what is wrong, with which file or key, and how to mend it.
    Entry points print it without a traceback and exit with status 1.
    """
