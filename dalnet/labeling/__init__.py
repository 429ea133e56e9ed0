# SPDX-License-Identifier: Apache-2.0
"""Check tagged images, set up a training on them, and write their label maps."""
