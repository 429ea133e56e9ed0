# SPDX-License-Identifier: Apache-2.0
"""Write predictions and models in the formats that other programs read."""
