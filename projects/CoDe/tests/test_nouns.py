# SPDX-License-Identifier: Apache-2.0
import sys
from types import SimpleNamespace

import pytest
from helpers import refused

from codeseg.nouns import build_noun_finder, distinct_nouns

# A determiner, an adjective and a noun, a verb, and so on: enough for a tagger of such sentences.
_SENTENCES = [
    [("A", "DT"), (color, "JJ"), (first, "NN"), ("sees", "VBZ"), ("the", "DT"), (second, "NNS"),
     (",", ","), ("a", "DT"), (color, "JJ"), ("tree", "NN"), (".", ".")]
    for color in ("red", "green", "small", "old")
    for first, second in (("dog", "cats"), ("cat", "leaves"), ("fish", "dogs"), ("crate", "fishes"),
                          ("wheel", "crates"))
]  # fmt: skip


def config(kind, data=""):
    captions = SimpleNamespace(NOUNS=kind, NOUN_DATA=str(data))
    return SimpleNamespace(MODEL=SimpleNamespace(CODE=SimpleNamespace(CAPTIONS=captions)))


def test_each_noun_once_and_no_letters():
    tagged = [("Dog", "NN"), ("runs", "VBZ"), ("dog", "NNS"), ("Dog", "NNP"), ("x", "NN"),
              ("<", "NN"), ("PERSON", "NNP"), (">", "NN"), ("X", "NN"), ("red", "JJ"),
              ("Paris", "NNPS")]  # fmt: skip
    assert distinct_nouns(tagged) == ["Dog", "dog", "PERSON", "X", "Paris"]


def test_captions_that_bring_their_nouns():
    assert build_noun_finder(config("none")) is None


@pytest.fixture
def nltk_data(tmp_path, monkeypatch):
    """A folder of NLTK's layout with a small tagger."""
    nltk = pytest.importorskip("nltk")
    from nltk.tag.perceptron import PerceptronTagger

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    tagger = PerceptronTagger(load=False)
    tagger.train(_SENTENCES)
    folder = tmp_path / "taggers" / "averaged_perceptron_tagger_eng"
    folder.parent.mkdir()
    tagger.save_to_json("eng", str(folder))
    return tmp_path


def test_nltk(nltk_data, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    find = build_noun_finder(config("nltk", nltk_data))
    assert find("A small dog sees the wheels, a dog.") == ["dog", "wheels"]
    # A full stop within a caption is no part of a noun.
    text = "A small dog sees the wheels. A red cat sees the dogs. A cat sees the wheels."
    assert find(text) == ["dog", "wheels", "cat", "dogs"]


def test_nltk_without_its_data(tmp_path, monkeypatch):
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [])
    with refused("MODEL.CODE.CAPTIONS.NOUN_DATA", tmp_path, "nltk.download"):
        build_noun_finder(config("nltk", tmp_path))


@pytest.mark.parametrize("kind", ["nltk", "spacy"])
def test_a_library_that_is_not_installed(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with refused("MODEL.CODE.CAPTIONS.NOUNS", "pip install"):
        build_noun_finder(config(kind))


def test_spacy(monkeypatch):
    words = [("A", "DT"), ("dog", "NN"), ("barks", "VBZ"), ("dogs", "NNS")]
    loaded = []

    def load(name, disable):
        loaded.append(name)
        return lambda caption: [SimpleNamespace(text=w, tag_=t) for w, t in words]

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    assert build_noun_finder(config("spacy"))("any") == ["dog", "dogs"]
    assert loaded == ["en_core_web_sm"]


def test_spacy_without_a_pipeline(monkeypatch):
    def load(name, disable):
        raise OSError(f"no {name}")

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    with refused("MODEL.CODE.CAPTIONS.NOUN_DATA", "de_core_news_sm"):
        build_noun_finder(config("spacy", "de_core_news_sm"))
