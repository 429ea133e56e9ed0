# SPDX-License-Identifier: Apache-2.0
"""The data sets and their registration, which happens on import."""

from dalnet.data.datasets.coco import register_coco
from dalnet.data.datasets.own_folders import register_own_folders
from dalnet.data.datasets.toy_registration import register_toy
from dalnet.data.datasets.voc import register_voc
from dalnet.data.datasets.voc_layout import register_voc_layout

__all__ = ["register_voc_layout"]

register_voc()
register_coco()
register_toy()
register_own_folders()
