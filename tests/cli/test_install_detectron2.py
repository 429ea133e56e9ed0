# SPDX-License-Identifier: Apache-2.0
"""``dalnet install-detectron2`` on a miniature archive made here; nothing leaves the machine."""

import argparse
import hashlib
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from dalnet.cli import install_detectron2

SETUP = """\
import os
from setuptools import Extension, find_packages, setup
def get_extensions():
    return [Extension("detectron2._C", ["absent.cpp"])]
def get_model_zoo_configs():
    return []
setup(
    name="detectron2_cdo",
    version="0.5" + os.getenv("D2_VERSION_SUFFIX", ""),
    packages=find_packages(exclude=("configs", "tests*")),
    package_data={"detectron2.model_zoo": get_model_zoo_configs()},
    install_requires=[
        "yacs>=0.1.6",
        "future",  # used by caffe2
        "pydot",  # used to save caffe2 SVGs
        "black==21.4b2",
    ],
    ext_modules=get_extensions(),
)
"""
MODEL_ZOO = """\
import os
import pkg_resources
def get_config_file(config_path):
    cfg_file = pkg_resources.resource_filename(
        "detectron2.model_zoo", os.path.join("configs", config_path)
    )
    return cfg_file
"""
MINIATURE = {
    "setup.py": SETUP,
    "detectron2/__init__.py": '__version__ = "0.5"\n',
    "detectron2/values.py": "a = np.int, np.float, np.bool, np.object, np.str, np.int64, xnp.int\n",
    "detectron2/resize.py": "interp = Image.LINEAR\n",
    "detectron2/model_zoo/__init__.py": "",
    "detectron2/model_zoo/model_zoo.py": MODEL_ZOO,
    "detectron2/model_zoo/configs/Some/recipe.yaml": "VERSION: 2\n",
    "detectron2/model_zoo/configs/Some/recipe.py": "",
    "tools/__init__.py": "",
}


@pytest.fixture
def tool():
    return install_detectron2


def install(requirement=""):
    install_detectron2.run(argparse.Namespace(requirement=requirement))


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "detectron2-cdo-0.5"
    for name, text in MINIATURE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def index(tmp_path, source, monkeypatch):
    """The only place pip looks at: a folder with the miniature archive. Returns its SHA-256."""
    folder = tmp_path / "index"
    folder.mkdir()
    archive = folder / "detectron2-cdo-0.5.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, arcname=source.name)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def test_patches_change_what_they_name_and_nothing_else(tool, source, capsys):
    tool.apply_patches(source)
    changed = {
        "detectron2/values.py": "a = int, float, bool, object, str, np.int64, xnp.int\n",
        "detectron2/resize.py": "interp = Image.BILINEAR\n",
    }
    for name, text in MINIATURE.items():
        if name not in ("setup.py", "detectron2/model_zoo/model_zoo.py"):
            assert (source / name).read_text() == changed.get(name, text), name
    assert "5 x " in capsys.readouterr().out.splitlines()[0]


def test_stub_says_what_it_is_and_answers_the_environment_report(tool, source):
    tool.apply_patches(source)
    names = {}
    exec((source / "detectron2/_C.py").read_text(), names)
    assert "Takes the place of Detectron2's compiled operators" in names["__doc__"]
    assert "absent" in names["get_compiler_version"]()
    assert "absent" in names["get_cuda_version"]()
    assert names["has_cuda"]() is False


def test_patched_model_zoo_finds_its_configs(tool, source):
    tool.apply_patches(source)
    path = source / "detectron2/model_zoo/model_zoo.py"
    names = {"__file__": str(path)}
    exec(path.read_text(), names)
    assert Path(names["get_config_file"]("Some/recipe.yaml")).is_file()


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("detectron2/values.py", "np"),
        ("detectron2/resize.py", "LINEAR"),
        ("detectron2/model_zoo/model_zoo.py", "import pkg_resources"),
        ("detectron2/model_zoo/model_zoo.py", "resource_filename"),
        ("setup.py", "get_extensions"),
        ("setup.py", "get_model_zoo_configs"),
        ("setup.py", "exclude="),
        ("setup.py", '  "'),
    ],
)
def test_a_patch_that_finds_nothing_is_refused(tool, source, name, pattern):
    text = (source / name).read_text().replace(pattern, "other")
    (source / name).write_text(text)
    with pytest.raises(SystemExit, match="has nothing that matches"):
        tool.apply_patches(source)


def test_archive_with_another_hash_is_refused(tool, index, tmp_path, capfd):
    assert index != tool.SDIST_SHA256
    with pytest.raises(SystemExit, match="'pip download' failed"):
        tool.fetch(tmp_path)
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.slow
def test_archive_becomes_a_pure_python_wheel(tool, index, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "SDIST_SHA256", index)
    unpacked = tool.fetch(tmp_path)
    tool.apply_patches(unpacked)
    wheel = tool.build_wheel(unpacked, tmp_path, tool.LOCAL_VERSION)
    assert wheel.name == f"detectron2_cdo-0.5{tool.LOCAL_VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        needs = [line for line in archive.read(about).decode().splitlines() if "Requires" in line]
    assert {"detectron2/_C.py", "detectron2/model_zoo/configs/Some/recipe.yaml"} <= set(names)
    assert not any(name.startswith("tools/") for name in names)
    assert needs == ["Requires-Dist: yacs>=0.1.6"]


@pytest.fixture
def environment(tool, tmp_path, monkeypatch):
    """What is importable and installed, made up; returns a function that states it."""

    def state(version, distributions):
        folder = tmp_path / "site" / "detectron2"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f'__version__ = "{version}"\n')
        monkeypatch.syspath_prepend(folder.parent)
        monkeypatch.delitem(sys.modules, "detectron2", raising=False)
        monkeypatch.setattr(tool, "distribution_version", distributions.get)

    return state


@pytest.mark.parametrize("version", ["0.5", "0.6", "1.0"])
def test_detectron2_in_place_is_left_alone(tool, environment, capsys, monkeypatch, version):
    environment(version, {"detectron2": version})
    monkeypatch.setattr(tool, "pip", lambda *args, **env: pytest.fail("pip was called"))
    install()
    assert f"Detectron2 {version} in" in capsys.readouterr().out


def test_detectron2_too_old_is_refused(tool, environment):
    environment("0.4.1", {"detectron2": "0.4.1"})
    with pytest.raises(SystemExit, match="0.4.1 in .* is too old"):
        tool.is_in_place()


def test_own_installation_is_renewed_when_the_patches_change(tool, environment, monkeypatch):
    environment("0.5", {"detectron2-cdo": "0.5" + tool.LOCAL_VERSION})
    assert tool.is_in_place()
    monkeypatch.setattr(tool, "LOCAL_VERSION", "+dalnet.mffffffff")
    assert not tool.is_in_place()


def test_absent_detectron2_is_not_in_place(tool, monkeypatch):
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: None)
    assert not tool.is_in_place()


def record_pip(tool, monkeypatch, failing=None):
    """Replace the tool's pip by one that notes its sub-commands and makes an empty wheel."""
    calls = []

    def pip(*args, **env):
        calls.append(f"{args[0]}{' --dry-run' if '--dry-run' in args else ''}")
        if calls[-1] == failing:
            sys.exit("failed")
        if args[0] == "wheel":
            folder = args[args.index("--wheel-dir") + 1]
            folder.mkdir()
            (folder / "detectron2-0.6-py3-none-any.whl").touch()

    monkeypatch.setattr(tool, "pip", pip)
    return calls


def test_requirement_replaces_what_is_there(tool, environment, monkeypatch):
    environment("0.5", {"detectron2-cdo": "0.5" + tool.LOCAL_VERSION})
    calls = record_pip(tool, monkeypatch)
    install("git+https://example.org/detectron2.git")
    assert calls == ["wheel", "install --dry-run", "uninstall", "install"]


@pytest.mark.parametrize("failing", ["wheel", "install --dry-run"])
def test_failed_requirement_leaves_what_is_there(tool, environment, monkeypatch, failing):
    environment("0.5", {"detectron2-cdo": "0.5" + tool.LOCAL_VERSION})
    calls = record_pip(tool, monkeypatch, failing)
    with pytest.raises(SystemExit):
        install("somewhere")
    assert calls[-1] == failing
