"""Objects of compiled kernels in the user's cache folder.

A cached object runs as code, so it is used only from a directory that belongs to this
user and that nobody else can write to, and only with its checksum.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from importlib import metadata
from pathlib import Path

from . import sources
from .levels import Level

MAGIC = b"numlstm object 1\n"
log = logging.getLogger("numlstm")


def cache_folder() -> Path:
    """Where objects are cached: NUMLSTM_CACHE_DIR, or numlstm in the user's cache folder.

    Raises
    ------
    OSError
        If there is no home folder to put it in.
    """
    if given := os.environ.get("NUMLSTM_CACHE_DIR"):
        return Path(given)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "numlstm"
    try:
        return Path.home() / ".cache" / "numlstm"
    except RuntimeError as error:
        raise OSError(str(error)) from None


def fingerprint(number: str, level: Level) -> str:
    """A hash of all that decides the object: sources, compiler versions, level and number type."""
    digest = hashlib.sha256(f"{number} {level!r}".encode())
    for package in ("numba", "llvmlite"):
        digest.update(metadata.version(package).encode())
    for name in sources.deciding():
        digest.update(name.encode() + Path(sources.FOLDER, name).read_bytes())
    return digest.hexdigest()[:24]


def file_name(number: str, level: Level) -> str:
    """What the object of a number type and level is called."""
    return f"{number}-{level.name}-{fingerprint(number, level)}.o"


def _trusted(path: Path, folder: bool = False) -> None:
    """Refuse what another user could have written, and what is no file to read."""
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        raise OSError(f"{path} is a symbolic link")
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(facts.st_mode):
        raise OSError(f"{path} is not a {'folder' if folder else 'file'}")
    if not hasattr(os, "geteuid"):  # Windows: a mode says nothing there, and a user's folder is the user's own
        return
    if facts.st_uid != os.geteuid():
        raise OSError(f"{path} belongs to another user")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"others can write to {path}")


def read(path: Path) -> bytes | None:
    """The cached object, or None where there is no sound one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _trusted(path.parent, folder=True)
    try:
        _trusted(path)
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    code = content[len(MAGIC) + 32 :]
    if content[: len(MAGIC)] != MAGIC or content[len(MAGIC) : len(MAGIC) + 32] != hashlib.sha256(code).digest():
        log.warning("numlstm: the cached kernels in %s are damaged and are built again", path)
        return None
    return code


def write(path: Path, code: bytes) -> None:
    """Write to a temporary name and move, so that no other process sees half a file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(MAGIC + hashlib.sha256(code).digest() + code)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
