"""Build the shared libraries that a wheel ships, for this system or another one."""

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

from numlstm.export import link, targets
from numlstm.export.targets import Target
from numlstm.kernels.loading import fingerprint, prebuilt
from numlstm.kernels.loading.entry_points import ENTRIES, TRAINING_ENTRIES
from numlstm.kernels.loading.levels import Level, host, this_machine

SHIPPED = {"x86_64": ("x86-64-v3", "x86-64-v4"), "aarch64": ("aarch64",)}  # others are built at first use
NUMBERS = "float32", "float64", "bfloat16", "int8", "float32-training", "float64-training"
LINKERS = "ld", "ld.lld"  # the first is for this machine alone
# needs no C library and has no undefined names: it loads under any C library, and its bytes are reproducible
OPTIONS = ["-shared", "-s", "--build-id=none", "--hash-style=both", "-z", "defs", "-z", "noexecstack", "-z", "relro"]


def linker(target: Target) -> list[str] | None:
    """The command that links for a target, without file names: the system's for Linux, else that of the package
    ziglang; None if there is neither.
    """
    is_linux = target.name.endswith("linux")
    for name in LINKERS if target.name == host() else LINKERS[1:]:
        if is_linux and (path := shutil.which(name)):
            return [path, *OPTIONS]
    if importlib.util.find_spec("ziglang") is None:
        return None
    return [sys.executable, "-m", "ziglang", "ld.lld", *OPTIONS] if is_linux else [*link.zig(target), "-s"]


def linked(number: str, code: bytes, target: Target, command: list[str]) -> bytes:
    """The shared library of an object.

    Raises
    ------
    RuntimeError
        The linker failed; with its message.
    """
    name = target.shared.format("kernels")
    objects = {"kernels.o": code}
    if name.endswith(".dll"):  # without a list it exports every constant as well
        entries = TRAINING_ENTRIES if fingerprint.of_training(number) else ENTRIES
        objects["kernels.def"] = "\n".join(["EXPORTS", *entries]).encode()
    if not name.endswith(".so"):
        return link.shared(command, objects, name)
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "kernels.o"), Path(folder, name)
        given.write_bytes(code)
        try:
            subprocess.run([*command, "-o", made, given], capture_output=True, text=True, check=True)
            return made.read_bytes()
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{' '.join(command)} does not link the kernels: {error.stderr.strip()}") from None
        except OSError as error:
            raise RuntimeError(f"{' '.join(command)} does not link the kernels: {error}") from None


def build(number: str, level: Level, target: Target, folder: Path) -> Path:
    """Build the library of one number type and level into a folder."""
    from numlstm.kernels.loading.build import object_code

    command = linker(target)
    if command is None:
        raise RuntimeError("kernels are not linked without a linker: binutils, LLVM's lld or the package ziglang")
    return place(number, level, linked(number, object_code(number, level), target, command), target, folder)


def place(number: str, level: Level, library: bytes, target: Target, folder: Path) -> Path:
    """Write a library into a folder under the name that `prebuilt` looks for."""
    source = fingerprint.name(level, training=fingerprint.of_training(number))
    if source is None:
        raise RuntimeError("kernels are not built without their sources")
    folder.mkdir(parents=True, exist_ok=True)
    suffix = Path(target.shared).suffix
    path = folder / prebuilt.file_name(number, level, source, prebuilt.checksum(library), suffix)
    path.write_bytes(library)
    return path


def copy_of_package(folder: Path) -> Path:
    """Copy this package to another folder, without its shipped libraries."""
    package = folder / "numlstm"
    shutil.copytree(Path(fingerprint.FOLDER).parent, package, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    return package


def wanted(target: Target) -> tuple[Level, ...]:
    """The levels that a wheel ships: those in NUMLSTM_BUILD_LEVELS ("native" is this machine's), or `SHIPPED`.

    Raises
    ------
    ValueError
        It names an unknown level, or one that the target does not have.
    """
    names = [name.strip() for name in os.environ.get("NUMLSTM_BUILD_LEVELS", "").split(",") if name.strip()]
    names = [this_machine().name if name == "native" else name for name in names]
    if unknown := [name for name in names if name not in target.levels]:
        raise ValueError(
            f"NUMLSTM_BUILD_LEVELS names {', '.join(map(repr, unknown))}; for {target.name} it may name "
            f"{', '.join(target.levels)}, or native, with commas between"
        )
    return tuple(target.level(name) for name in dict.fromkeys(names or SHIPPED[target.name.partition("-")[0]]))


def build_all(folder: Path, target: Target) -> None:
    """Build all libraries of a wheel, on all cores."""
    levels = wanted(target)
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 4), get_context("spawn")) as pool:
        built = [(number, level.of(number)) for level in levels for number in NUMBERS]
        for made in [pool.submit(build, *each, target, folder) for each in built]:
            print(made.result().name)


if __name__ == "__main__":
    build_all(Path(sys.argv[1]), targets.find(sys.argv[2]))
