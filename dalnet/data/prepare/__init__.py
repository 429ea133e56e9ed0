# SPDX-License-Identifier: Apache-2.0
"""Prepare masks and labels once, before any training: what ``dalnet prepare`` calls."""
