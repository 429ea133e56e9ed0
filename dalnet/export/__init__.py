# SPDX-License-Identifier: Apache-2.0
"""Predictions and models in the forms that others take."""
