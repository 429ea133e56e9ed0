# SPDX-License-Identifier: Apache-2.0
"""Masked autoencoding: a vision transformer for DALNet from images without labels."""

import dalnet  # noqa: F401  before torch: it sets how OpenMP waits
