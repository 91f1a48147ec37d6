"""Build the shared libraries that a wheel ships."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from . import fingerprint, prebuilt
from .levels import LEVELS, Level, this_machine

SHIPPED = tuple(LEVELS[name] for name in ("x86-64-v3", "x86-64-v4"))  # others are built at first use
NUMBERS = "float32", "float64", "bfloat16", "float32-training", "float64-training"
LINKERS = "ld", "ld.lld"
# needs no C library and has no undefined names: it loads under any C library, and its bytes are reproducible
OPTIONS = ["-shared", "-s", "--build-id=none", "--hash-style=both", "-z", "defs", "-z", "noexecstack", "-z", "relro"]


def linker() -> list[str] | None:
    """The command of a linker that knows `OPTIONS`: the system's or that of the package ziglang, else None."""
    for name in LINKERS:
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "ld.lld"]
    return None


def linked(code: bytes, command: list[str]) -> bytes:
    """The shared library of an object.

    Raises
    ------
    RuntimeError
        The linker failed; with its message.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        given.write_bytes(code)
        try:
            subprocess.run([*command, *OPTIONS, "-o", made, given], capture_output=True, text=True, check=True)
            return made.read_bytes()
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{' '.join(command)} does not link the kernels: {error.stderr.strip()}") from None
        except OSError as error:
            raise RuntimeError(f"{' '.join(command)} does not link the kernels: {error}") from None


def build(number: str, level: Level, folder: Path) -> Path:
    """Build the library of one number type and level into a folder."""
    from .build import object_code

    command = linker()
    if command is None:
        raise RuntimeError("kernels are not linked without a linker: binutils, LLVM's lld or the package ziglang")
    return place(number, level, linked(object_code(number, level), command), folder)


def place(number: str, level: Level, library: bytes, folder: Path) -> Path:
    """Write a library into a folder under the name that `prebuilt` looks for."""
    source = fingerprint.name(level, training=fingerprint.of_training(number))
    if source is None:
        raise RuntimeError("kernels are not built without their sources")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / prebuilt.file_name(number, level, source, prebuilt.checksum(library))
    path.write_bytes(library)
    return path


def copy_of_package(folder: Path) -> Path:
    """Copy this package to another folder, without its shipped libraries."""
    package = folder / "numlstm"
    shutil.copytree(Path(fingerprint.FOLDER).parent, package, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    return package


def wanted() -> tuple[Level, ...]:
    """The levels that a wheel ships: those in NUMLSTM_BUILD_LEVELS ("native" is this machine's), or `SHIPPED`.

    Raises
    ------
    ValueError
        It names an unknown level.
    """
    names = [name.strip() for name in os.environ.get("NUMLSTM_BUILD_LEVELS", "").split(",") if name.strip()]
    if unknown := [name for name in names if name != "native" and name not in LEVELS]:
        raise ValueError(
            f"NUMLSTM_BUILD_LEVELS names {', '.join(map(repr, unknown))}; it may name {', '.join(LEVELS)}, or native, "
            "with commas between"
        )
    return tuple(dict.fromkeys(this_machine() if name == "native" else LEVELS[name] for name in names)) or SHIPPED


def build_all(folder: Path) -> None:
    """Build all libraries of a wheel, on all cores."""
    levels = wanted()
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 4), get_context("spawn")) as pool:
        for made in [pool.submit(build, number, level, folder) for level in levels for number in NUMBERS]:
            print(made.result().name)


if __name__ == "__main__":
    build_all(Path(sys.argv[1]))
