# SPDX-License-Identifier: Apache-2.0
"""Pictures of a model's results: the paper's Figures 3 to 6, contact sheets, training images."""
