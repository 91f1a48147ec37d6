"""What the doctests of some files need beyond the extra ``test``: left out by name, an error under NUMLSTM_CI=1."""

import importlib.util
import os

NEEDS = {"dask": ["numlstm/dask/*", "docs/scale.md"], "matplotlib": ["docs/draw_panels.py"]}

missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
collect_ignore_glob = [] if os.environ.get("NUMLSTM_CI") == "1" else [glob for name in missing for glob in NEEDS[name]]

collect_ignore = ["tests/fuzz_coverage.py"]  # a program of its own, which changes the bytecode of what it imports


def pytest_report_header() -> list[str]:
    """Say what was left out."""
    return [f"left out, since they need {name}: {', '.join(NEEDS[name])}" for name in missing if collect_ignore_glob]
