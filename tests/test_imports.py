"""Imports point down: a module imports only what comes later in the order of the design, also inside functions."""

import ast
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "numlstm"

# From what a user sees down to what everything rests on: a row a folder, or a module of the package itself. Inside a
# row there is no cycle.
ORDER = (
    "__init__",
    "__main__",
    "__pyinstaller",
    "cli",
    "commands",
    "demo",
    "bench",
    "dask",
    "wheels",
    "export",
    "models",
    "torch",
    "jax",
    "autograd",
    "interop",
    "files",
    "optim",
    "nn",
    "lstm",
    "lazy",
    "cell",
    "parameter_types",
    "module",
    "cuda",
    "tracing",
    "autodiff",
    "sequences",
    "formats",
    "reference",  # imports nothing of the rest
    "runtime",
    "kernels.loading",
    "kernels.training",
    "kernels.entries",
    "kernels",
    "base",
)
ALONE = {"reference"}
FOREIGN = {
    "torch": {"numlstm.bench.engines.pytorch", "numlstm.bench.engines.training"}
}  # whom the bench times, imported when it does and nowhere else
BRIDGES = {"torch"}  # folders that may import the package of their name at the top
HEAVY = ("numba", "llvmlite", "click", "matplotlib", "torch", "jax", "autograd", "onnxruntime", "openvino", "onnx")
HEAVY += ("safetensors",)


def modules(package):
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def statements(text):
    """(what can import, whether at the top level) in a file of that text. Many copies of the package are looked at."""
    tree = ast.parse(text)
    outer = set(tree.body)
    return [(n, n in outer) for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom | ast.Call)]


def imported(name, path, known):
    """(line, name, whether at the top level) of every import in a file; those of the package as modules of it."""
    within = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def of_package(dotted):
        while dotted not in known and "." in dotted:
            dotted = dotted.rpartition(".")[0]
        return dotted

    for node, outer in statements(path.read_text("utf-8")):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = within.split(".")[: len(within.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                names = [within + node.args[0].value if node.args[0].value[:1] == "." else node.args[0].value]
        for dotted in names:
            is_ours = dotted.split(".")[0] == path_root(known)
            yield node.lineno, of_package(dotted) if is_ours else dotted, outer


def path_root(known):
    return min(known, key=len)


def level(name):
    """The row of the order that a module belongs to: its folder's, or its own."""
    parts = name.split(".")[1:] or ["__init__"]
    rows = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((row for row in rows if row in ORDER), parts[0])


def violations(package):
    """Everything in a package that breaks the order, as sentences; and how many imports were looked at."""
    known, said, looked_at = modules(package), [], 0
    root = path_root(known)

    graph = {name: set() for name in known}
    for name, path in known.items():
        if level(name) not in ORDER:
            said.append(f"{name} has no place in the order: give it one in {Path(__file__).name}")
            continue
        for line, target, outer in imported(name, path, known):
            looked_at += 1
            where = f"{path.relative_to(package.parent)}:{line}"
            if target.split(".")[0] != root:
                allowed = FOREIGN.get(target.split(".")[0])
                within = level(name) in BRIDGES and level(name) == target.split(".")[0]
                if allowed is not None and not within and (name not in allowed or outer):
                    said.append(f"{where} imports {target}, which only {sorted(allowed)} may, inside a function")
                continue
            if level(name) in ALONE:
                said.append(f"{where} imports {target}, and is to import nothing of {root}")
            elif level(target) == level(name):
                graph[name].add(target)
            elif level(target) in ORDER and ORDER.index(level(target)) < ORDER.index(level(name)):
                said.append(f"{where} imports {target}, which is above it")
    try:
        TopologicalSorter({name: targets - {name} for name, targets in graph.items()}).prepare()
    except CycleError as error:
        said.append(f"a cycle inside a folder: {' -> '.join(error.args[1])}")
    return said, looked_at


def test_imports_point_down():
    said, looked_at = violations(PACKAGE)
    assert not said, "\n".join(said)
    assert looked_at > 50
    assert {level(name) for name in modules(PACKAGE)} <= set(ORDER)


def test_the_map_in_contributing_has_the_same_order():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text("utf-8")
    rows = text[text.index("| folder or module of") :].partition("\n\n")[0].splitlines()[2:]
    named = [name for row in rows for name in re.findall(r"`([\w.]+)`", row.split("|")[1])]
    assert named == list(ORDER)


INDIRECT = "from importlib import import_module\nimport_module('{}', 'numlstm')"


@pytest.mark.parametrize(
    "file, line, says",
    [
        (
            "base/config.py",
            "from numlstm.runtime import planner",
            "config.py:{} imports numlstm.runtime.planner, which is",
        ),
        ("base/config.py", "from ..lstm import LSTM", "config.py:{} imports numlstm.lstm, which is above it"),
        ("runtime/executor.py", "from numlstm import LSTM", "executor.py:{} imports numlstm, which is above it"),
        ("lstm.py", "import numlstm", "lstm.py:{} imports numlstm, which is above it"),
        (
            "runtime/threads.py",
            "def late():\n    from ..sequences import pool",
            "threads.py:{} imports numlstm.sequences.pool, which is above it",
        ),
        (
            "base/wording.py",
            "def late():\n    import numlstm.cell as c",
            "wording.py:{} imports numlstm.cell, which is above it",
        ),
        (
            "kernels/plan_layout.py",
            "from ..runtime.executor import Executor",
            "plan_layout.py:{} imports numlstm.runtime.executor, which is above it",
        ),
        (
            "kernels/simd.py",
            "from .loading import registry",
            "simd.py:{} imports numlstm.kernels.loading.registry, which is above it",
        ),
        (
            "runtime/planner.py",
            INDIRECT.format("numlstm.sequences.stream"),
            "planner.py:{} imports numlstm.sequences.stream, which is above it",
        ),
        ("cell.py", INDIRECT.format(".lstm"), "cell.py:{} imports numlstm.lstm, which is above it"),
        ("kernels/plan_layout.py", "from . import recurrence", "a cycle inside a folder"),
        ("runtime/schedule.py", "def late():\n    from . import planner", "a cycle inside a folder"),
        ("reference.py", "from numlstm.base import config", "imports numlstm.base.config, and is to import nothing of"),
        ("interop.py", "def late():\n    import torch", "interop.py:{} imports torch, which only"),
        ("bench/engines/task.py", "import torch.nn", "task.py:{} imports torch.nn, which only"),
        ("stray.py", "", "numlstm.stray has no place in the order"),
    ],
)
def test_a_planted_import_upward_is_found(file, line, says, tmp_path):
    package = tmp_path / "numlstm"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    before, _ = violations(package)
    path = package / file
    text = path.read_text("utf-8") if path.exists() else ""
    path.write_text(f"{text}\n{line}\n", "utf-8")
    new = [said for said in violations(package)[0] if said not in before]
    number = len(path.read_text("utf-8").splitlines())
    assert len(new) == 1, new
    assert says.format(number) in new[0]


def loaded(statement):
    """Which heavy packages a fresh process has imported after a statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def test_import_numlstm_is_light():
    assert loaded("import numlstm") == []
    assert loaded("import numlstm; numlstm.LSTM, numlstm.LSTMCell, numlstm.from_torch, numlstm.__version__") == []
    assert loaded("import numlstm, click") == ["click"]  # the check sees what is there
    assert set(loaded("import numlstm, numba")) == {"numba", "llvmlite"}
