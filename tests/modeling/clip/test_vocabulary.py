# SPDX-License-Identifier: Apache-2.0
import pytest
from helpers import refused

from dalnet.modeling.clip.vocabulary import check_vocabulary


def test_names_that_can_be_asked_for():
    check_vocabulary(["red fish", "leaf"], 4)


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ([], "0 names"),
        ([f"word{i}" for i in range(255)], "255 names"),
        (["leaf", " "], "empty"),
        (["leaf", "leaf "], "2 times"),
        (["Leaf", "leaf"], "2 times"),
        (["red  fish", "Red fish"], "2 times"),
        (["background", "leaf"], "background"),
        (["Background ", "leaf"], "background"),
        (["leaf", "a b c d e"], "5 tokens"),
    ],
)
def test_names_that_cannot(names, word):
    with refused("vocabulary", word):
        check_vocabulary(names, 4)
