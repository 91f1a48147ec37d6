"""The CPU of this machine, its caches and memory, and the versions of the software on it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from numlstm.runtime.cores import usable_cores

PACKAGES = (
    "numlstm", "numpy", "numba", "llvmlite", "torch", "onnxruntime", "onnx", "openvino", "ai-edge-litert", "mnn",
    "jax", "keras",
)  # fmt: skip
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_USUAL = {"L1": 32 << 10, "L2": 512 << 10, "L3": 8 << 20}  # if the system does not say


def cpu_name() -> str:
    """The CPU's own name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()


def cpu_model() -> str:
    """Family, model and stepping, if the system says: on a virtual machine the name is often too general."""
    wanted = {"cpu family": "family", "model": "model", "stepping": "stepping"}
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in wanted:
                found.setdefault(wanted[name.strip()], value.strip())
    except OSError:
        return ""
    return ", ".join(f"{name} {value}" for name, value in found.items())


def cache_sizes() -> dict[str, int]:
    """Bytes of the data caches ``L1``, ``L2`` and ``L3`` of the first core; usual sizes if the system does not say."""
    sizes = dict(_USUAL)
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and f"L{level}" in sizes:
            sizes[f"L{level}"] = _bytes(size)
    for level, name in (("L1", "hw.l1dcachesize"), ("L2", "hw.l2cachesize"), ("L3", "hw.l3cachesize")):
        if (said := _sysctl(name)).isdigit() and int(said):
            sizes[level] = int(said)
    return sizes


def _bytes(text: str) -> int:
    """Bytes of a size such as ``48K``."""
    return int(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else int(text)


def _sysctl(name: str) -> str:
    if platform.system() != "Darwin":
        return ""
    try:
        asked = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip()


def memory_bytes() -> int:
    """Bytes of memory, 4 GiB if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def in_words(sizes: dict[str, int]) -> str:
    """Cache sizes for a heading.

    Examples
    --------
    >>> in_words({"L1": 49152, "L2": 1048576})
    'L1 48 KiB, L2 1,024 KiB'
    """
    return ", ".join(f"{level} {size // 1024:,} KiB" for level, size in sizes.items())


def facts() -> dict[str, Any]:
    """The facts of this module and the current load, for a report."""
    return {
        "cpu": cpu_name(),
        "cpu_model": cpu_model(),
        "cores": usable_cores(),
        "caches": cache_sizes(),
        "memory_bytes": memory_bytes(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
    }
