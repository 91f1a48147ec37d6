"""Kernels in the wheel: shared libraries that ctypes loads, without Numba and llvmlite.

The folder ``shipped`` has one for each number type and level. Its name holds a checksum of its sources and one of its
content, so that a library is not used if it is damaged or the kernels were edited since. The names begin with ``lib``
because tools that bundle applications collect such files as libraries.
"""

from __future__ import annotations

import ctypes
import os
import sys
import zlib

from . import fingerprint
from .entry_points import ENTRIES, TRAINING_ENTRIES, Kernel, TrainingKernel, callable_kernel, callable_training
from .levels import Level

FOLDER = os.path.join(fingerprint.FOLDER, "shipped")
PREFIX, SUFFIXES = "libnumlstm-", {"win32": ".dll", "darwin": ".dylib"}
SUFFIX = SUFFIXES.get(sys.platform, ".so")


class Unfit(Exception):
    """No shipped library can be used; the message is for the log."""


def checksum(library: bytes) -> str:
    """The checksum of a library's content, for its name: ``strip`` would remove it from the file."""
    return f"{zlib.crc32(library):08x}"


def file_name(number: str, level: Level, source: str, check: str, suffix: str = SUFFIX) -> str:
    """The file name of the library for a number type and level, with the name of its sources and its checksum."""
    return f"{PREFIX}{number}-{level.name}-{source}-{check}{suffix}"


def find(number: str, level: Level, folder: str = FOLDER) -> tuple[str, bytes]:
    """The path and the content of the library to use.

    Raises
    ------
    Unfit
        There is none.
    """
    try:
        there = fingerprint.listed(folder)
    except OSError:
        raise Unfit("none came with this installation") from None
    alike = {}  # file names by the checksums in them
    for name in sorted(there):
        if name.startswith(PREFIX) and name.endswith(SUFFIX):
            kind, *checks = name.removeprefix(PREFIX).removesuffix(SUFFIX).rsplit("-", 2)
            if kind == f"{number}-{level.name}":
                alike[tuple(checks)] = os.path.join(folder, name)
    if not alike:
        raise Unfit(f"none came with this installation for {level.name}")
    try:
        source = fingerprint.name(level, training=fingerprint.of_training(number))
        fits = {check: path for (of, check), path in alike.items() if source in (None, of)}
        for check, path in fits.items():
            if checksum(content := fingerprint.read(path)) == check:
                return path, content
    except OSError as error:
        raise Unfit(str(error)) from None
    if not fits:
        raise Unfit("those that came with this installation were built from other sources")
    # loading half a library would end the process
    raise Unfit(f"{', '.join(fits.values())} is damaged")


def load(number: str, level: Level, begun: float) -> Kernel | TrainingKernel:
    """The kernel from its shipped library. Raises `Unfit` if there is none."""
    path, content = find(number, level)
    entries = TRAINING_ENTRIES if fingerprint.of_training(number) else ENTRIES
    try:
        library = ctypes.CDLL(path) if os.path.isfile(path) else _from_archive(os.path.basename(path), content)
        address = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in entries}
    except (OSError, AttributeError) as error:
        raise Unfit(f"the system does not load one: {error}") from None
    make = callable_training if fingerprint.of_training(number) else callable_kernel
    return make(address, level, f"shipped: {path}", begun, library)


def _from_archive(name: str, content: bytes) -> ctypes.CDLL:
    """Load a library that is inside a zip archive, by way of a temporary file."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="numlstm-", ignore_cleanup_errors=True) as folder:  # Windows keeps a loaded file
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(content)
        return ctypes.CDLL(path)
