"""Python files outside packages: examples, benchmarks, tools."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def script(path: Path) -> ModuleType:
    """A module made of that file, anew at each call."""
    name = f"{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def benchmark(name: str) -> ModuleType:
    """A module of ``benchmarks/``."""
    return script(ROOT / "benchmarks" / f"{name}.py")
