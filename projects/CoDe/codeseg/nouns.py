# SPDX-License-Identifier: Apache-2.0
"""The nouns of a caption, by the part-of-speech tags of NLTK or spaCy."""

import itertools
import re
import string
from collections.abc import Callable, Iterable

from detectron2.config import CfgNode

from dalnet.errors import UsageError

FINDERS = ("none", "nltk", "spacy")

_NOUN_TAGS = {"NN", "NNS", "NNP", "NNPS"}
# Single letters, and what CC12M puts around names that it hides: <PERSON>.
_NO_NOUNS = {*string.ascii_lowercase, "<", ">"}
_KIND, _DATA = "MODEL.CODE.CAPTIONS.NOUNS", "MODEL.CODE.CAPTIONS.NOUN_DATA"
_TAGGER_DATA = "averaged_perceptron_tagger_eng"

NounFinder = Callable[[str], list[str]]


def build_noun_finder(cfg: CfgNode) -> NounFinder | None:
    """Return a function from a caption to its nouns, each once, in the order of the caption.

    Args:
        cfg: ``MODEL.CODE.CAPTIONS.NOUNS`` is "nltk", "spacy", or "none", which is no function:
            captions bring their nouns. ``NOUN_DATA`` is, for NLTK, the folder that holds its
            tagger, empty for NLTK's usual places; for spaCy the name or folder of a pipeline.

    Raises:
        UsageError: a library or its data that are not here.
    """
    kind, data = cfg.MODEL.CODE.CAPTIONS.NOUNS, cfg.MODEL.CODE.CAPTIONS.NOUN_DATA
    return {"nltk": _nltk_finder, "spacy": _spacy_finder, "none": lambda data: None}[kind](data)


def distinct_nouns(tagged: Iterable[tuple[str, str]]) -> list[str]:
    """Return the nouns among words with their Penn Treebank tags, each once, in their order.

    Words are compared as they are written; single lower-case letters, ``<`` and ``>`` are none.
    """
    nouns = (word for word, tag in tagged if tag in _NOUN_TAGS and word not in _NO_NOUNS)
    return list(dict.fromkeys(nouns))


def _nltk_finder(data: str) -> NounFinder:
    try:
        import nltk
        from nltk.tag.perceptron import PerceptronTagger
    except ImportError as error:
        raise UsageError("NLTK is not installed", _KIND, "pip install nltk") from error
    if data and data not in nltk.data.path:
        nltk.data.path.insert(0, data)
    try:
        tagger = PerceptronTagger(lang="eng")
    except (LookupError, OSError, ValueError) as error:
        raise UsageError(
            f"NLTK's tagger {_TAGGER_DATA} is not in {data or 'the places where NLTK looks'}",
            _DATA,
            f'run python -c \'import nltk; nltk.download("{_TAGGER_DATA}", "FOLDER")\' where there '
            "is a connection, and name that folder",
        ) from error

    def find(caption: str) -> list[str]:
        # NLTK's own way to cut a text into sentences would need more data.
        sentences = re.split(r"(?<=[.!?])\s+", caption)
        words = [nltk.word_tokenize(sentence, preserve_line=True) for sentence in sentences]
        return distinct_nouns(tagger.tag(list(itertools.chain.from_iterable(words))))

    return find


def _spacy_finder(data: str) -> NounFinder:
    try:
        import spacy
    except ImportError as error:
        raise UsageError("spaCy is not installed", _KIND, "pip install spacy") from error
    name = data or "en_core_web_sm"
    try:
        pipeline = spacy.load(name, disable=["parser", "ner", "lemmatizer"])
    except OSError as error:
        raise UsageError(
            f"spaCy has no pipeline {name}",
            _DATA,
            f"run python -m spacy download {name}, or name another",
        ) from error
    return lambda caption: distinct_nouns((word.text, word.tag_) for word in pipeline(caption))
