# SPDX-License-Identifier: Apache-2.0
"""Turn the published checkpoint of CoDe into one that the commands read.

    python -m codeseg.convert IN.pth OUT.pth --config projects/CoDe/configs/code.yaml

The published file repeats CLIP three times, frozen; these copies are left out, and the CLIP of the
config is used (OpenAI's ViT-B/16).
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dalnet.checkpoint.convert import run_converter

_LAYER = r"masker\.image_encoder\.decoder\.decoder\.net\.(\d+)\.conv\."
# What the published network calls its trained parts, and what they are called here.
_NAMES = (
    (r"learnable_image_bg", "highlights.image"),
    (r"bg_text", "highlights.words"),
    (r"text_mask_([wb])", r"word_affine.\1"),
    (r"clip_text_encoder\.prompt_learner\.ctx", "noun_prompt.context"),
    (r"masker\.image_encoder\.backbone\.transformer\.resblocks\.\d+\.(.+)", r"backbone.block.\1"),
    (_LAYER + r"gate\.gate", r"decoder.layers.\1.gate"),
    (_LAYER + r"(.+)", r"decoder.layers.\1.\2"),
    (r"masker\.image_encoder\.decoder\.image_proj\.proj", "decoder.proj"),
    (r"masker\.image_encoder\.decoder\.image_proj\.ln\.(.+)", r"decoder.norm.\1"),
    (r"masker\.sim2mask\.([wb])", r"region_affine.\1"),
    (r"text_decoder\.transformer\.resblocks\.(\d+)\.(.+)", r"word_decoder.blocks.\1.\2"),
    (r"tcli_loss\.logit_scale", "criterion.log_scales.hli"),
    (r"tclf_loss\.logit_scale", "criterion.log_scales.hlf"),
    (r"hcl_loss\.logit_scale", "criterion.log_scales.hcl"),
)
_SCALARS = ("_affine.", ".gate", "log_scales.")


def convert_state(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the trained weights of the published network by the names they have here.

    Args:
        state: of the published network; what is not trained is left out.
    """
    # The file does not say which CLIP it was trained with.
    converted: dict[str, Tensor] = {"clip_mark": torch.zeros(8, dtype=torch.uint8)}
    for name, value in state.items():
        key = next((re.sub(p, new, name) for p, new in _NAMES if re.fullmatch(p, name)), None)
        if key is None:
            continue
        if key == "highlights.words":
            value = value.squeeze(1)
        converted[key] = value.reshape(()) if any(part in key for part in _SCALARS) else value
    return converted


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_converter("python -m codeseg.convert", __doc__, convert_state, argv)


if __name__ == "__main__":
    main()
