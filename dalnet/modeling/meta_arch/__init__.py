# SPDX-License-Identifier: Apache-2.0
"""The meta-architectures."""

from .dalnet import DALNet

__all__ = ["DALNet"]
