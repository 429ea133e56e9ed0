# SPDX-License-Identifier: Apache-2.0
"""CLIP's image and text tower, frozen, as OpenCLIP or OpenAI's own package builds them."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import open_clip
import torch
from open_clip import CLIP
from open_clip.model import build_model_from_openai_state_dict
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from dalnet.errors import UsageError
from dalnet.modeling.cpu import attention_kernel
from dalnet.modeling.weight_files import refused_with

from .weights import KEY, find_weights, read_checkpoint

logger = logging.getLogger(__name__)

Tokenizer = Callable[[list[str]], Tensor]

_WORDS = 49408  # of CLIP's tokenizer
_HEAD_WIDTH = 64  # of an attention head in OpenAI's towers; a state dict does not say
# What OpenCLIP's config says of a tower of OpenAI's design: sizes, which a state dict tells too.
_TEXT_SIZES = {"context_length", "vocab_size", "width", "heads", "layers"}
_IMAGE_SIZES = {"image_size", "patch_size", "width", "layers"}
# Beside the towers; the first three are numbers that only OpenAI's archives store.
_NOT_TOWERS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "logit_bias")


class FrozenCLIP(nn.Module):
    """Both towers: gradients reach what goes in, never the weights; always in eval mode.

    Checkpoints of a system that holds one do not contain it: it is read from its own file again.

    Attributes:
        model: ``open_clip.CLIP`` or OpenAI's ``CLIP``. Of the text tower both name the parts
            ``token_embedding``, ``positional_embedding``, ``transformer.resblocks``, ``ln_final``
            and ``text_projection``.
        tokenize: from sentences to token ids ``[N, L]``; longer ones are cut at the tower's length.
    """

    model: CLIP

    def __init__(self, model: CLIP, tokenizer: Tokenizer, text_only: bool) -> None:
        """Freeze ``model``, whose image tower is not a trained one if ``text_only``."""
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenize = tokenizer
        self._text_only = text_only

    @property
    def visual(self) -> VisionTransformer:
        """The image tower as its package builds it.

        Both name a ViT's parts ``conv1``, ``class_embedding``, ``positional_embedding``,
        ``ln_pre``, ``transformer.resblocks``, ``ln_post`` and ``proj``. OpenCLIP's blocks take
        tokens ``[N, L, D]``, and its ``forward_intermediates(images)`` returns patch tokens;
        OpenAI's blocks take ``[L, N, D]``.

        Raises:
            UsageError: the checkpoint held the text tower alone.
        """
        if self._text_only:
            raise UsageError("it has CLIP's text tower alone", KEY, "name a file with both towers")
        return self.model.visual

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the image tower takes.

        Raises:
            UsageError: see :attr:`visual`.
        """
        name = "image_size" if hasattr(self.visual, "image_size") else "input_resolution"
        size = cast(int | tuple[int, int], getattr(self.visual, name))
        return size if isinstance(size, int) else size[0]

    def train(self, mode: bool = True) -> "FrozenCLIP":
        """Stay in eval mode."""
        return super().train(False)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return nothing: a checkpoint need not repeat weights that lie in a file of their own."""
        return kwargs.get("destination", {})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # What is not saved is not missed either: the weights stay as they are.
        own = nn.Module.state_dict(self)
        state_dict.update({f"{prefix}{name}": value for name, value in own.items()})

    def encode_image(self, images: Tensor) -> Tensor:
        """Embed normalized ``images [N, 3, H, W]`` of the tower's size: ``[N, d]``, of any length.

        :func:`dalnet.modeling.clip.passes.embed_images` takes images of other sizes.
        """
        positions = getattr(
            self.visual, "positional_embedding", ()
        )  # a row a token; not in ResNets
        with attention_kernel(len(positions), images.device):
            return self.visual(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed token ids ``[N, L]``: ``[N, d]``, of any length."""
        return self.model.encode_text(tokens.to(self.model.positional_embedding.device))


def load_clip(name: str, weights: str, provider: str = "open_clip") -> FrozenCLIP:
    """Return the CLIP of a checkpoint: float32, on the CPU.

    Sizes come from the file where the design is OpenAI's (ViT or ResNet), else from OpenCLIP's
    config of ``name``. The activation is in no file: QuickGELU for OpenAI's download, for OpenAI's
    archive (told by the numbers it stores) and where OpenCLIP's config of ``name`` says so
    ("ViT-B-16-quickgelu"), else GELU.

    Args:
        name: CLIP model, "ViT-B-16" (OpenCLIP's spelling) or "ViT-B/16" (OpenAI's).
        weights: "openai" (downloaded once), or a file in OpenAI's or OpenCLIP's layout, with or
            without ``text.`` before the text tower's keys and with or without the image tower.
        provider: "open_clip", or "clip", OpenAI's own package; the embeddings are the same.

    Raises:
        UsageError: a provider that is not installed; weights that are missing, unreadable or of
            another design.
        KeyError: an unknown provider.
    """
    build = {"open_clip": _build_open_clip, "clip": _build_openai_clip}[provider]
    config = open_clip.get_model_config(name.replace("/", "-")) or {}
    special = sorted(set(config.get("text_cfg", {})) - _TEXT_SIZES)
    if special:
        raise UsageError(
            f"the text tower of {name!r} is not CLIP's own ({', '.join(special)})",
            where="MODEL.CLIP.NAME",
            hint="choose one of OpenAI's or LAION's CLIP models",
        )
    path = find_weights(name, weights)
    state = read_checkpoint(path)
    quick_gelu = weights == "openai" or config.get("quick_gelu", False) or _NOT_TOWERS[0] in state
    logger.info("CLIP from %s, with %s.", path, "QuickGELU" if quick_gelu else "GELU")
    with refused_with("it does not hold CLIP's towers", path):
        state, text_only = _openai_layout(state)
        model, tokenizer = build(state, {} if text_only else config, quick_gelu)
        # Both packages' builders round to half precision: once more, as the file has it.
        model.float().load_state_dict(state)
    # OpenAI trained in half precision, and converted copies still hold just such numbers.
    if not quick_gelu and torch.equal(model.text_projection, model.text_projection.half().float()):
        logger.warning(
            "%s holds half-precision numbers, as OpenAI's weights do; if they are OpenAI's, "
            "MODEL.CLIP.NAME must end in -quickgelu for the right activation.",
            path,
        )
    return FrozenCLIP(model, tokenizer, text_only)


def _openai_layout(state: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """Return the towers under OpenAI's keys, and whether the image tower is an empty one."""
    # A larger model has a prefix, OpenCLIP's custom towers "text." before the text tower's names.
    marker = "token_embedding.weight"
    found = min((key for key in state if key.endswith(marker)), key=len, default=marker)
    prefix = found.removesuffix(marker).removesuffix("text.")
    state = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    state = {key.removeprefix("text."): value for key, value in state.items()}
    state = {k: v for k, v in state.items() if isinstance(v, Tensor) and k not in _NOT_TOWERS}
    state["logit_scale"] = state.get("logit_scale", torch.zeros(())).reshape(())
    text_only = not any(key.startswith("visual.") for key in state)
    if text_only:  # both packages want two towers: this one has no blocks, for images of one pixel
        width = state["text_projection"].shape[1]
        tower = VisionTransformer(1, 1, _HEAD_WIDTH, 0, 1, 1, output_dim=width)
        state |= {f"visual.{key}": value for key, value in tower.state_dict().items()}
    # What the builders would take without a word.
    words = len(state["token_embedding.weight"])
    if words != _WORDS:
        raise ValueError(f"token_embedding.weight has {words} words instead of {_WORDS}")
    for key in ("ln_final.weight", "visual.ln_post.weight"):  # the latter in a ViT
        if key in state and len(state[key]) % _HEAD_WIDTH:
            raise ValueError(f"{key} has width {len(state[key])}, no multiple of {_HEAD_WIDTH}")
    return state, text_only


def _build_open_clip(
    state: dict[str, Tensor], config: dict[str, Any], quick_gelu: bool
) -> tuple[CLIP, Tokenizer]:
    if set(config.get("vision_cfg", {})) <= _IMAGE_SIZES:
        model = build_model_from_openai_state_dict(dict(state), quick_gelu, torch.float32)
    else:  # ConvNeXt, or heads of another width: not to be told from the state
        config = {key: value for key, value in config.items() if key != "custom_text"}
        model = open_clip.CLIP(**{**config, "quick_gelu": quick_gelu})
    return model, open_clip.SimpleTokenizer(context_length=model.context_length)


def _build_openai_clip(
    state: dict[str, Tensor], config: dict[str, Any], quick_gelu: bool
) -> tuple[CLIP, Tokenizer]:
    try:
        from clip import tokenize
        from clip.model import build_model
    except ImportError as error:
        raise UsageError(
            f"it is 'clip', but OpenAI's package cannot be imported ({error})",
            where="MODEL.CLIP.PROVIDER",
            hint="pip install clip-anytorch 'setuptools<81', or choose 'open_clip'",
        ) from error
    if not quick_gelu or not set(config.get("vision_cfg", {})) <= _IMAGE_SIZES:
        raise UsageError(
            "it is 'clip', which has OpenAI's models alone, with QuickGELU",
            where="MODEL.CLIP.PROVIDER",
            hint="choose 'open_clip', or, if the weights are OpenAI's, a MODEL.CLIP.NAME that ends "
            "in -quickgelu",
        )
    model = build_model(dict(state))
    return model, partial(tokenize, context_length=model.context_length, truncate=True)
