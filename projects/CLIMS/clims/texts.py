# SPDX-License-Identifier: Apache-2.0
"""Words for the classes and phrases for backgrounds, from a YAML file that users edit."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dalnet.documents import read_yaml
from dalnet.errors import UsageError
from dalnet.modeling.clip.vocabulary import as_clip_reads

_SHIPPED = Path(__file__).parent / "texts"
_KEYS = ("words", "background", "related", "weights")


@dataclass(frozen=True)
class Texts:
    """What CLIP is told about.

    Attributes:
        words: by class, what the prompt calls it.
        background: phrases for what objects are often seen with.
        related: by class, phrases for what it is often seen with; camera-ready variant only.
        weights: by class, of its pairs in the matching losses, 1 where not given; likewise.
    """

    words: dict[str, str]
    background: list[str] = field(default_factory=list)
    related: dict[str, list[str]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)


def read_texts(name: str, class_names: Sequence[str]) -> Texts:
    """Read a file of texts for the C classes ``class_names``, without background.

    Args:
        name: "voc", "coco" or "toy", or the path of a YAML file.
        class_names: every one of which needs a word; words of other classes are not used.

    Raises:
        UsageError: the file is unreadable or not of this form, a class has no word or another's, or
            a phrase is also a class or listed twice.
    """
    path = _SHIPPED / f"{name}.yaml"
    if not path.is_file():
        path = Path(name).expanduser()
    texts = _parse(path, name)
    for class_name in class_names:
        if class_name not in texts.words:
            raise UsageError(
                f"the class {class_name!r} has no word for its prompt",
                where=path,
                hint=f"add it below 'words', as in {class_name}: {class_name}",
            )
    _refuse_shared_words(path, texts, class_names)
    _refuse_classes_as_phrases(path, texts, class_names)
    _refuse_repeated_phrases(path, texts)
    return texts


def _parse(path: Path, name: str) -> Texts:
    known = sorted(file.stem for file in _SHIPPED.glob("*.yaml"))
    try:
        content = read_yaml(path)
    except UsageError as error:
        raise UsageError(
            f"{name!r} cannot be used: {error.what}",
            where="MODEL.CLIMS.TEXTS",
            hint=f"give one of {', '.join(known)} or the path of a file like theirs",
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("words"), dict):
        raise UsageError("has no words for classes", where=path, hint="list them below 'words'")
    if unknown := sorted(map(str, content.keys() - {*_KEYS})):
        raise UsageError(
            f"{unknown[0]!r} is no key", where=path, hint=f"there are {', '.join(_KEYS)}"
        )
    content = {key: value for key, value in content.items() if value is not None}
    _check_types(path, content)
    return Texts(**content)


def _check_types(path: Path, content: dict[str, Any]) -> None:
    """Refuse what is no text; YAML takes a bare ``no`` or ``12`` for something else."""
    related = content.get("related", {})
    lists = [
        content.get("background", []),
        *(related.values() if isinstance(related, dict) else ()),
    ]
    phrases = [phrase for one in lists if isinstance(one, list) for phrase in one]
    of_classes = [*content["words"], *content["words"].values()]
    for text in (*of_classes, *phrases):
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"{text!r} is no text", where=path, hint="write it in quotes")
    weights = content.get("weights", {})
    numbers = weights.values() if isinstance(weights, dict) else (None,)
    if (
        not all(isinstance(one, list) for one in lists)
        or not isinstance(related, dict)
        or not all(_is_weight(number) for number in numbers)
    ):
        raise UsageError(
            "'background' is no list of phrases, 'related' no such list for each class, or "
            "'weights' no number above 0 for each class",
            where=path,
            hint="write it as in the files in clims/texts",
        )
    for key in ("related", "weights"):
        if unknown := [name for name in content.get(key, {}) if name not in content["words"]]:
            what = f"'{key}' has {unknown[0]!r}, which is no class below 'words'"
            raise UsageError(what, where=path, hint="write the class as it stands there")


def _is_weight(number: object) -> bool:
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return is_number and 0 < number < math.inf


def _refuse_shared_words(path: Path, texts: Texts, class_names: Sequence[str]) -> None:
    """CLIP could not tell apart two classes that have one word."""
    classes: dict[str, str] = {}
    for name in class_names:
        other = classes.setdefault(as_clip_reads(texts.words[name]), name)
        if other != name:
            raise UsageError(
                f"the classes {other!r} and {name!r} have the same word, {texts.words[name]!r}",
                where=path,
                hint="give each a word of its own",
            )


def _refuse_classes_as_phrases(path: Path, texts: Texts, class_names: Sequence[str]) -> None:
    """An image of a class must not be kept from looking like that very class."""
    classes = {as_clip_reads(name) for name in class_names}
    classes |= {as_clip_reads(texts.words[name]) for name in class_names}
    for phrase in (*texts.background, *(one for many in texts.related.values() for one in many)):
        if as_clip_reads(phrase) in classes:
            raise UsageError(
                f"the phrase {phrase!r} is also a class, whose objects would be suppressed",
                where=path,
                hint="take it off the phrases",
            )


def _refuse_repeated_phrases(path: Path, texts: Texts) -> None:
    """L_CBS is a sum over phrases: one that is listed twice would weigh twice as much."""
    for phrases in (texts.background, *texts.related.values()):
        for phrase, times in Counter(map(as_clip_reads, phrases)).items():
            if times > 1:
                raise UsageError(
                    f"the phrase {phrase!r} occurs {times} times", where=path, hint="list it once"
                )
