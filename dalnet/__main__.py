# SPDX-License-Identifier: Apache-2.0
"""``python -m dalnet`` is the command ``dalnet``."""

from dalnet.cli import main

if __name__ == "__main__":
    main()
