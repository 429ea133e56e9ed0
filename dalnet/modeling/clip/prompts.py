# SPDX-License-Identifier: Apache-2.0
"""Names to prompts, and prompts to embeddings."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES, SimpleTokenizer
from torch import Tensor
from tqdm import tqdm

from dalnet.errors import UsageError

# The 80 sentences that CLIP's authors wrote for ImageNet, each with one "{}" for a name.
IMAGENET_TEMPLATES: tuple[str, ...] = tuple(make("{}") for make in OPENAI_IMAGENET_TEMPLATES)
_END = 49407  # CLIP's token for the end of a text
_BATCH = 16  # prompts encoded at a time, after which the progress bar moves


@torch.no_grad()
def embed_names(
    names: Sequence[str],
    templates: Sequence[str],
    tokenize: Callable[[list[str]], Tensor],
    encode_text: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the mean over the templates of each name's embedding, rows of length one.

    Args:
        names: K classes, background words or phrases.
        templates: sentences with one "{}" for the name; CLIP's tokenizer lowers them.
        tokenize: from sentences to token ids ``[N, L]``.
        encode_text: from token ids to embeddings ``[N, d]``, brought to length one before the mean.

    Returns:
        ``[K, d]``, float32.

    Raises:
        UsageError: a template without "{}", or with several; a sentence longer than what the text
            tower reads.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise UsageError(
                f"{template!r} needs one {{}} for the class name",
                where="MODEL.CLIP.TEMPLATE",
                hint="write it as in 'a photo of {}'",
            )
    prompts = [template.replace("{}", name) for template in templates for name in names]
    tokens = tokenize(prompts)
    _refuse_cut(prompts, tokens)
    batches = tqdm(tokens.split(_BATCH), desc="Embedding the prompts", leave=False)
    rows = F.normalize(torch.cat([encode_text(batch) for batch in batches]).float(), dim=1)
    if len(templates) == 1:
        return rows
    return F.normalize(rows.view(len(templates), len(names), -1).mean(dim=0), dim=1)


def _refuse_cut(prompts: Sequence[str], tokens: Tensor) -> None:
    """Refuse sentences of which a tokenizer has cut the end off.

    Args:
        prompts: the sentences.
        tokens: their ids ``[N, L]``; those that fill all places are looked at.
    """
    room = tokens.shape[1] - 2  # beside start and end
    tokenizer = SimpleTokenizer()
    for row in (tokens[:, -1] == _END).nonzero().flatten().tolist():
        if (length := len(tokenizer.encode(prompts[row]))) > room:
            raise UsageError(
                f"the sentence {prompts[row][:60]!r}... has {length} tokens, more than the {room} "
                "that CLIP's text tower reads",
                where="names",
                hint="shorten the class's name or word",
            )
