# SPDX-License-Identifier: Apache-2.0
"""Which classes images show, read from the files that people keep such tags in."""

from .files import read_folder_tags, read_tags
from .match import match_names
from .table import TagTable

__all__ = ["TagTable", "match_names", "read_folder_tags", "read_tags"]
