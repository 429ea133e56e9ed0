# SPDX-License-Identifier: Apache-2.0
"""Install Detectron2 into the running interpreter's environment; PyPI alone is enough.

Detectron2 is not on PyPI under its own name. ``detectron2-cdo==0.5`` is: the Python files of the
official v0.5 without its C++ sources, which is why a plain ``pip install`` of it fails. This
command fetches that archive (checked by its SHA-256), patches what stops it from building and from
running on today's numpy and Pillow, says what it changed, and installs the result.

    dalnet install-detectron2
    dalnet install-detectron2 --requirement git+https://github.com/facebookresearch/detectron2

A Detectron2 of 0.5 or newer that is already there is left alone. ``--requirement`` installs
another one in its place: anything pip accepts, built the way its own setup builds it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

# The tested versions, in a checkout of the repository; a wheel does not carry them.
CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
SDIST = "detectron2-cdo==0.5"
SDIST_SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"
DISTRIBUTIONS = ("detectron2", "detectron2-cdo")  # both own the folder detectron2/
OLDEST = (0, 5)

STUB = '''\
"""Takes the place of Detectron2's compiled operators, and has none of them.

The archive on PyPI lacks their C++ sources, and Detectron2 0.5 imports this module in its layers
and evaluators. DALNet calls no compiled operator. Code that does (rotated boxes, deformable
convolution, the fast COCO evaluation) stops with an AttributeError: it needs a Detectron2 built
from its official repository. The functions below answer Detectron2's report on its environment.
"""


def get_compiler_version():
    return "none: the compiled operators are absent"


def get_cuda_version():
    return "none: the compiled operators are absent"


def has_cuda():
    return False
'''


class Patch(NamedTuple):
    """One textual change: every match of ``pattern`` in the files that ``files`` names."""

    files: str
    pattern: str
    replacement: str
    reason: str


PATCHES = (
    Patch(
        "detectron2/**/*.py",
        r"\bnp\.(int|float|bool|object|str)\b",
        r"\1",
        "numpy's aliases of Python types were removed in numpy 1.24",
    ),
    Patch(
        "detectron2/**/*.py",
        r"\bImage\.LINEAR\b",
        "Image.BILINEAR",
        "the name was removed in Pillow 10",
    ),
    Patch(
        "detectron2/model_zoo/model_zoo.py",
        r"import pkg_resources\n",
        "",
        "pkg_resources was removed in setuptools 81",
    ),
    Patch(
        "detectron2/model_zoo/model_zoo.py",
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", (.+)\s*\)',
        r"os.path.join(os.path.dirname(__file__), \1)",
        "the same",
    ),
    Patch(
        "setup.py",
        r"ext_modules=get_extensions\(\)",
        "ext_modules=[]",
        "the archive has no C++ sources to compile",
    ),
    Patch(
        "setup.py",
        r"get_model_zoo_configs\(\)\}",
        '["configs/**/*.yaml", "configs/**/*.py"]}',
        "the archive keeps the model zoo's configs inside the package",
    ),
    Patch(
        "setup.py",
        r'exclude=\("configs", "tests\*"\)',
        'include=("detectron2*",)',
        "the scripts beside the package would be installed as a package named tools",
    ),
    Patch(
        "setup.py",
        r'\n *"(?:black==21\.4b2|future|pydot)",.*',
        "",
        "needed only to print lazy configs and to export to Caffe2",
    ),
)
# Tells an installation patched by this table from one patched by another state of it.
LOCAL_VERSION = "+dalnet.m" + hashlib.sha256(repr((PATCHES, STUB)).encode()).hexdigest()[:8]


def apply_patches(source: Path) -> None:
    """Apply ``PATCHES`` below ``source`` and add the stub; a patch without a match stops."""
    for files, pattern, replacement, reason in PATCHES:
        total = 0
        for path in sorted(source.glob(files)):
            text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"))
            if count:
                path.write_text(text, encoding="utf-8")
                total += count
        if not total:
            sys.exit(
                f"error: {files} of {SDIST} has nothing that matches {pattern!r}: "
                "this is not the archive that the patches were written for."
            )
        print(f"  {files}: {total} x {pattern!r} -> {replacement!r} ({reason})")
    (source / "detectron2" / "_C.py").write_text(STUB, encoding="utf-8")
    print("  detectron2/_C.py: added (a stub in place of the compiled operators)")


def pip(*args: str | Path, **env: str) -> None:
    """Run this interpreter's pip, showing its output; stop with one sentence where it fails."""
    sys.stdout.flush()  # what was printed so far stands above pip's output in a log, too
    command = [sys.executable, "-m", "pip", *map(str, args)]
    if subprocess.run(command, env={**os.environ, **env}).returncode:
        sys.exit(f"error: 'pip {args[0]}' failed while installing Detectron2; see above for why.")


def fetch(folder: Path) -> Path:
    """Download the archive into ``folder``; return the unpacked source. pip checks the SHA-256."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    from_source = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:")
    pip("download", *from_source, "--dest", folder, "--requirement", wanted)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder / "unpacked")
    (source,) = (folder / "unpacked").iterdir()
    return source


def build_wheel(what: str | Path, folder: Path, version_suffix: str = "") -> Path:
    """Build ``what`` into a wheel below ``folder``; the suffix is one Detectron2's setup knows."""
    wheels = folder / "wheels"
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", wheels)
    pip("wheel", *options, what, D2_VERSION_SUFFIX=version_suffix)
    (wheel,) = wheels.glob("*.whl")
    return wheel


def replace_by(wheel: Path) -> None:
    """Install ``wheel`` and its needs; the old one goes only once it is known that this works."""
    constraint = ("--constraint", CONSTRAINTS) if CONSTRAINTS.is_file() else ()
    install = ("install", *constraint, wheel)
    old = [name for name in DISTRIBUTIONS if distribution_version(name)]
    if old:
        pip(*install, "--dry-run", "--quiet")
        pip("uninstall", "--yes", *old)
    pip(*install)


def distribution_version(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def importable() -> tuple[str, Path] | None:
    """Version and folder of the Detectron2 that ``import`` would find; read, not imported."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.origin:
        return None
    init = Path(spec.origin)
    match = re.search(r'^__version__ = "([^"]+)"', init.read_text(encoding="utf-8"), re.MULTILINE)
    return (match.group(1) if match else "0"), init.parent


def is_in_place() -> bool:
    """Whether nothing is to be done; says what was found. Stops at a Detectron2 that is too old."""
    found = importable()
    if found is None:
        return False
    version, folder = found
    installed = distribution_version("detectron2-cdo") or ""
    if "+dalnet." in installed and not installed.endswith(LOCAL_VERSION):
        print(f"Detectron2 {installed} was patched by another version of dalnet: replacing it.")
        return False
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        sys.exit(
            f"error: Detectron2 {version} in {folder} is too old (0.5 or newer is needed): "
            "uninstall it, or name another one with --requirement."
        )
    print(f"Detectron2 {version} in {folder} is left as it is.")
    return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument(
        "--requirement",
        default="",
        help="install this Detectron2 instead: a folder, an archive, a git+https:// address",
    )


def run(args: argparse.Namespace) -> None:
    """Install what the arguments say, unless a usable Detectron2 is there."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        if args.requirement:
            replace_by(build_wheel(args.requirement, folder))
        elif not is_in_place():
            source = fetch(folder)
            print(f"Patching {SDIST}:")
            apply_patches(source)
            replace_by(build_wheel(source, folder, LOCAL_VERSION))
