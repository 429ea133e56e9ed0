# SPDX-License-Identifier: Apache-2.0
"""A run as one HTML page: what was run, its results, its curves and a gallery of images."""
