# SPDX-License-Identifier: Apache-2.0
"""What the tests share: one thread, since the tensors are small and sums then keep one order."""

import torch

torch.set_num_threads(1)
