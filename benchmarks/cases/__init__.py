# SPDX-License-Identifier: Apache-2.0
"""All cases, in the order of the table. A new one goes into the list of its file."""

from benchmarks.cases import layers, losses, network, train_step

CASES = (*layers.CASES, *losses.CASES, *network.CASES, *train_step.CASES)
