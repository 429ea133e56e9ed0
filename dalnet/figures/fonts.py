# SPDX-License-Identifier: Apache-2.0
"""Finds a font that has the letters of class names, whatever their script."""

import functools
import logging
from contextlib import suppress
from pathlib import Path

import matplotlib
from matplotlib.font_manager import fontManager, get_font

# It comes with matplotlib.
DEFAULT_FONT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))

logger = logging.getLogger(__name__)


@functools.lru_cache
def find_font(text: str) -> str:
    """Return the file of a font that has all letters of a text, the default one if it can be.

    Where no installed font has them all, that is logged once for each text, and letters that the
    default one lacks are drawn as boxes.
    """
    letters = {ord(letter) for letter in text if letter.isprintable()}
    # Regular weight first. The font of last resort has a box for every letter.
    fonts = sorted(fontManager.ttflist, key=lambda font: (font.weight != 400, font.fname))
    files = [font.fname for font in fonts if "Last Resort" not in font.name]
    for file in (DEFAULT_FONT, *files):
        # A font may have been removed since it was listed.
        with suppress(OSError, RuntimeError):
            if letters <= get_font(file).get_charmap().keys():
                return file
    message = "no installed font has all letters of %r: some are drawn as boxes; install one"
    logger.warning(message, text)
    return DEFAULT_FONT
