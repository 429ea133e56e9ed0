# SPDX-License-Identifier: Apache-2.0
"""Turn a published checkpoint of ToCo into one that DALNet's commands read.

    python -m dalnet_toco.convert IN.pth OUT.pth --config projects/ToCo/configs/voc_toco_deit.yaml

The published files hold weights alone, which do not say what they were trained with: the config
does, and its data set names the classes. Both published encoders, DeiT-B and ViT-B, were trained
with ImageNet's pixel statistics: they fit ``voc_toco_deit``, and ``coco_toco`` with its statistics.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dalnet.checkpoint.convert import run_converter
from dalnet.errors import UsageError

# What the published network calls its parts, and what they are called here.
_PARTS = {
    "encoder": "backbone.vit",
    "classifier": "classifier.linear",
    "aux_classifier": "inter_classifier.linear",
    "decoder.conv6": "sem_seg_head.conv1",
    "decoder.conv7": "sem_seg_head.conv2",
    "decoder.conv8": "sem_seg_head.predictor",
    "proj_head.mlp": "class_contrast.student.mlp",
    "proj_head_t.mlp": "class_contrast.teacher.mlp",
}
_ROWS = {
    "proj_head.last_layer.weight_v": "class_contrast.student.rows",
    "proj_head_t.last_layer.weight_v": "class_contrast.teacher.rows",
}
# Classifiers of the pre-training, and the gains of the weight normalization, which are all 1.
_LEFT_OUT = ("encoder.head", "encoder.pre_logits", "encoder.fc_norm")
_GAINS = ("proj_head.last_layer.weight_g", "proj_head_t.last_layer.weight_g")


def convert_state(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of ToCo's published network by the names they have here.

    Args:
        state: of the published network, perhaps wrapped for data parallelism (``module.``).

    Raises:
        UsageError: a weight that ToCo's network does not have.
    """
    converted = {}
    for name, value in state.items():
        key = name.removeprefix("module.")
        part = next((p for p in _PARTS if key.startswith(f"{p}.")), None)
        if key in _ROWS:
            converted[_ROWS[key]] = value
        elif key in _GAINS or key.startswith(_LEFT_OUT):
            continue
        elif part is None:
            what = f"ToCo's published network has no weight {name!r}"
            raise UsageError(what, hint="name its file")
        else:
            converted[f"{_PARTS[part]}{key[len(part) :]}"] = value
    for head in ("classifier.linear.weight", "inter_classifier.linear.weight"):
        if head in converted:
            # A 1x1 convolution there, a linear layer here.
            converted[head] = converted[head].flatten(1)
    for conv in ("conv1", "conv2", "predictor"):
        weight = converted.get(f"sem_seg_head.{conv}.weight")
        if weight is not None:
            # The published convolutions have no bias.
            converted.setdefault(f"sem_seg_head.{conv}.bias", weight.new_zeros(len(weight)))
    return converted


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_converter("python -m dalnet_toco.convert", __doc__, convert_state, argv)


if __name__ == "__main__":
    main()
