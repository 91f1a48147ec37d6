"""Link a shared library by an installed compiler: the system's for the host, ``ziglang`` for any target.

And a module of WebAssembly, by LLVM's linker.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from numlstm.base.requirements import install
from numlstm.export.targets import Target
from numlstm.kernels.loading.levels import host

# Microsoft's C library has this function. LLVM calls it for a frame larger than a page, with the size in rax: Windows
# gives a thread another page of stack when the one above it is touched. It changes no register but r10 and r11.
TOUCH_STACK = b"""
.globl __chkstk
__chkstk:
    leaq 8(%rsp), %r10
    movq %rax, %r11
1:  cmpq $4096, %r11
    jbe 2f
    subq $4096, %r10
    testq %r10, (%r10)
    subq $4096, %r11
    jmp 1b
2:  subq %r11, %r10
    testq %r10, (%r10)
    retq
"""
ZIG = {  # zig's names of the targets, with the oldest macOS
    "x86_64-linux": "x86_64-linux-gnu",
    "aarch64-linux": "aarch64-linux-gnu",
    "aarch64-macos": "aarch64-macos.11.0",
    "x86_64-macos": "x86_64-macos.10.13",
    "x86_64-windows": "x86_64-windows-gnu",
}


def zig(target: Target) -> list[str]:
    """The command of the package ziglang, which links for any target."""
    return [sys.executable, "-m", "ziglang", "cc", "-target", ZIG[target.name], "-shared"]


def find(target: Target) -> list[str]:
    """The command that links a shared library for a target, without file names.

    For the host that is ``CC`` if it is set. Then come the usual names of compilers, then ``ziglang``.

    Raises
    ------
    RuntimeError
        There is no such compiler.
    """
    if target.name == "wasm32":
        return _web_linker()
    names = [f"{target.name}-gnu-gcc"] if target.name.endswith("linux") else []
    if target.name == host():
        if own := os.environ.get("CC"):
            return [*shlex.split(own), "-shared"]
        names = ["cc", "gcc", "clang", *names]
    for name in names:
        if path := shutil.which(name):
            return [path, "-shared"]
    if importlib.util.find_spec("ziglang") is not None:
        return zig(target)
    tried = ", ".join([*names, f"ziglang ({install('link')})"])
    raise RuntimeError(
        f"there is no linker for a shared library for {target.name}; {tried} would do. "
        "The static library needs none: leave out --shared"
    )


def _web_linker() -> list[str]:
    """The command of LLVM's linker for WebAssembly."""
    if path := shutil.which("wasm-ld"):
        return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "wasm-ld"]
    raise RuntimeError(f"there is no linker for WebAssembly; wasm-ld of LLVM or ziglang ({install('link')}) would do")


def web(command: list[str], objects: Mapping[str, bytes], exported: Iterable[str]) -> bytes:
    """The WebAssembly module of these objects: its memory, these functions, and nothing imported.

    Raises
    ------
    RuntimeError
        The linker failed; with its message.
    """
    exports = [f"--export={name}" for name in ("__heap_base", *exported)]
    return _linked([*command, "--no-entry", "--strip-debug", "-O3", *exports], objects, "numlstm.wasm")


def shared(command: list[str], objects: Mapping[str, bytes], name: str) -> bytes:
    """The shared library of these objects. It depends on no other library.

    Raises
    ------
    RuntimeError
        The linker failed; with its message.
    """
    extra = [f"-Wl,-install_name,@rpath/{name}"] if name.endswith(".dylib") else []
    if name.endswith(".dll"):
        extra = ["-Wl,--no-entry"]  # nothing runs when it is loaded
        objects = {**objects, "chkstk.s": TOUCH_STACK}
    if name.endswith(".so"):
        extra = [f"-Wl,-soname,{name}", "-Wl,-z,noexecstack"]
    return _linked([*command, "-nostdlib", *extra], objects, name)


def _linked(command: list[str], objects: Mapping[str, bytes], name: str) -> bytes:
    """What a linker makes of these objects."""
    with tempfile.TemporaryDirectory() as folder:
        for member, code in objects.items():
            Path(folder, member).write_bytes(code)
        out = Path(folder, name)
        line = [*command, "-o", str(out), *objects]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not out.exists():
            said = (done.stderr or done.stdout).strip()[-500:]
            raise RuntimeError(f"{shlex.join(command)} could not link {name}: {said}")
        return out.read_bytes()
