"""Whether this machine has what CUDA needs, and the error that says what is missing. Does not import Numba."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from numlstm.base.requirements import install

DRIVERS = ("nvcuda.dll",) if os.name == "nt" else ("libcuda.so.1", "libcuda.so")
NO_EXTRA = (
    "device 'cuda' needs the package numba-cuda, which is not installed\n"
    f"For a driver of CUDA 12: {install('cuda12')}. For one of CUDA 13: {install('cuda13')}."
)
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from "
    "http://www.nvidia.com/Download/index.aspx\n"
    "None of {drivers} could be loaded. On Ubuntu: sudo ubuntu-drivers install. Without a GPU use device='cpu'."
)
NO_DEVICE = (
    "No CUDA GPUs are available\nThe driver is there and shows no device ({said}); CUDA_VISIBLE_DEVICES is {visible}. "
    "nvidia-smi -L lists what the machine has; unset CUDA_VISIBLE_DEVICES shows all of it."
)


class Presence(NamedTuple):
    """Version or name of what was found, or None; and the error message if something is missing."""

    extra: str | None
    driver: str | None
    device: str | None
    missing: str | None


def simulated() -> bool:
    """Whether Numba's simulator replaces the GPU, as in tests."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def look() -> Presence:
    """Look for the extra, the driver and a device, up to the first that is missing."""
    if simulated():
        return Presence("Numba's simulator", "none", "simulator", None)
    extra = _extra()
    if extra is None:
        return Presence(None, None, None, NO_EXTRA)
    driver, library = _driver()
    if library is None:
        return Presence(extra, None, None, NO_DRIVER.format(drivers=", ".join(DRIVERS)))
    device, said = _device(library)
    if device is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = "not set" if visible is None else repr(visible)
        return Presence(extra, driver, None, NO_DEVICE.format(said=said, visible=visible))
    return Presence(extra, driver, device, None)


def require() -> None:
    """Raise RuntimeError if something is missing, with how to fix it."""
    missing = look().missing
    if missing is not None:
        raise RuntimeError(missing)


def _extra() -> str | None:
    if importlib.util.find_spec("numba_cuda") is None:
        return None
    try:
        return f"numba-cuda {version('numba-cuda')}"
    except PackageNotFoundError:
        return "numba-cuda"


def _driver() -> tuple[str | None, ctypes.CDLL | None]:
    for name in DRIVERS:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        number = ctypes.c_int(0)
        library.cuDriverGetVersion(ctypes.byref(number))
        return f"CUDA {number.value // 1000}.{number.value % 1000 // 10}", library
    return None, None


def _device(library: ctypes.CDLL) -> tuple[str | None, str]:
    """The name of the first device, or None with the driver's status."""
    count, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    status = library.cuInit(0)
    if status == 0:
        status = library.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return None, f"its status is {status}"
    library.cuDeviceGetName(name, ctypes.c_int(len(name)), ctypes.c_int(0))
    return name.value.decode(errors="replace"), ""
