# SPDX-License-Identifier: Apache-2.0
"""The rows of the token table: CLIP's own token ids that captions use, and one row for the rest."""

from collections.abc import Sequence
from functools import cache

import torch
from open_clip import SimpleTokenizer
from torch import Tensor

from dalnet.modeling.clip.prompts import IMAGENET_TEMPLATES

from .captions import PROMPT
from .words import (
    ANY_OBJECT,
    ATTRIBUTE_WORDS,
    CLASS_WORDS,
    EMPTY_WORDS,
    GROUND_WORDS,
    PREPOSITIONS,
)

CONTEXT = 77  # tokens of a sentence, start and end included
NUM_WORDS = 49408  # of CLIP's tokenizer
OTHER_WORD = 0  # the row of all tokens that no caption has


@cache
def tokenizer() -> SimpleTokenizer:
    """Return CLIP's tokenizer."""
    return SimpleTokenizer(context_length=CONTEXT)


@cache
def known_ids() -> Tensor:
    """Return the token ids that captions have, in rising order; start and end are the last two."""
    groups = (*CLASS_WORDS, *GROUND_WORDS, *(words for a in ATTRIBUTE_WORDS for words in a))
    words = [word for group in groups for word in group]
    words += [*EMPTY_WORDS, *ANY_OBJECT, *PREPOSITIONS]
    sentences = [*words, *IMAGENET_TEMPLATES, PROMPT, "a an and ,"]
    text = [sentence.replace("{}", " ") for sentence in sentences]
    ids = tokenizer()(text)
    return ids[ids > 0].unique()


@cache
def row_of_id() -> Tensor:
    """Return the row of each of CLIP's token ids, int64 ``[49408]``; start and end come last."""
    rows = torch.full((NUM_WORDS,), OTHER_WORD)
    rows[known_ids()] = torch.arange(1, num_rows())
    return rows


def num_rows() -> int:
    """Return the number of rows of the token table in training."""
    return 1 + len(known_ids())


def tokenize(sentences: Sequence[str]) -> Tensor:
    """Return the rows of the sentences' tokens ``[N, L]``, L no longer than the longest needs."""
    ids = tokenizer()(list(sentences))
    longest = int(ids.argmax(dim=1).max()) + 1  # the end has the highest id
    return row_of_id()[ids[:, :longest]]
