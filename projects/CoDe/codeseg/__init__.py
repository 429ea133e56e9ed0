# SPDX-License-Identifier: Apache-2.0
"""CoDe (Wu et al., CVPR 2024): segmentation learned from captions.

Importing this package registers the meta-architecture and the config keys.
"""
