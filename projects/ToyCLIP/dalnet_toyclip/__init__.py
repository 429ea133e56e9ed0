# SPDX-License-Identifier: Apache-2.0
"""A small CLIP that knows the words of the toy data set's world."""

import dalnet  # noqa: F401  before torch: it sets how OpenMP waits
