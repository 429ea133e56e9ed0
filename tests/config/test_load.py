# SPDX-License-Identifier: Apache-2.0
"""Config files and options that are merged, and those that are refused in one sentence."""

import pytest
from helpers import refused

from dalnet.config import load_config
from dalnet.config.dalnet import RENAMED_KEYS


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
    ("texts", "where"),
    [
        ([""], "a.yaml"),
        (["- 1\n- 2\n"], "a.yaml"),
        (["text"], "a.yaml"),
        (["a: [1"], "a.yaml"),
        (["_BASE_: 3"], "3"),
        (["_BASE_: b.yaml", "# nothing"], "b.yaml"),
        (["_BASE_: [b.yaml, c.yaml]", "SEED: 1", "- 1"], "c.yaml"),
        (["_BASE_: a.yaml"], "a.yaml"),
        (["_BASE_: b.yaml", "_BASE_: a.yaml"], "a.yaml"),
        (["OUTPUT_DIR: \xff"], "a.yaml"),
        (["runs: {a: b.yaml}"], "a.yaml"),
        (["_BASE_: dalnet://configs/nothing.yaml"], "dalnet://configs/nothing.yaml"),
    ],
)
def test_files_that_are_no_config(merged, texts, where):
    with refused(where):
        merged(*texts)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("MODEL: 3", "MODEL"),
        ("VERSION: 2\nSOLVER: {AMP: }", "SOLVER.AMP"),
        ("SEED: {X: 1}", "SEED.X"),
        ("SEED: {}", "SEED"),
        ("SEED: ", "SEED"),
        ("SEED: None", "SEED"),
        ("VERSION: two", "VERSION"),
        ("SOLVER: {MAX_ITERS: 3}", "SOLVER.MAX_ITERS"),
    ],
)
def test_values_that_do_not_fit_name_key_and_file(merged, text, key):
    with refused(key, "a.yaml") as error:
        merged(text)
    assert error.value.where == key


@pytest.mark.parametrize(
    ("opts", "where"),
    [
        (["MODEL", "3"], "MODEL"),
        (["SOLVER.MAX_ITER.X", "3"], "SOLVER.MAX_ITER.X"),
        (["SEED"], "SEED"),
        (["NO.SUCH", "3"], "NO.SUCH"),
        (["SEED", "x"], "SEED"),
        (["SEED", "1", "--resume"], "--resume"),
    ],
)
def test_options_that_do_not_fit(merged, opts, where):
    with refused(where):
        merged("SEED: 1\n", opts=opts)


def test_a_wrong_key_names_the_nearest(merged):
    with refused("SOLVER.MAX_ITR", "SOLVER.MAX_ITER"):
        merged("SEED: 1\n", opts=["SOLVER.MAX_ITR", "3"])


def test_an_empty_node_changes_nothing(merged):
    assert merged("SEED: 1\nMODEL: {}\n").MODEL == merged("SEED: 1\n").MODEL


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
        with refused(key, new):
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


@pytest.mark.parametrize(
    ("config", "nearest"), [("voc_dalnt", "voc_dalnet"), ("table4/voc_lae.yaml", "table4/voc_lea")]
)
def test_a_wrong_name_names_the_nearest_recipe(config, nearest):
    with refused(config, nearest):
        load_config(config)


def test_no_name_at_all_lists_the_recipes():
    with refused("config", "voc_dalnet", "toy_dalnet"):
        load_config("")


def test_a_base_may_be_a_recipe_of_the_package(merged):
    cfg = merged("_BASE_: dalnet://configs/toy_dalnet.yaml\nSEED: 5\n")
    assert (cfg.SEED, cfg.MODEL.VIT.EMBED_DIM) == (5, 144)


def test_a_recipe_of_a_system_that_is_not_installed_says_how_to_get_it(merged):
    with refused("a.yaml", "'Other'", "pip install"):
        merged("MODEL: {META_ARCHITECTURE: Other, OTHER: {KEY: 1}}\n")
