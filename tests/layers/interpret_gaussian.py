# SPDX-License-Identifier: Apache-2.0
"""``interpret_gaussian.py INPUTS SUMS``: run the Triton kernel on the CPU.

Needs TRITON_INTERPRET=1 in the environment. INPUTS holds a list of (features, values).
"""

import sys

import torch
import triton.language as tl

from dalnet.layers import gaussian_triton


class _Interpreted:
    """The kernel, its sizes as constants: Triton 3.6 cannot loop up to any other under NumPy 2.4.

    (It takes a scalar for an array of one element, from which NumPy no longer makes a number.)
    """

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*args, **constants):
            args = (tl.constexpr(arg) if isinstance(arg, int) else arg for arg in args)
            self.kernel[grid](*args, **constants)

        return launch


if __name__ == "__main__":
    gaussian_triton.gaussian_sum_kernel = _Interpreted(gaussian_triton.gaussian_sum_kernel)
    cases = torch.load(sys.argv[1])
    torch.save([gaussian_triton.gaussian_sum(*case) for case in cases], sys.argv[2])
