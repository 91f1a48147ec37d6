"""What a test needs beyond the extra ``test``: skipped by name if missing, a failure under NUMLSTM_CI=1."""

import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest


def leave_out(reason: str) -> None:
    """Skip the test, or fail it where CI promises that nothing is left out."""
    if os.environ.get("NUMLSTM_CI") == "1":
        pytest.fail(f"left out under NUMLSTM_CI=1: {reason}")
    pytest.skip(reason, allow_module_level=True)


def need(name: str) -> ModuleType:
    """The module of that name; without it the test is left out by name."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        leave_out(f"needs {name} (.ci/run installs it): {error}")
        raise


def need_files(name: str) -> Path:
    """The folder of a package that is there for its files and must not be imported; left out like `need`."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        leave_out(f"needs the files of {name} (.ci/run installs it)")
        raise ModuleNotFoundError(name)
    return Path(spec.submodule_search_locations[0])
