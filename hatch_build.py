"""Build hook: a wheel for Linux on x86-64 ships the compiled kernels, so that its first run compiles nothing.

Every other wheel is pure Python and compiles them at first use: one for another system or CPU, and one that is
built without a linker or, without build isolation, without Numba. An editable install builds nothing, since
kernels are edited there. NUMLSTM_BUILD_LEVELS=native builds the kernels of this machine's CPU alone, in half the time.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LINKERS = "ld", "ld.lld"  # those that numlstm.kernels.loading.wheel looks for
TAG = "py3-none-manylinux_2_17_x86_64"  # NumPy's own; the libraries need no C library at all


def _ships() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 2**32


def _hindrance() -> str | None:
    """Why kernels cannot be built here."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    if not any(map(shutil.which, LINKERS)) and importlib.util.find_spec("ziglang") is None:
        return f"there is no linker: neither {' nor '.join(LINKERS)} nor the package ziglang"
    return None


class Kernels(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the libraries, adds them to the wheel, and names the system that they are for in its tag."""

    folder: str | None = None

    def dependencies(self) -> list[str]:
        """What a build needs: the system's linker, where there is one, saves a download of 100 MB."""
        if not _ships():
            return []
        numba = [package for package in self.metadata.core.dependencies if package.startswith("numba")]
        return [*numba, *([] if any(map(shutil.which, LINKERS)) else ["ziglang>=0.13"])]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the wheel is put together."""
        if version == "editable" or not _ships():
            return
        if hindrance := _hindrance():
            self.app.display_warning(
                f"numlstm: {hindrance}: the wheel ships no kernels, and they are compiled at first use"
            )
            return
        self.folder = tempfile.mkdtemp()
        path = os.pathsep.join(filter(None, (self.root, os.environ.get("PYTHONPATH"))))
        subprocess.run(
            [sys.executable, "-m", "numlstm.kernels.loading.wheel", self.folder],
            env={**os.environ, "PYTHONPATH": path},
            check=True,
        )
        for file in sorted(Path(self.folder).iterdir()):
            build_data["force_include"][str(file)] = f"numlstm/kernels/shipped/{file.name}"
        build_data["pure_python"] = False
        build_data["tag"] = TAG

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Nothing is left behind."""
        if self.folder:
            shutil.rmtree(self.folder)
