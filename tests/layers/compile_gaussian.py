# SPDX-License-Identifier: Apache-2.0
"""``compile_gaussian.py CAPABILITY``: compile the Triton kernel for a GPU that need not be here.

Prints registers per thread, bytes of stack per thread (registers spilled), bytes of shared memory.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from dalnet.layers import gaussian_triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _compile(capability: int, channels: int) -> CompiledKernel:
    kernel = gaussian_triton.gaussian_sum_kernel
    constants = {
        "ROWS": gaussian_triton._ROWS,
        "COLUMNS": gaussian_triton._COLUMNS,
        "CHANNELS": channels,
        "point_stride": 1,  # as Triton itself specializes a stride of 1
    }
    types = dict.fromkeys(kernel.arg_names, "i32")
    types.update(dict.fromkeys(["features", "values", "sums"], "*fp32"))
    types.update(dict.fromkeys(constants, "constexpr"))
    return triton.compile(
        ASTSource(kernel, types, constants), target=GPUTarget("cuda", capability, 32)
    )


if __name__ == "__main__":
    compiled = _compile(int(sys.argv[1]), gaussian_triton._MAX_CHANNELS)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(_TOOLS / "cuobjdump"), "-res-usage", file.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    print(registers, stack, compiled.metadata.shared)
