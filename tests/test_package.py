# SPDX-License-Identifier: Apache-2.0
"""What importing the package does, and which floor may import which."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dalnet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dalnet"

# From the ground up: a module imports from its own floor's own folder, and from floors below.
FLOORS = (
    ("dalnet", "dalnet.errors"),
    ("dalnet.io", "dalnet.numbers", "dalnet.assets"),
    ("dalnet.documents", "dalnet.pages"),
    ("dalnet.layers",),
    ("dalnet.config",),
    ("dalnet.modeling", "dalnet.data"),
    ("dalnet.checkpoint",),
    ("dalnet.evaluation",),
    ("dalnet.engine",),
    ("dalnet.figures",),
    ("dalnet.prediction", "dalnet.report", "dalnet.export", "dalnet.sweep"),
    ("dalnet.labeling",),
    ("dalnet.cli",),
    ("dalnet.__main__",),
)


def run_python(code, **environment):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    for name in [key for key, value in env.items() if value is None]:
        del env[name]
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_threads_wait_passively_unless_the_user_has_chosen():
    code = "import dalnet, os; print(os.environ['OMP_WAIT_POLICY'])"
    assert run_python(code, OMP_WAIT_POLICY=None) == "PASSIVE"
    assert run_python(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


ENTRIES = [ROOT / "train_net.py", *(ROOT / "demo").glob("*.py"), *(ROOT / "tools").glob("*.py")]


@pytest.mark.parametrize("path", ENTRIES, ids=str)
def test_entry_points_import_dalnet_before_what_loads_torch(path):
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    other = [n.split(".")[0] for n in names if n.split(".")[0] not in sys.stdlib_module_names]
    assert other[:1] in ([], ["dalnet"])


def test_the_face_is_there_when_it_is_asked_for():
    code = "import dalnet, sys; assert 'torch' not in sys.modules; from dalnet import Predictor"
    assert run_python(f"{code}; print(Predictor.__name__, dalnet.load_config.__name__)") == (
        "Predictor load_config"
    )
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(dalnet, "no_such_name")  # noqa: B009


def test_the_kernels_need_no_detectron2():
    code = "import sys; sys.modules['detectron2'] = None; import dalnet.layers; print('ok')"
    assert run_python(code) == "ok"


def imports_of(path):
    """Modules of the package that a file imports, with their line."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package = module.removesuffix(".__init__")
    parts = package.split(".") if path.name == "__init__.py" else package.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            names = [".".join([*base, *([node.module] if node.module else [])])]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "dalnet":
                yield package, name, node.lineno


def floor_of(module):
    def fits(name):
        return module == name or (name != "dalnet" and module.startswith(f"{name}."))

    found = [(level, name) for level, names in enumerate(FLOORS) for name in names if fits(name)]
    assert found, f"{module} stands on no floor"
    return found[0]


def test_imports_run_down_the_floors():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for module, imported, line in imports_of(path):
            (own, own_folder), (other, other_folder) = floor_of(module), floor_of(imported)
            if own_folder != other_folder and other >= own and "dalnet" not in (own_folder,):
                wrong.append(f"{module}:{line} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_no_import_leads_in_a_circle():
    graph = {}
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in PACKAGE.rglob("*.py")
    }
    for path in PACKAGE.rglob("*.py"):
        for module, imported, _ in imports_of(path):
            # A package's own index imports its files; they do not import it.
            if imported in modules and imported != module:
                graph.setdefault(module, set()).add(imported)
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in sorted(graph.get(module, ())):
            visit(other)
        path.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)
