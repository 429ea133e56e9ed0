# SPDX-License-Identifier: Apache-2.0
"""What tests of preparation share: the command, run in this process."""

import pytest

from dalnet.cli import main


@pytest.fixture
def last_words(capsys):
    """Run ``dalnet prepare`` where it has to fail; returns exit status and last line on stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as error:
            main(["prepare", *map(str, arguments)])
        return error.value.code, capsys.readouterr().err.splitlines()[-1]

    return run
