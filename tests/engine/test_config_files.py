# SPDX-License-Identifier: Apache-2.0
"""Config files and options that are merged, and those that are refused in one sentence."""

import pytest
from detectron2.config import get_cfg

from dalnet.config import add_dalnet_config
from dalnet.engine.setup import merge_config
from dalnet.errors import UsageError

NO_CONFIG = "is no config: write lines of KEY: VALUE"


@pytest.fixture
def merged(tmp_path):
    """Writes texts to a.yaml, b.yaml, ... and merges a.yaml with options; returns the config."""

    def merge(*texts, opts=()):
        for name, text in zip("abc", texts, strict=False):
            (tmp_path / f"{name}.yaml").write_text(text, encoding="latin-1")
        cfg = get_cfg()
        add_dalnet_config(cfg)
        merge_config(cfg, str(tmp_path / "a.yaml"), opts)
        return cfg

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
        (["_BASE_: 3"], f"a.yaml {NO_CONFIG} .*_BASE_"),
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
        (["MODEL", "3"], "an option behind .*a.yaml cannot be used: MODEL is '3', but it is made"),
        (["SOLVER.MAX_ITER.X", "3"], "SOLVER.MAX_ITER has no keys below it such as X"),
        (["SEED"], "odd length"),
        (["NO.SUCH", "3"], "cannot be used: Non-existent key: NO.SUCH;"),
    ],
)
def test_options_that_do_not_fit(merged, opts, sentence):
    with pytest.raises(UsageError, match=sentence):
        merged("SEED: 1\n", opts=opts)
