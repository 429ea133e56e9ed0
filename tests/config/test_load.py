# SPDX-License-Identifier: Apache-2.0
"""Config files and options that are merged, and those that are refused in one sentence."""

import pytest

from dalnet.config import load_config
from dalnet.config.dalnet import RENAMED_KEYS
from dalnet.errors import UsageError

NO_CONFIG = "is no config: write lines of KEY: VALUE"


@pytest.fixture
def merged(tmp_path):
    """Writes texts to a.yaml, b.yaml, ... and merges a.yaml with options; returns the config."""

    def merge(*texts, opts=()):
        for name, text in zip("abc", texts, strict=False):
            (tmp_path / f"{name}.yaml").write_text(text, encoding="latin-1")
        return load_config(str(tmp_path / "a.yaml"), opts)

    return merge


def test_options_go_before_the_file_and_the_file_before_its_base(merged):
    first, second = "SEED: 1\nVIS_PERIOD: 1\nVERSION: 2\n", "_BASE_: b.yaml\nVIS_PERIOD: 2\n"
    cfg = merged(second, first, opts=["OUTPUT_DIR", "there"])
    assert (cfg.SEED, cfg.VIS_PERIOD, cfg.OUTPUT_DIR) == (1, 2, "there")


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([""], f"a.yaml {NO_CONFIG}"),
        (["- 1\n- 2\n"], f"a.yaml {NO_CONFIG}"),
        (["text"], f"a.yaml {NO_CONFIG}"),
        (["_BASE_: 3"], "a.yaml is no config: its _BASE_ is 3"),
        (["_BASE_: b.yaml", "# nothing"], f"b.yaml {NO_CONFIG}"),
        (["_BASE_: [b.yaml, c.yaml]", "SEED: 1", "- 1"], f"c.yaml {NO_CONFIG}"),
        (["_BASE_: a.yaml"], "a.yaml cannot be used: it leads back to itself, by its _BASE_"),
        (["_BASE_: b.yaml", "_BASE_: a.yaml"], "a.yaml cannot be used: it leads back to itself"),
        (["MODEL: 3"], "a.yaml cannot be used: MODEL is 3, but it is made of the keys below"),
        (["VERSION: 2\nSOLVER: {AMP: }"], "SOLVER.AMP is None, but it is made of the keys below"),
        (["SEED: {X: 1}"], "SEED has no keys below it such as X"),
        (["VERSION: two"], "a.yaml cannot be used: "),
        (["OUTPUT_DIR: \xff"], "a.yaml cannot be used: .*can't decode byte 0xff"),
    ],
)
def test_files_that_are_no_config(merged, texts, sentence):
    with pytest.raises(UsageError, match=sentence):
        merged(*texts)


@pytest.mark.parametrize(
    ("opts", "sentence"),
    [
        (["MODEL", "3"], "MODEL 3 cannot be used: MODEL is '3', but it is made"),
        (["SOLVER.MAX_ITER.X", "3"], "SOLVER.MAX_ITER has no keys below it such as X"),
        (["SEED"], "odd length"),
        (["NO.SUCH", "3"], "cannot be used: Non-existent key: NO.SUCH;"),
    ],
)
def test_options_that_do_not_fit(merged, opts, sentence):
    with pytest.raises(UsageError, match=sentence):
        merged("SEED: 1\n", opts=opts)


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("MODEL.DALNET.CAM.SCALES", "MODEL.CAM.SCALES"),
        ("MODEL.DALNET.PAR.DILATIONS", "MODEL.PAR.DILATIONS"),
        ("MODEL.TEXT.EMBED_DIM", "MODEL.CLIP.EMBED_DIM"),
        ("MODEL.TEXT.WEIGHTS", "MODEL.CLIP.SOURCE"),
        ("MODEL.DALNET.CTC_WEIGHT", "MODEL.TOCO.CTC_WEIGHT"),
        ("INPUT.MULTI_CROP.LOCAL_CUT", "INPUT.DATASET_MAPPER_NAME"),
    ],
)
def test_keys_of_before_are_refused_with_their_new_name(merged, key, new):
    for opts, text in (([key, "1"], "SEED: 1\n"), ([], _nested(key))):
        with pytest.raises(UsageError, match=f"{key} has another name now: use {new}"):
            merged(text, opts=opts)


def _nested(key):
    text = " 1"
    for part in reversed(key.split(".")):
        text = f"{{{part}: {text}}}"
    return text


def test_no_key_that_exists_counts_as_renamed():
    cfg = load_config("toy_dalnet")
    for old in RENAMED_KEYS:
        node = cfg
        *parts, last = old.split(".")
        for part in parts:
            node = node.get(part, {})
        assert last not in node, old


def test_recipes_are_found_by_name():
    assert load_config("toy_dalnet").OUTPUT_DIR == "output/toy_dalnet"
    assert load_config("photos/dalnet").OUTPUT_DIR == "output/photos/dalnet"
    with pytest.raises(UsageError, match="no_such_recipe does not exist"):
        load_config("no_such_recipe")


def test_a_base_may_be_a_recipe_of_the_package(merged):
    cfg = merged("_BASE_: dalnet://configs/toy_dalnet.yaml\nSEED: 5\n")
    assert (cfg.SEED, cfg.MODEL.VIT.EMBED_DIM) == (5, 144)


def test_a_recipe_of_a_system_that_is_not_installed_says_how_to_get_it(merged):
    with pytest.raises(UsageError, match="a.yaml is of the system 'Other', .*pip install"):
        merged("MODEL: {META_ARCHITECTURE: Other, OTHER: {KEY: 1}}\n")
