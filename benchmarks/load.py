"""Loading a model file of each format: time, and peak memory as a multiple of the file's size."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from numlstm.bench.costs import load

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
MEGABYTES = 20 if QUICK else 100


class Files:
    """One file of every format, written once."""

    params = load.SUFFIXES
    param_names = ("format",)
    timeout = 600.0

    def setup_cache(self) -> str:
        """Write the files, in a folder that asv deletes with its working directory."""
        folder = Path(tempfile.mkdtemp(dir=os.getcwd()))
        for suffix in load.SUFFIXES:
            load.write(folder / f"voice{suffix}", load.VOICE)
            load.write(folder / f"large{suffix}", load.of_size(MEGABYTES))
        return str(folder)


class Time(Files):
    """A model of 5.4 MB, of the size of voice: find, read, pack, and call once."""

    def setup(self, folder: str, suffix: str) -> None:
        self.path = Path(folder, f"voice{suffix}")
        load.loaded(self.path)

    def time_load(self, folder: str, suffix: str) -> None:
        load.loaded(self.path)


class Memory(Files):
    """The peak while a fresh process loads 100 MB of float32; at most 2.2 is promised for .safetensors and .pt."""

    def track_peak(self, folder: str, suffix: str) -> float:
        large = Path(folder, f"large{suffix}")
        return load.peak_in_fresh_process(Path(folder, f"voice{suffix}"), large) / large.stat().st_size

    track_peak.unit = "times the file's size"  # type: ignore[attr-defined]
