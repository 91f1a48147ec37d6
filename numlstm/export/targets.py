"""The targets of exported libraries: their names, LLVM's triples, and their levels."""

from __future__ import annotations

from dataclasses import dataclass

from numlstm.kernels.loading.levels import LEVELS, SYSTEMS, Level, host, on

X86, ARM = ("x86-64-v3", "x86-64-v4", "x86-64"), ("aarch64",)  # the first is the default
# WebAssembly with 128-bit SIMD, which has no fused multiply-add; and with relaxed SIMD, where engines have one
WEB = Level("wasm32", SYSTEMS["wasm32"].triple, "generic", "+simd128,+bulk-memory", 16, 16, fused=False, pause=())
WEB_RELAXED = WEB._replace(name="wasm32-relaxed", features=f"{WEB.features},+relaxed-simd", fused=True)


@dataclass(frozen=True)
class Target:
    """A CPU and a system. ``static`` and ``shared`` are patterns of the names of libraries, if there are such."""

    name: str
    levels: tuple[str, ...]
    static: str
    shared: str

    @property
    def triple(self) -> str:
        """LLVM's name of it."""
        return SYSTEMS[self.name].triple

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
        return on((LEVELS | {WEB.name: WEB})[name], self.name)


UNIX, MAC = ("lib{}.a", "lib{}.so"), ("lib{}.a", "lib{}.dylib")
TARGETS = {
    target.name: target
    for target in (
        Target("x86_64-linux", X86, *UNIX),
        Target("aarch64-linux", ARM, *UNIX),
        Target("aarch64-macos", ARM, *MAC),
        Target("x86_64-macos", X86, *MAC),
        Target("x86_64-windows", X86, "{}.lib", "{}.dll"),
        Target("wasm32", (WEB.name,), "", "{}.wasm"),
    )
}


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
