# SPDX-License-Identifier: Apache-2.0
"""Draws a model's results: the paper's Figures 3 to 6, and contact sheets."""
