#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train or evaluate a model: ``train_net.py --config-file configs/voc_dalnet.yaml``."""

from dalnet.engine.train import launch_training

if __name__ == "__main__":
    launch_training()
