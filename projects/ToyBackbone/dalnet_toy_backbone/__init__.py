# SPDX-License-Identifier: Apache-2.0
"""Pre-training of the toy data set's encoder, in the role that ImageNet has in the paper."""

import dalnet  # noqa: F401  before torch: it sets how OpenMP waits
