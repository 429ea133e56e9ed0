# SPDX-License-Identifier: Apache-2.0
"""What the numerical kernels gain over plain transcriptions of the published algorithms."""
