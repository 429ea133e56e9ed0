# SPDX-License-Identifier: Apache-2.0
"""Predicting on a user's own images."""
