"""Cold processes up to their first result: time, peak memory, and megabytes of the installation."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from numlstm.bench import startup

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
ENGINES = list(startup.PROGRAMS)


class Startup:
    """Processes of every engine, in turns; an engine that is not installed has no figures."""

    params = ENGINES
    param_names = ("engine",)
    timeout = 900.0

    def setup_cache(self) -> startup.Startup:
        """Measure all engines in one run."""
        with tempfile.TemporaryDirectory(dir=os.getcwd()) as folder:
            return startup.measure(Path(folder), ENGINES, 2 if QUICK else 15)

    def setup(self, found: startup.Startup, engine: str) -> None:
        """Skip an engine that was left out; a wrong result is a failure."""
        if reason := found.left_out.get(engine):
            raise (ValueError if "wrong result" in reason else NotImplementedError)(reason)

    def track_import(self, found: startup.Startup, engine: str) -> float:
        return found.median(engine, "imported")

    def track_first_result(self, found: startup.Startup, engine: str) -> float:
        return found.median(engine, "first_result")

    def track_peak_memory(self, found: startup.Startup, engine: str) -> float:
        return found.median(engine, "peak")

    def track_installed(self, found: startup.Startup, engine: str) -> float:
        return found.installed[engine]

    track_import.unit = track_first_result.unit = "s"  # type: ignore[attr-defined]
    track_peak_memory.unit = track_installed.unit = "bytes"  # type: ignore[attr-defined]
