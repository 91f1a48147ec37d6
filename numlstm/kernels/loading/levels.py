"""The levels of CPUs that kernels are built for, and which of them this machine has."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Collection
from importlib import import_module
from typing import NamedTuple


class Leaf(NamedTuple):
    """One register that CPUID fills, and the features whose bits are there."""

    number: int  # as CPUID counts leaves
    library_number: int  # as GNU's C library counts them
    register: int  # EAX, EBX, ECX, EDX
    bits: dict[str, int]  # by the names of /proc/cpuinfo


# fmt: off
LEAVES = (
    Leaf(0x1, 0, 2, {"pni": 0, "ssse3": 9, "fma": 12, "cx16": 13, "sse4_1": 19, "sse4_2": 20, "movbe": 22,
                     "popcnt": 23, "avx": 28, "f16c": 29}),
    Leaf(0x7, 1, 1, {"bmi1": 3, "avx2": 5, "bmi2": 8, "avx512f": 16, "avx512dq": 17, "avx512cd": 28, "avx512bw": 30,
                     "avx512vl": 31}),
    Leaf(0x80000001, 2, 2, {"lahf_lm": 0, "abm": 5}),
    Leaf(0x7, 1, 2, {"avx512_vnni": 11}),
)
# fmt: on
VNNI = "x86-64-v4-vnni"  # the level of kernels with int8 weights on CPUs of x86-64-v4 that have it
_ALL = {name for leaf in LEAVES for name in leaf.bits}
_V4 = _ALL - {"avx512_vnni"}
# The features that make a level, by the x86-64 psABI
FEATURES = {
    VNNI: _ALL,
    "x86-64-v4": _V4,
    "x86-64-v3": {name for name in _V4 if not name.startswith("avx512")},
    "x86-64": set[str](),
}


class Level(NamedTuple):
    """A set of CPU features to build for.

    Kernels use ``registers`` SIMD registers of ``register_bytes``. ``fused`` says whether there is a fused
    multiply-add; without it results have other bits. ``pause`` is LLVM's intrinsic for a loop that waits, with its
    arguments.
    """

    name: str
    triple: str
    cpu: str
    features: str
    register_bytes: int
    registers: int
    fused: bool
    pause: tuple[str | int, ...]

    def lanes(self, number: str) -> int:
        """Numbers of this type in a register; with "bfloat16" or "int8" as weights it holds float32."""
        return self.register_bytes // (8 if number == "float64" else 4)

    def of(self, number: str, flags: Collection[str] = ("avx512_vnni",)) -> Level:
        """The level that kernels of this number type are built for, on a CPU with these features.

        With AVX-512 they need VNNI for int8 weights; without it AVX2 is the faster way.
        """
        if number.partition(",")[0] != "int8" or self.name != "x86-64-v4":
            return self
        level = LEVELS[VNNI if "avx512_vnni" in flags else "x86-64-v3"]
        return level._replace(triple=self.triple)


class System(NamedTuple):
    """A family of CPUs and an operating system, as LLVM names them."""

    triple: str
    cpu: str = ""  # the oldest CPU, if it is newer than the level's


SYSTEMS = {
    "x86_64-linux": System("x86_64-unknown-linux-gnu"),
    "aarch64-linux": System("aarch64-unknown-linux-gnu"),
    "aarch64-macos": System("arm64-apple-macosx11.0.0", "apple-m1"),
    "x86_64-macos": System("x86_64-apple-macosx10.13.0"),
    "x86_64-windows": System("x86_64-pc-windows-msvc"),
    "wasm32": System("wasm32-unknown-unknown"),
}
X86_PAUSE, ARM_PAUSE = ("llvm.x86.sse2.pause",), ("llvm.aarch64.isb", 15)
_X86, _ARM = (SYSTEMS[name].triple for name in ("x86_64-linux", "aarch64-linux"))
LEVELS = {  # as they are on Linux
    level.name: level
    for level in (
        Level(VNNI, _X86, "x86-64-v4", "+avx512vnni", 64, 32, fused=True, pause=X86_PAUSE),
        Level("x86-64-v4", _X86, "x86-64-v4", "", 64, 32, fused=True, pause=X86_PAUSE),
        Level("x86-64-v3", _X86, "x86-64-v3", "", 32, 16, fused=True, pause=X86_PAUSE),
        Level("x86-64", _X86, "x86-64", "", 16, 16, fused=False, pause=X86_PAUSE),
        Level("aarch64", _ARM, "generic", "+neon", 16, 32, fused=True, pause=ARM_PAUSE),
    )
}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_KERNELS = {"darwin": "macos"}


def host() -> str:
    """The name for the CPU and system of this process; it need not be one of ``SYSTEMS``."""
    machine, system = platform.machine().lower(), platform.system().lower()
    return f"{_MACHINES.get(machine, machine)}-{_KERNELS.get(system, system)}"


def on(level: Level, system: str) -> Level:
    """The level with the calling convention, the registers and the object format of a system."""
    its = SYSTEMS.get(system, System(level.triple))
    return level._replace(triple=its.triple, cpu=its.cpu or level.cpu)


def _c_library_flags() -> set[str] | None:
    """The CPU features that can be used, as GNU's C library reports them from version 2.33 on; else None.

    It asks the CPU itself. Under an emulator /proc/cpuinfo may describe another.
    """
    try:
        leaf = ctypes.CDLL(None)["__x86_get_cpuid_feature_leaf"]
    except (OSError, AttributeError, TypeError):
        return None
    leaf.argtypes, leaf.restype = (ctypes.c_uint,), ctypes.POINTER(ctypes.c_uint * 8)
    flags = set()
    for _, number, register, bits in LEAVES:
        active = leaf(number).contents[4 + register]  # four registers of what the CPU has, four of what can be used
        flags |= {name for name, bit in bits.items() if active >> bit & 1}
    return flags


def _file_flags() -> set[str] | None:
    """The CPU features in /proc/cpuinfo; None where there is no such file."""
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return None


def _numpy_flags() -> set[str]:
    """The features of the highest level that NumPy finds. It asks the CPU, and whether the system saves its registers.

    Before version 2.4 it does not tell of BMI, LZCNT and MOVBE, which every CPU with AVX2 and FMA has.
    """
    there: dict[str, bool] = import_module("numpy._core._multiarray_umath").__cpu_features__
    if not all(there.get(name) for name in ("AVX2", "FMA3", "F16C")):
        return set()
    return FEATURES["x86-64-v4" if there.get("AVX512_SKX") else "x86-64-v3"]


def _x86_flags() -> set[str]:
    """The CPU features by the names of /proc/cpuinfo: from the C library, that file, or NumPy."""
    for source in (_c_library_flags, _file_flags):
        if (told := source()) is not None:
            return told
    return _numpy_flags()


def supported() -> list[Level]:
    """The levels that this CPU has, highest first.

    Raises
    ------
    RuntimeError
        For a CPU that there are no kernels for.
    """
    machine = host().partition("-")[0]
    if machine == "x86_64":
        flags = _x86_flags()
        able = [name for name, needs in FEATURES.items() if needs <= flags and name != VNNI]
    elif machine == "aarch64":
        able = ["aarch64"]
    else:
        raise RuntimeError(f"there are no kernels for the CPU {machine!r}; there are some for {', '.join(LEVELS)}")
    return [on(LEVELS[name], host()) for name in able]


def x86_flags() -> set[str]:
    """The CPU features by the names of /proc/cpuinfo; none on another kind of CPU."""
    return _x86_flags() if host().startswith("x86_64-") else set()


def this_machine() -> Level:
    """The highest level that this CPU has, or the one that the environment variable NUMLSTM_CPU names.

    Raises
    ------
    RuntimeError
        For an unknown name in NUMLSTM_CPU, one that this CPU lacks, or a CPU that there are no kernels for.
    """
    able = {level.name: level for level in supported()}
    asked = os.environ.get("NUMLSTM_CPU") or next(iter(able))
    if asked not in able:
        raise RuntimeError(
            f"NUMLSTM_CPU={asked!r} is not a level that this CPU has; it has {', '.join(able)}. "
            "Unset NUMLSTM_CPU to let numlstm choose."
        )
    return able[asked]
