"""How the tests run: the whole suite on several cores, and what doctests need beyond the extra ``test``."""

import importlib.util
import os

import pytest

NEEDS = {
    "autograd": ["numlstm/autograd/*", "docs/frameworks.md"],
    "jax": ["numlstm/jax/*", "docs/frameworks.md"],
    "torch": ["numlstm/torch/*", "docs/frameworks.md"],
    "dask": ["numlstm/dask/*", "docs/scale.md"],
    "matplotlib": ["docs/draw_panels.py"],
    "onnx": ["docs/keras_onnx.md"],
    "pandas": ["numlstm/nn/sequential.py"],
    "sphinx": ["docs/conf.py"],
}

# Hooks that PyInstaller runs, and a program of its own that changes the bytecode of what it imports
collect_ignore = ["numlstm/__pyinstaller", "tests/support/fuzz_coverage.py"]
missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
collect_ignore_glob = [] if os.environ.get("NUMLSTM_CI") == "1" else [glob for name in missing for glob in NEEDS[name]]
SLOW = ["numlstm/export/__init__.py", "docs/streaming.md", "docs/scale.md"]  # doctests of several seconds
MOST = 4  # processes: a few have a gigabyte each, of the packages that they compare with


def pytest_report_header() -> list[str]:
    """Say what was left out."""
    return [f"left out, since they need {name}: {', '.join(NEEDS[name])}" for name in missing if collect_ignore_glob]


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what no decorator can."""
    for item in items:
        if item.path.relative_to(config.rootpath).as_posix() in SLOW:
            item.add_marker("slow")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads them
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Without a path on the command line, a process of pytest-xdist a core takes a file of tests at a time.

    A file stays in one process, since its tests share what is slow to make. ``-n 0`` keeps all of them in this one.
    """
    options = config.option
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    if named or options.usepdb or hasattr(config, "workerinput") or getattr(options, "numprocesses", 0) is not None:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options.numprocesses, options.dist = min(MOST, cores), "loadfile"
