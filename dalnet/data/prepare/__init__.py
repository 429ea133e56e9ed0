# SPDX-License-Identifier: Apache-2.0
"""One-time preparation of masks and labels; the commands are in ``tools/``."""
