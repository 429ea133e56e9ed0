# SPDX-License-Identifier: Apache-2.0
"""Preparation of masks and labels that is done once: what ``dalnet prepare`` calls."""
