#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Segment your own images and videos: the command ``dalnet predict``."""

import sys

from dalnet.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
