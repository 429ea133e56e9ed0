# SPDX-License-Identifier: Apache-2.0
"""Plain transcriptions of the published algorithms: what the kernels are compared with."""
