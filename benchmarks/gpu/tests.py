# SPDX-License-Identifier: Apache-2.0
"""Part 1: the tests marked ``gpu``, each of them a row."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.compare import Row
from benchmarks.gpu.part import Measurement, Setting

_ROOT = Path(__file__).resolve().parents[2]


def measurements(_: Setting) -> Iterator[Measurement]:
    """Yield one measurement: pytest over all tests with the marker."""
    yield Measurement("pytest -m gpu", run_tests)


def run_tests(folder: Path = _ROOT / "tests") -> Row:
    """Run the marked tests below ``folder``, and return how many passed and which failed."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "tests.xml"
        # What one module cannot import is no reason to leave out the others.
        options = ["-m", "gpu", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={log}", *options, str(folder)]
        subprocess.run(command, cwd=_ROOT)
        cases = list(ElementTree.parse(log).iter("testcase"))
    bad = [case for case in cases if {"failure", "error"} & {child.tag for child in case}]
    skipped = sum(case.find("skipped") is not None for case in cases)
    row = {
        "passed": len(cases) - len(bad) - skipped,
        "skipped": skipped,
        "tests": [[case.get("name"), float(case.get("time"))] for case in cases],
    }
    if bad:
        names = ", ".join(f"{case.get('classname')}.{case.get('name')}" for case in bad[:10])
        row["failed"] = f"{len(bad)} tests: {names}"
    return row
