# SPDX-License-Identifier: Apache-2.0
"""Every figure that needs a GPU, by one command: see benchmarks/gpu/__main__.py."""
