# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of the kernels, the training step and inference, beside the published ways."""
