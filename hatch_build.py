"""Build hook: a wheel ships the compiled kernels of one system, so that its first run compiles nothing.

NUMLSTM_TARGET names the system, aarch64-macos for example; without it the wheel is for this one. ``.ci/wheels`` builds
them all. A wheel for another system than those below is pure Python and compiles its kernels at first use, and so is
one that is built without a linker or, without build isolation, without Numba. An editable install builds nothing, since
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

LINKERS = "ld", "ld.lld"  # those that numlstm.wheels.libraries looks for
# By the names of numlstm.export.targets. The libraries need no C library at all: on Linux, NumPy's oldest one does, and
# so does musl, whose tag is for Alpine.
TAGS = {
    "x86_64-linux": "py3-none-manylinux_2_17_x86_64.musllinux_1_1_x86_64",
    "aarch64-linux": "py3-none-manylinux_2_17_aarch64.musllinux_1_1_aarch64",
    "aarch64-macos": "py3-none-macosx_11_0_arm64",
    "x86_64-macos": "py3-none-macosx_10_13_x86_64",
    "x86_64-windows": "py3-none-win_amd64",
}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def _host() -> str:
    """The name for this system, which need not be one of ``TAGS``."""
    machine, system = platform.machine().lower(), platform.system().lower()
    is_wide = sys.maxsize > 2**32
    return f"{MACHINES.get(machine, machine) if is_wide else '32 bits'}-{system.replace('darwin', 'macos')}"


def _target() -> str:
    """The system that the wheel is for.

    Raises
    ------
    ValueError
        NUMLSTM_TARGET names none of ``TAGS``.
    """
    target = os.environ.get("NUMLSTM_TARGET")
    if target and target not in TAGS:
        raise ValueError(f"NUMLSTM_TARGET={target!r} is not a system that there are kernels for: {', '.join(TAGS)}")
    return target or _host()


def _needs_zig(target: str) -> bool:
    """Whether the linker for a target is that of the package ziglang."""
    usable = LINKERS if target == _host() else LINKERS[1:]
    return not (target.endswith("linux") and any(map(shutil.which, usable)))


def _hindrance(target: str) -> str | None:
    """Why kernels cannot be built here."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    if _needs_zig(target) and importlib.util.find_spec("ziglang") is None:
        return f"there is no linker: neither {' nor '.join(LINKERS)} nor the package ziglang"
    return None


class Kernels(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the libraries, adds them to the wheel, and names the system that they are for in its tag."""

    folder: str | None = None

    def dependencies(self) -> list[str]:
        """What a build needs: the system's linker, where there is one, saves a download of 100 MB."""
        target = _target()
        if target not in TAGS:
            return []
        numba = [package for package in self.metadata.core.dependencies if package.startswith("numba")]
        return [*numba, *(["ziglang>=0.13"] if _needs_zig(target) else [])]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the wheel is put together."""
        target = _target()
        if version == "editable" or target not in TAGS:
            return
        if hindrance := _hindrance(target):
            if os.environ.get("NUMLSTM_TARGET"):
                raise RuntimeError(f"the kernels for NUMLSTM_TARGET={target} cannot be built: {hindrance}")
            self.app.display_warning(
                f"numlstm: {hindrance}: the wheel ships no kernels, and they are compiled at first use"
            )
            return
        self.folder = tempfile.mkdtemp()
        path = os.pathsep.join(filter(None, (self.root, os.environ.get("PYTHONPATH"))))
        subprocess.run(
            [sys.executable, "-m", "numlstm.wheels.libraries", self.folder, target],
            env={**os.environ, "PYTHONPATH": path},
            check=True,
        )
        for file in sorted(Path(self.folder).iterdir()):
            build_data["force_include"][str(file)] = f"numlstm/kernels/shipped/{file.name}"
        build_data["pure_python"] = False
        build_data["tag"] = TAGS[target]

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Nothing is left behind."""
        if self.folder:
            shutil.rmtree(self.folder)
