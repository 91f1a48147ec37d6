"""Kernels that came with the package: shared libraries that ctypes alone loads, without Numba and without llvmlite.

The build of a wheel puts them into the folder ``shipped``, one for each number type and level, and names
them by the sources that they were built from. One that was built from other sources, as in a checkout whose kernels
were edited, is not used, nor one that is damaged.
"""

from __future__ import annotations

import ctypes
import os
import sys
import zlib

from . import sources
from .levels import Level
from .loaded import ENTRIES, Kernel, callable_kernel

FOLDER = os.path.join(sources.FOLDER, "shipped")
SEAL = b"numlstm library 1\n"  # ends a library, after a checksum of all before it


class Unfit(Exception):
    """Why no shipped library can be used, for the log."""


def file_name(number: str, level: Level, source: str) -> str:
    """What the library of a number type and level is called that was built from sources of this name."""
    return f"{number}-{level.name}-{source}.so"


def sealed(library: bytes) -> bytes:
    """A library with the seal that says that it is whole. What follows an ELF file's last section is no part of it."""
    return library + zlib.crc32(library).to_bytes(4, "little") + SEAL


def find(number: str, level: Level, folder: str = FOLDER) -> str:
    """The path of the library that fits.

    Raises
    ------
    Unfit
        With the reason, where none does.
    """
    if not sys.platform.startswith("linux"):
        raise Unfit(f"none are shipped for {sys.platform}")
    try:
        there = os.listdir(folder)
    except OSError:
        raise Unfit("none came with this installation") from None
    start = file_name(number, level, "").removesuffix(".so")
    alike = [name for name in there if name.startswith(start) and name.endswith(".so")]
    alike = [name for name in alike if "-" not in name[len(start) :]]  # x86-64 begins the names of x86-64-v3 too
    if not alike:
        raise Unfit(f"none came with this installation for {level.name}")
    try:
        source = sources.name(level)
    except OSError as error:
        raise Unfit(f"the kernels' sources cannot be read: {error}") from None
    fits = file_name(number, level, source) if source is not None else alike[0]
    if fits not in alike:
        raise Unfit("those that came with this installation were built from other sources")
    path = os.path.join(folder, fits)
    _check_whole(path)
    return path


def _check_whole(path: str) -> None:
    """Half a library would not be refused by the system but end the process."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise Unfit(str(error)) from None
    end = len(content) - len(SEAL) - 4
    if content[end + 4 :] != SEAL or content[end : end + 4] != zlib.crc32(content[:end]).to_bytes(4, "little"):
        raise Unfit(f"{path} is damaged")


def load(number: str, level: Level, begun: float) -> Kernel:
    """The kernel from its shipped library; `Unfit` where there is none to use."""
    path = find(number, level)
    try:
        library = ctypes.CDLL(path)
        address = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in ENTRIES}
    except (OSError, AttributeError) as error:
        raise Unfit(f"the system does not load one: {error}") from None
    return callable_kernel(address, level, f"shipped: {path}", begun, library)
