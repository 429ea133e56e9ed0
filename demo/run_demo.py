#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate on generated images: the command ``dalnet demo``."""

import sys

from dalnet.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
