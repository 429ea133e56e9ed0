# SPDX-License-Identifier: Apache-2.0
"""What a caption teaches: token ids of it and of its nouns, and which of its words are nouns."""

from collections.abc import Sequence
from functools import cache

import open_clip

CONTEXT_LENGTH = 77  # tokens of CLIP's text tower, start and end included
NOT_A_NOUN, OTHER_NOUN = -1, 0  # word labels beside 1..K, the selected nouns


@cache
def clip_tokenizer(context_length: int = CONTEXT_LENGTH) -> open_clip.SimpleTokenizer:
    """Return CLIP's tokenizer: called with sentences, it gives token ids ``[N, context_length]``.

    A longer sentence is cut, and its last token is then the end of text.
    """
    return open_clip.SimpleTokenizer(context_length=context_length)


def pseudo_word_labels(caption: str, nouns: Sequence[str], selected: Sequence[str]) -> list[int]:
    """Return the label of each of the 77 tokens of a caption.

    A noun is found wherever its own tokens occur one after the other, so that ``Dog`` also labels
    ``dog``: CLIP's tokens are of lower case.

    Args:
        caption: any sentence; what CLIP's text tower cuts off has no labels.
        nouns: all nouns of the caption.
        selected: K of them, in the order of their labels.

    Returns:
        -1 for a token of no noun, 0 for one of a noun that is not selected, i + 1 for one of
        ``selected[i]``. Where two selected nouns share a token, it is the later one's.
    """
    tokenizer = clip_tokenizer()
    ids = tokenizer([caption])[0].tolist()
    end = ids.index(tokenizer.eot_token_id)
    labels = [NOT_A_NOUN] * len(ids)
    numbered = [(noun, OTHER_NOUN) for noun in nouns]
    numbered += [(noun, number) for number, noun in enumerate(selected, start=1)]
    for noun, label in numbered:
        wanted = tokenizer.encode(noun)
        for start in range(1, end - len(wanted) + 1):
            if wanted and ids[start : start + len(wanted)] == wanted:
                labels[start : start + len(wanted)] = [label] * len(wanted)
    return labels
