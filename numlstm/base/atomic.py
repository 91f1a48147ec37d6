"""Files that are written whole or not at all: under another name in the same folder, synced, then renamed."""

from __future__ import annotations

import errno
import io
import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from numlstm.base.typing import Path

FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}  # errors for lack of space
NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}  # errors of a file system that cannot sync
PART = ".part"  # suffix of a temporary file
LONGEST = 200  # most bytes of a file's name that its temporary file repeats; a name has at most 255


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write, which replaces `path` when the context ends without an error.

    On any failure `path` is unchanged. No reader sees half a file, and a power cut leaves the old file or the new one.
    Of a symbolic link, the target is replaced. A device or a pipe is written to, not replaced.

    Parameters
    ----------
    path : path
        The file to write or to replace.
    mode : int
        The file's mode, before the umask.

    Raises
    ------
    OSError
        The folder is missing or not writeable, the disk is full, or `path` is a directory.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a") as file:
    ...     _ = file.write(b"whole")
    >>> (folder / "a").read_bytes(), len(list(folder.iterdir()))
    (b'whole', 1)
    """
    path = pathlib.Path(path)
    ready(path)
    if path.exists() and not path.is_file():
        with _passing_through(path) as through:
            yield through
        return
    target = _resolved(path)
    temporary = _beside(target)
    # The second removal is for an interrupt in the first.
    with _removed(temporary), _removed(temporary), _renamed(temporary, target, path, mode) as file:
        yield file
    sync_folder(target.parent)


@contextmanager
def _passing_through(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A device or a pipe to write to."""
    try:
        with io.BufferedWriter(_Through(path, "wb")) as through:
            yield through
    except OSError as error:
        if error.errno in FULL:
            raise OSError(f"{path} cannot be written: {error.strerror}") from error
        raise


@contextmanager
def _renamed(temporary: pathlib.Path, target: pathlib.Path, path: pathlib.Path, mode: int) -> Iterator[BinaryIO]:
    """The temporary file to write, which is synced and renamed to `target` afterwards; messages name `path`."""
    try:
        # closed below; the kernel applies the umask to the mode
        file = open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
    except OSError as error:
        raise _unwritable(path, error) from error
    complete = False
    try:
        yield file
        complete = True
        file.flush()
        _sync(file.fileno())
        file.close()
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            file.raw.close()  # without its buffer: writing that could fail in place of this error
        if isinstance(error, OSError) and (complete or error.errno in FULL):
            raise _unwritable(path, error) from error
        raise


def _beside(target: pathlib.Path) -> pathlib.Path:
    """A new name in the same folder that shows which file it is for."""
    name = target.name if len(os.fsencode(target.name)) <= LONGEST else "numlstm"
    return target.with_name(f".{name}.{os.urandom(8).hex()}{PART}")


def is_temporary(name: str, target: str) -> bool:
    """Whether a file name is that of a temporary file for `target`, as left by a process that was killed.

    Examples
    --------
    >>> is_temporary(".a.npz.0123456789abcdef.part", "a.npz"), is_temporary("a.npz", "a.npz")
    (True, False)
    """
    return name.startswith(f".{target}.") and name.endswith(PART)


@contextmanager
def _removed(temporary: pathlib.Path) -> Iterator[None]:
    """Remove the file afterwards, if it exists. A failure to remove it does not hide an earlier error."""
    try:
        yield
    finally:
        try:  # noqa: SIM105  (another call would be another place for an interrupt)
            os.unlink(temporary)
        except OSError:
            pass  # renamed, or never created


def _sync(handle: int) -> None:
    """Wait until the disk has the content, if the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def sync_folder(folder: pathlib.Path) -> None:
    """Wait until the disk has a folder's entries: files that were renamed, created or removed.

    Raises
    ------
    OSError
        The disk failed.
    """
    if os.name == "nt":  # cannot open folders
        return
    handles: list[int] = []
    try:
        # map() stores the handle before Python can raise a KeyboardInterrupt
        handles.extend(map(os.open, (folder,), (os.O_RDONLY | os.O_DIRECTORY,)))
        _sync(handles[0])
    except PermissionError:
        pass  # a folder that is writeable but not readable
    except OSError as error:
        raise OSError(
            f"{folder} cannot be synced: {error.strerror}\nThe files are complete, but a power cut may undo the change."
        ) from error
    finally:
        for handle in handles:
            os.close(handle)


def ready(path: Path) -> None:
    """Raise OSError if `path` cannot be written, before the work for it begins."""
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; the name of a file is expected")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    _resolved(path)


class _Through(io.FileIO):
    """A device or a pipe, which cannot seek. A device may report position 0 all the same, which misleads zipfile."""

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation("not a file, but a device or a pipe")

    def tell(self) -> int:
        raise io.UnsupportedOperation("not a file, but a device or a pipe")


def _resolved(path: pathlib.Path) -> pathlib.Path:
    """The path with all symbolic links resolved."""
    try:
        target = os.path.realpath(path)
    except OSError as error:
        raise FileNotFoundError(f"{path} cannot be written: the current folder is gone") from error
    if os.path.islink(target):
        raise OSError(f"{path} cannot be written: it is a link to itself")
    return pathlib.Path(target)


def folder(path: Path) -> None:
    """Create the folder `path`, and its parents, unless they exist.

    Raises
    ------
    OSError
        One of these names is a file, or it cannot be created.
    """
    path = pathlib.Path(path)
    for place in (path, *path.parents):
        if os.path.lexists(place):
            if place.is_dir():
                break
            fact = f"{path} is no folder" if place == path else f"{path} cannot be made: {place} is no folder"
            raise NotADirectoryError(
                f"{fact}\nThe name of a folder is expected, one that is there or a new one: give another name."
            )
    missing = [place for place in (path, *path.parents) if not place.is_dir()]
    path.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        sync_folder(place.parent)


def apart(name: str, path: Path, other_name: str, other: Path) -> None:
    """Raise ValueError if a file to be written is also read, under any path."""
    if os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
        raise ValueError(f"{name} is the same file as {other_name}, {os.fspath(other)}; give {name} another name")


def _unwritable(path: pathlib.Path, error: OSError) -> OSError:
    return OSError(f"{path} cannot be written: {error.strerror}; nothing was changed")
