# SPDX-License-Identifier: Apache-2.0
"""CLIMS (Xie et al., CVPR 2022): CAMs that frozen CLIP has looked at, on the base of DALNet."""
