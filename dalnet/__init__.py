# SPDX-License-Identifier: Apache-2.0
"""DALNet: dual-alignment weakly supervised semantic segmentation, as a Detectron2 add-on."""

from importlib.util import find_spec

__version__ = "0.1.0"

# Not a declared dependency (see pyproject.toml), so pip cannot report its absence: this does.
if find_spec("detectron2") is None:
    raise ImportError(
        "dalnet needs Detectron2 0.5 or newer, which is not on PyPI under its own name: "
        "run 'make setup' or 'python tools/install_detectron2.py' in DALNet's repository."
    )
