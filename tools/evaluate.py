#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""The same as ``dalnet evaluate``."""

import sys

from dalnet.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
