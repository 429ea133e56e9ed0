# SPDX-License-Identifier: Apache-2.0
"""Masked autoencoding: a vision transformer for DALNet from images without labels."""
