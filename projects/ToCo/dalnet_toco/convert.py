# SPDX-License-Identifier: Apache-2.0
"""Turn a published checkpoint of ToCo into one that DALNet's commands read.

    python -m dalnet_toco.convert IN.pth OUT.pth --config projects/ToCo/configs/voc_toco_deit.yaml

The published files hold weights alone, which do not say what they were trained with: the config
does, and its data set names the classes. Both published encoders, DeiT-B and ViT-B, were trained
with ImageNet's pixel statistics: they fit ``voc_toco_deit``, and ``coco_toco`` with its statistics.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.modeling import build_model
from torch import Tensor

import dalnet.data  # noqa: F401  registers the data sets
from dalnet.checkpoint import Checkpointer, CheckpointInfo, expect_checkpoint
from dalnet.config import load_config
from dalnet.errors import UsageError, one_sentence_errors
from dalnet.modeling.weight_files import local_file, read_state

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
            raise UsageError(f"ToCo's published network has no weight {name!r}; name its file.")
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
            converted[f"sem_seg_head.{conv}.bias"] = weight.new_zeros(len(weight))
    return converted


def convert(source: str, target: Path, config: str, opts: Sequence[str] = ()) -> None:
    """Read a published checkpoint and write one that holds its classes and config too.

    Args:
        source: the published file, read without unpickling.
        target: ends in ``.pth``.
        config: the recipe that it was trained by.
        opts: ``KEY, VALUE, ...`` that change it.

    Raises:
        UsageError: a file that cannot be read, or that does not fit the config.
    """
    if target.suffix != ".pth":
        raise UsageError(f"{target} is not the name of a checkpoint; let it end in .pth.")
    state = convert_state(read_state(local_file(source, "IN", (".pth", ".pt")), "IN"))
    cfg = load_config(config, opts)
    cfg.MODEL.DEVICE = "cpu"
    info = CheckpointInfo.of_training(cfg)
    expect_checkpoint(cfg)
    model = build_model(cfg)
    own = model.state_dict()
    wrong = [key for key in {*own, *state} if key not in own or key not in state]
    wrong += [key for key in own if key in state and own[key].shape != state[key].shape]
    if wrong:
        raise UsageError(
            f"{source} does not fit {config}: {len(wrong)} weight(s) differ, as {min(wrong)}; name "
            "the config of its data set and encoder."
        )
    model.load_state_dict(state)
    Checkpointer(model, str(target.parent), info=info).save(target.stem)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m dalnet_toco.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help="the published .pth")
    parser.add_argument("target", metavar="OUT", type=Path, help="the .pth to write")
    parser.add_argument("--config", required=True, help="the recipe that it was trained by")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")
    args = parser.parse_intermixed_args(argv)
    with one_sentence_errors():
        convert(args.source, args.target, args.config, args.opts)
        print(f"Written: {args.target}")


if __name__ == "__main__":
    main()
