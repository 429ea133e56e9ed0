# SPDX-License-Identifier: Apache-2.0
"""Put what a GPU machine lacks into a folder of wheels for Python 3.12 on Linux, x86-64.

Run it where dalnet is installed: Detectron2's setup asks for torch. Packages without a wheel of
their own are built by the Python 3.12 that ``--python312`` names.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dalnet.cli import install_detectron2

_ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = _ROOT / "benchmarks" / "gpu_requirements.txt"


def requirements() -> list[str]:
    """Return the lines ``name==version`` of the requirements file."""
    lines = REQUIREMENTS.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def main(argv: Sequence[str] | None = None) -> None:
    """Build or download every wheel, and print the size of the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu wheels", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("gpu_wheels"))
    parser.add_argument("--python312", default="python3.12", help="default: %(default)s")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    for old in args.folder.glob("*.whl"):
        # pip refuses to install two versions of one package.
        old.unlink()
    others = [line for line in requirements() if line != install_detectron2.SDIST]
    command = [args.python312, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", args.folder]
    subprocess.run([*command, *others], check=True)
    with tempfile.TemporaryDirectory() as name:
        source = install_detectron2.fetch(Path(name))
        install_detectron2.apply_patches(source)
        wheel = install_detectron2.build_wheel(source, Path(name), install_detectron2.LOCAL_VERSION)
        (args.folder / wheel.name).write_bytes(wheel.read_bytes())
    size = sum(path.stat().st_size for path in args.folder.glob("*.whl"))
    print(f"{args.folder}: {len(requirements())} wheels, {size / 2**20:.1f} MiB")
