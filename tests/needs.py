"""What a test needs beyond the extra ``test``: skipped by name where missing, a failure under NUMLSTM_CI=1."""

import importlib
import os
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
