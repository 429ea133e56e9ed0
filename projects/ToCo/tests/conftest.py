# SPDX-License-Identifier: Apache-2.0
"""The tiny config of the whole repository's tests, for ToCo."""

import pytest


@pytest.fixture
def tiny_cfg(tiny_cfg):
    """ToCo on the CPU, for the toy classes, in a network of two narrow blocks."""
    tiny_cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "ToCo", "INPUT.DATASET_MAPPER_NAME", "ToCoMapper"),
            *("MODEL.DALNET.GIA", False, "MODEL.DALNET.LEA", False, "MODEL.TOCO.HIDDEN_DIM", 16),
            *("MODEL.TOCO.BOTTLENECK_DIM", 8, "MODEL.TOCO.OUT_DIM", 12),
        ]
    )
    return tiny_cfg
