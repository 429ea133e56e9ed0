# SPDX-License-Identifier: Apache-2.0
"""Turn a published checkpoint of CLIMS, or of its stage 0, into one that the commands read.

    python -m clims.convert res50_cam.pth output/voc_clims_stage0.pth \\
        --config projects/CLIMS/configs/voc_clims_stage0.yaml
    python -m clims.convert res50_clims.pth output/voc_clims.pth

Without --config it is that of CLIMS for the data set with as many classes, VOC or COCO. The files
list every weight up to three times; only those under resnet50 and the classifier's are read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dalnet.checkpoint.convert import run_converter
from dalnet.errors import UsageError

_TRUNK, _CLASSIFIER = "resnet50.", "classifier.weight"
_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_RECIPES = {20: "voc_clims.yaml", 80: "coco_clims.yaml"}  # by number of classes


def convert_state(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the published network by the names that they have here.

    Args:
        state: of the published network, perhaps wrapped for data parallelism (``module.``).

    Raises:
        UsageError: it is not of this network.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    trunk = {
        f"backbone.cnn.{key.removeprefix(_TRUNK)}": value
        for key, value in state.items()
        if key.startswith(_TRUNK)
    }
    if not trunk or not hasattr(state.get(_CLASSIFIER), "flatten"):
        raise UsageError(
            f"there are no weights under {_TRUNK!r}, or no {_CLASSIFIER!r}",
            where="source",
            hint="name a checkpoint of CLIMS or of its stage 0",
        )
    # A 1x1 convolution there, a linear layer here.
    return {**trunk, "classifier.linear.weight": state[_CLASSIFIER].flatten(1)}


def choose_config(state: dict[str, Any]) -> str:
    """Return the recipe of CLIMS for the data set that has the checkpoint's number of classes.

    Raises:
        UsageError: there is none.
    """
    count = len(convert_state(state)["classifier.linear.weight"])
    if count not in _RECIPES:
        raise UsageError(
            f"there is no recipe for {count} classes", where="config", hint="name one by --config"
        )
    return str(_CONFIGS / _RECIPES[count])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_converter("python -m clims.convert", __doc__, convert_state, argv, choose_config)


if __name__ == "__main__":
    main()
