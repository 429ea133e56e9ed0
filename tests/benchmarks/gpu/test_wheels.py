# SPDX-License-Identifier: Apache-2.0
"""What a GPU machine lacks is named with the versions of constraints.txt."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

from benchmarks.gpu import wheels

ROOT = Path(__file__).resolve().parents[3]


def test_versions_are_those_of_the_constraints():
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    detectron2 = wheels.install_detectron2.SDIST
    named = wheels.requirements()
    assert detectron2 in named and len(named) > 10
    for line in named:
        assert line == detectron2 or line in constraints


def test_every_package_becomes_one_wheel(tmp_path, monkeypatch):
    built = tmp_path / "built" / "detectron2_cdo-0.5-py3-none-any.whl"
    built.parent.mkdir()
    built.write_bytes(b"patched")
    calls = []
    installer = SimpleNamespace(
        SDIST=wheels.install_detectron2.SDIST,
        LOCAL_VERSION="+1",
        fetch=lambda folder: folder,
        apply_patches=lambda source: calls.append("patch"),
        build_wheel=lambda source, folder, version: calls.append("build") or built,
    )
    monkeypatch.setattr(wheels, "install_detectron2", installer)
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "old-1.0-py3-none-any.whl").touch()
    wheels.main([str(folder), "--python312", "python3.12"])
    pip, *rest = calls
    assert pip[0] == "python3.12" and set(wheels.requirements()) - set(pip) == {installer.SDIST}
    assert rest == ["patch", "build"]
    assert [path.name for path in folder.iterdir()] == [built.name]
