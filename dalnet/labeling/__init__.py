# SPDX-License-Identifier: Apache-2.0
"""From tagged images to a training, and to label maps of these images."""
