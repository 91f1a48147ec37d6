"""Kernels that came with the package: shared libraries that ctypes alone loads, without Numba and without llvmlite.

The build of a wheel puts them into the folder ``shipped``, one for each number type and level. Their names hold a
checksum of the sources that they were built from and one of their own content. One that was built from other sources,
as in a checkout whose kernels were edited, is not used, nor one that is damaged. The names begin with ``lib`` because
tools that bundle applications collect such files as libraries.
"""

from __future__ import annotations

import ctypes
import os
import sys
import zlib

from . import fingerprint
from .entry_points import ENTRIES, Kernel, callable_kernel
from .levels import Level

FOLDER = os.path.join(fingerprint.FOLDER, "shipped")
PREFIX, SUFFIX = "libnumlstm-", ".so"


class Unfit(Exception):
    """Why no shipped library can be used, for the log."""


def checksum(library: bytes) -> str:
    """What the name of a library says of its content. It stands in no file, where ``strip`` would remove it."""
    return f"{zlib.crc32(library):08x}"


def file_name(number: str, level: Level, source: str, check: str) -> str:
    """What the library of a number type and level is called: built from sources of this name, with this checksum."""
    return f"{PREFIX}{number}-{level.name}-{source}-{check}{SUFFIX}"


def find(number: str, level: Level, folder: str = FOLDER) -> tuple[str, bytes]:
    """The path of the library that fits, and its content.

    Raises
    ------
    Unfit
        With the reason, where none does.
    """
    if not sys.platform.startswith("linux"):
        raise Unfit(f"none are shipped for {sys.platform}")
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
        source = fingerprint.name(level)
        fits = {check: path for (of, check), path in alike.items() if source in (None, of)}
        for check, path in fits.items():
            if checksum(content := fingerprint.read(path)) == check:
                return path, content
    except OSError as error:
        raise Unfit(str(error)) from None
    if not fits:
        raise Unfit("those that came with this installation were built from other sources")
    # half a library would not be refused by the system but end the process
    raise Unfit(f"{', '.join(fits.values())} is damaged")


def load(number: str, level: Level, begun: float) -> Kernel:
    """The kernel from its shipped library; `Unfit` where there is none to use."""
    path, content = find(number, level)
    try:
        library = ctypes.CDLL(path) if os.path.isfile(path) else _from_archive(os.path.basename(path), content)
        address = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in ENTRIES}
    except (OSError, AttributeError) as error:
        raise Unfit(f"the system does not load one: {error}") from None
    return callable_kernel(address, level, f"shipped: {path}", begun, library)


def _from_archive(name: str, content: bytes) -> ctypes.CDLL:
    """A library that stands in a zip archive: the system loads files alone, so it is one of this user's meanwhile."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="numlstm-") as folder:
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(content)
        return ctypes.CDLL(path)
