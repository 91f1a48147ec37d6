"""The targets of exported libraries: their names, LLVM's triples, and their levels."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from numlstm.kernels.loading.levels import LEVELS, Level

X86, ARM = ("x86-64-v3", "x86-64-v4", "x86-64"), ("aarch64",)  # the first is the default
# WebAssembly with 128-bit SIMD, which has no fused multiply-add; and with relaxed SIMD, where engines have one
_WASM = "wasm32-unknown-unknown"
WEB = Level("wasm32", _WASM, "generic", "+simd128,+bulk-memory", 16, 16, fused=False, pause=())
WEB_RELAXED = WEB._replace(name="wasm32-relaxed", features=f"{WEB.features},+relaxed-simd", fused=True)


@dataclass(frozen=True)
class Target:
    """A CPU and a system. ``static`` and ``shared`` are patterns of the names of libraries, if there are such."""

    name: str
    triple: str
    levels: tuple[str, ...]
    static: str
    shared: str
    cpu: str = ""  # LLVM's name of the oldest CPU, if it is newer than the level's

    def level(self, name: str | None = None) -> Level:
        """The level of that name for this target.

        Raises
        ------
        ValueError
            The target has no such level.
        """
        if name is None:
            name = self.levels[0]
        if name not in self.levels:
            raise ValueError(f"{self.name} has no level {name!r}; it has {', '.join(self.levels)}")
        level = (LEVELS | {WEB.name: WEB})[name]
        return level._replace(triple=self.triple, cpu=self.cpu or level.cpu)


UNIX, MAC = ("lib{}.a", "lib{}.so"), ("lib{}.a", "lib{}.dylib")
TARGETS = {
    target.name: target
    for target in (
        Target("x86_64-linux", "x86_64-unknown-linux-gnu", X86, *UNIX),
        Target("aarch64-linux", "aarch64-unknown-linux-gnu", ARM, *UNIX),
        Target("aarch64-macos", "arm64-apple-macosx11.0.0", ARM, *MAC, cpu="apple-m1"),
        Target("x86_64-macos", "x86_64-apple-macosx10.13.0", X86, *MAC),
        Target("x86_64-windows", "x86_64-pc-windows-msvc", X86, "{}.lib", "{}.dll"),
        Target("wasm32", _WASM, (WEB.name,), "", "{}.wasm"),
    )
}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_SYSTEMS = {"darwin": "macos"}


def host() -> str:
    """The name for the CPU and system of this process; it need not be a target."""
    machine, system = platform.machine().lower(), platform.system().lower()
    return f"{_MACHINES.get(machine, machine)}-{_SYSTEMS.get(system, system)}"


def find(name: str) -> Target:
    """The target of that name; "host" is the one that this process runs on.

    Raises
    ------
    ValueError
        There is no such target.
    """
    wanted = host() if name == "host" else name
    if wanted not in TARGETS:
        said = f"{name!r} (here {wanted})" if name == "host" else repr(name)
        raise ValueError(f"there is no target {said}; there are host, {', '.join(TARGETS)}")
    return TARGETS[wanted]
