"""Objects of compiled kernels in the user's cache folder.

A cached object runs as code. It is used only from a folder of this user that nobody else can write to or replace, and
only if its checksum is right and it still has the name that it was written under.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path

from numlstm.base import atomic
from numlstm.base.log import lengthy, log

from . import fingerprint as kernel_sources
from .levels import Level

MAGIC = b"numlstm object 2\n"  # then the object's name, a newline, the checksum of name and code, and the code
UNKEPT = "compiled for this process alone"  # begins the origin of an object that no later process will find
PATIENCE = 120.0  # seconds for which a process waits while another compiles, before it does so itself


def cache_folder() -> Path:
    """The real path of the cache: NUMLSTM_CACHE_DIR, or numlstm in the user's cache folder.

    Raises
    ------
    OSError
        If there is no home folder to put it in.
    """
    if given := os.environ.get("NUMLSTM_CACHE_DIR"):
        return Path(os.path.realpath(given))
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(os.path.realpath(os.path.join(base, "numlstm")))
    try:
        return Path(os.path.realpath(Path.home() / ".cache" / "numlstm"))
    except RuntimeError as error:
        raise OSError(str(error)) from None


def fingerprint(number: str, level: Level) -> str:
    """A hash of all that the object depends on: sources or else bytecode, compilers, level and number type.

    Raises
    ------
    OSError
        If neither sources nor bytecode can be read, as in some bundled applications.
    """
    digest, training = hashlib.sha256(f"{number} {level!r}".encode()), kernel_sources.of_training(number)
    for package in ("numba", "llvmlite"):
        digest.update(metadata.version(package).encode())
    names = kernel_sources.deciding(training=training) or kernel_sources.deciding(ending=".pyc", training=training)
    if not names:
        raise FileNotFoundError(
            f"the kernels' sources are not in {kernel_sources.FOLDER}, and other versions have other kernels"
        )
    for name in names:
        digest.update(name.encode() + kernel_sources.read(os.path.join(kernel_sources.FOLDER, name)))
    return digest.hexdigest()[:24]


def file_name(number: str, level: Level) -> str:
    """The file name of the object for a number type and level."""
    return f"{number}-{level.name}-{fingerprint(number, level)}.o"


def _owners() -> set[int]:
    """The users that may own the folders above the cache: root and this user.

    In the user namespace of a container, root outside has the overflow number.
    """
    owners = {0, os.geteuid()}
    with suppress(OSError, ValueError):
        if Path("/proc/self/uid_map").read_text().split() != ["0", "0", str(2**32 - 1)]:
            owners.add(int(Path("/proc/sys/kernel/overflowuid").read_text()))
    return owners


def _check_above(folder: Path) -> None:
    """Refuse a folder in which another user could replace what we keep there."""
    facts = os.lstat(folder)
    if not stat.S_ISDIR(facts.st_mode):
        raise NotADirectoryError(f"{folder} is not a folder")
    if not hasattr(os, "geteuid"):
        return
    if facts.st_uid not in _owners():
        raise PermissionError(f"{folder} belongs to another user")
    # a group with the number of its user is that user's own: pam_umask follows the same custom
    own = facts.st_gid == os.getegid() == os.geteuid()
    others = stat.S_IWOTH if own else stat.S_IWOTH | stat.S_IWGRP
    if facts.st_mode & others and not facts.st_mode & stat.S_ISVTX:
        raise PermissionError(f"others can write to {folder}")


def _make_folder(folder: Path) -> None:
    """Make the cache folder and those above it, for this user alone as the XDG specification asks, and check them."""
    above = list(reversed(folder.parents))
    for place, below in zip(above, [*above[1:], folder], strict=True):
        _check_above(place)
        with suppress(FileExistsError):
            if not os.path.lexists(below):
                os.mkdir(below, 0o700)


def _check_own(path: Path, facts: os.stat_result, folder: bool = False) -> None:
    """Refuse what another user could have written, and what is not a regular file."""
    if stat.S_ISLNK(facts.st_mode):
        raise OSError(f"{path} is a symbolic link")
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(facts.st_mode):
        raise OSError(f"{path} is not a {'folder' if folder else 'file'}")
    if not hasattr(os, "geteuid"):  # Windows, where modes say nothing and a user's folder is private
        return
    if facts.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"others can write to {path}")


def _content(path: Path) -> bytes:
    """The content of a file of this user, checked before and after it is opened."""
    _check_own(path, path.lstat())
    # do not wait for a pipe that took its place meanwhile
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        _check_own(path, os.fstat(file.fileno()))
        return file.read()


def _seal(path: Path) -> bytes:
    """The name of an object as it is written into it: one that was renamed is refused."""
    return path.name.encode() + b"\n"


def sealed(path: Path, code: bytes) -> bytes:
    """The content of an object's file."""
    return MAGIC + _seal(path) + hashlib.sha256(_seal(path) + code).digest() + code


def read(path: Path) -> bytes | None:
    """The cached object, or None if there is none or it is damaged.

    Raises
    ------
    OSError
        No object can be kept safely; it says why.
    """
    _make_folder(path.parent)
    _check_own(path.parent, path.parent.lstat(), folder=True)
    try:
        content = _content(path)
    except FileNotFoundError:
        return None
    code = content[len(sealed(path, b"")) :]
    if content == sealed(path, code):
        return code
    log().warning("numlstm: the cached kernels in %s are damaged, or were built as others; they are built again", path)
    with suppress(OSError):
        path.unlink()
    return None


def write(path: Path, code: bytes) -> None:
    """Cache an object, for this user alone."""
    with atomic.replacing(path, 0o600) as file:
        file.write(sealed(path, code))


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Keep other processes from compiling the same object, for at most `PATIENCE` seconds.

    The system releases the lock of a process that dies. Without file locks nobody waits.
    """
    try:
        import fcntl

        handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except (ImportError, OSError) as error:
        log().debug("numlstm: no lock for %s: %s", path, error)
        yield
        return
    try:
        until, waits = time.monotonic() + PATIENCE, False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for left in path.parent.glob(f"*{atomic.PART}"):
                    if atomic.is_temporary(left.name, path.name):  # of a process that was killed as it wrote
                        with suppress(OSError):
                            left.unlink()
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    log().warning("numlstm: another process has been compiling %s for %.0f s", path, PATIENCE)
                    break
                if not waits:
                    lengthy("numlstm: waiting for another process, which is compiling the same kernels")
                waits = True
                time.sleep(0.05)
            except OSError as error:
                log().debug("numlstm: no lock for %s: %s", path, error)
                break
        yield
    finally:
        os.close(handle)


def obtain(name: Callable[[], str], make: Callable[[str], bytes]) -> tuple[bytes, str]:
    """An object from the cache, or else made and cached; and where it came from.

    Whatever goes wrong with the cache, the object is made, and the log says once why it is not kept. ``make`` is told
    how often it will be called: "once" or "for this process alone".
    """
    unkept: OSError | None = None
    with ExitStack() as held:
        try:
            path = cache_folder() / name()
            code = read(path)
            if code is None:
                held.enter_context(turn(path))
                code = read(path)  # which another process may have made by now
            if code is not None:
                return code, f"cache: {path}"
        except OSError as error:
            unkept = error
            log().warning("numlstm: kernels are not cached, since %s; they are compiled for this process alone", error)
        code = make("for this process alone" if unkept else "once")
        if unkept is None:
            try:
                write(path, code)
            except OSError as error:
                unkept = error
                log().warning("numlstm: compiled kernels cannot be cached, since %s", error)
    return code, f"{UNKEPT}: {unkept}" if unkept else f"compiled in this process, and cached: {path}"
