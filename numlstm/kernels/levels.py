"""The kinds of CPU that kernels are built for, and which of them this machine is."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

# The features that make a level, as the kernel of the operating system spells them
_V3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True)
class Level:
    """One kind of CPU.

    ``register_bytes`` and ``registers`` are those the kernels use; ``fused`` says whether there is a
    fused multiply-add: without one the results are other bits. ``pause`` is what
    a loop that waits tells the core: an intrinsic of LLVM's, and its arguments.
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
        """Numbers of the type "float32" or "float64" in a register."""
        return self.register_bytes // {"float32": 4, "float64": 8}[number]


X86_PAUSE, ARM_PAUSE = ("llvm.x86.sse2.pause",), ("llvm.aarch64.isb", 15)
LEVELS = {
    level.name: level
    for level in (
        Level("x86-64-v4", "x86_64-unknown-linux-gnu", "x86-64-v4", "", 64, 32, fused=True, pause=X86_PAUSE),
        Level("x86-64-v3", "x86_64-unknown-linux-gnu", "x86-64-v3", "", 32, 16, fused=True, pause=X86_PAUSE),
        Level("x86-64", "x86_64-unknown-linux-gnu", "x86-64", "", 16, 16, fused=False, pause=X86_PAUSE),
        Level(
            "aarch64",
            "aarch64-unknown-linux-gnu",
            "generic",
            "+neon",
            16,
            32,
            fused=True,
            pause=ARM_PAUSE,
        ),
    )
}


def _x86_flags() -> set[str]:
    """CPU features as /proc/cpuinfo names them; LLVM is asked where there is no such file."""
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    import llvmlite.binding as llvm

    renamed = {"bmi": "bmi1", "lzcnt": "abm"}
    return {renamed.get(name, name) for name, there in llvm.get_host_cpu_features().items() if there}


def this_machine() -> Level:
    """The highest level that this CPU has, or the one that the environment variable NUMLSTM_CPU names.

    Raises
    ------
    RuntimeError
        For an unknown name in NUMLSTM_CPU, one that this CPU lacks, or a CPU that there are no kernels for.
    """
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        flags = _x86_flags()
        able = [name for name, needs in (("x86-64-v4", _V4), ("x86-64-v3", _V3), ("x86-64", set())) if needs <= flags]
    elif machine in ("aarch64", "arm64"):
        able = ["aarch64"]
    else:
        raise RuntimeError(f"there are no kernels for the CPU {machine!r}; there are some for {', '.join(LEVELS)}")
    asked = os.environ.get("NUMLSTM_CPU") or able[0]
    if asked not in able:
        raise RuntimeError(
            f"NUMLSTM_CPU={asked!r} is not a level that this CPU has; it has {', '.join(able)}. "
            "Unset NUMLSTM_CPU to let numlstm choose."
        )
    return LEVELS[asked]
