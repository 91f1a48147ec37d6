"""A file that appears whole or not at all: written under another name beside it, synced to the disk, then renamed."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}  # no room for it, whatever is written
NOT_ABLE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}  # of a file system that cannot sync
PART = ".part"  # the end of a temporary file's name
LONGEST = 200  # bytes of a file's name that its temporary file repeats: a name has 255 at most


@contextmanager
def replacing(path: str | os.PathLike[str], mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the context ends well.

    Until then, and for good on any failure, `path` is what it was. Nobody sees half a file, and a power cut leaves the
    old one or the new one. A link stays a link: its target is replaced. A device or a pipe is written to, not replaced.
    The file's mode is what the umask leaves, as for any new file.

    Parameters
    ----------
    path : path
        What is to be written, or to be replaced.
    mode : int
        Of the file, before the umask.

    Raises
    ------
    OSError
        Its folder is missing or cannot be written, the disk is full, or `path` is a directory.

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
    from pathlib import Path

    path = Path(path)
    ready(path)
    if path.exists() and not path.is_file():
        try:
            with io.BufferedWriter(_Through(path, "wb")) as through:
                yield through
        except OSError as error:
            if error.errno in FULL:
                raise OSError(f"{path} cannot be written: {error.strerror}") from error
            raise
        return
    target = _led_to(path)
    temporary = _beside(target)
    with _removed(temporary), _removed(temporary):  # the second, should an interrupt strike amid the first
        try:
            # closed below; the kernel applies the umask to its mode
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
                file.raw.close()  # what is buffered is not wanted, and writing it could fail in place of this error
            if isinstance(error, OSError) and (complete or error.errno in FULL):
                raise _unwritable(path, error) from error
            raise
    sync_folder(target.parent)


def _beside(target: Path) -> Path:
    """A new name in the same folder, which tells whose temporary file it is."""
    name = target.name if len(os.fsencode(target.name)) <= LONGEST else "numlstm"
    return target.with_name(f".{name}.{os.urandom(8).hex()}{PART}")


def is_temporary(name: str, target: str) -> bool:
    """Whether a file of that name was to become `target`: a process that was killed leaves one behind.

    Examples
    --------
    >>> is_temporary(".a.npz.0123456789abcdef.part", "a.npz"), is_temporary("a.npz", "a.npz")
    (True, False)
    """
    return name.startswith(f".{target}.") and name.endswith(PART)


@contextmanager
def _removed(temporary: Path) -> Iterator[None]:
    """Let there be no such file afterwards. What went wrong before counts for more than a failure to remove it."""
    try:
        yield
    finally:
        try:  # noqa: SIM105  (a call more is a place more for an interrupt)
            os.unlink(temporary)
        except OSError:
            pass  # it was renamed, or never made


def _sync(handle: int) -> None:
    """Wait until the disk has what was written, where the file system can do that."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_ABLE:
            raise


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder: files that were renamed, made or removed.

    Raises
    ------
    OSError
        The disk failed.
    """
    if os.name == "nt":  # which opens no folder
        return
    handles: list[int] = []
    try:
        # an interrupt that comes while it is opened would else strike before its number is kept
        handles.extend(map(os.open, (folder,), (os.O_RDONLY | os.O_DIRECTORY,)))
        _sync(handles[0])
    except PermissionError:
        pass  # a folder that may be written to and not read
    except OSError as error:
        raise OSError(
            f"{folder} cannot be synced: {error.strerror}\nWhat was written is whole, but a power cut may undo it."
        ) from error
    finally:
        for handle in handles:
            os.close(handle)


def ready(path: str | os.PathLike[str]) -> None:
    """Raise OSError where `path` could not be written in the end, before the work for it begins."""
    from pathlib import Path

    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; the name of a file is expected")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    _led_to(path)


class _Through(io.FileIO):
    """A device or a pipe: what is written to it is gone, and it has no place to go back to.

    A device answers the question where one is, with 0 or an error, and who believes it ends in a fault: zipfile does.
    """

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation("it is no file, but a device or a pipe")

    def tell(self) -> int:
        raise io.UnsupportedOperation("it is no file, but a device or a pipe")


def _led_to(path: Path) -> Path:
    """What links lead to from `path`, or the path itself."""
    from pathlib import Path

    try:
        target = os.path.realpath(path)
    except OSError as error:
        raise FileNotFoundError(f"{path} cannot be written: the current folder is gone") from error
    if os.path.islink(target):
        raise OSError(f"{path} cannot be written: it is a link that leads back to itself")
    return Path(target)


def folder(path: str | os.PathLike[str]) -> None:
    """Make the folder `path`, and those above it, where they are missing.

    Raises
    ------
    OSError
        Something else has one of these names, or it cannot be made.
    """
    from pathlib import Path

    path = Path(path)
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


def apart(name: str, path: str | os.PathLike[str], other_name: str, other: str | os.PathLike[str]) -> None:
    """Raise where a file to be written is one that is read, by whatever path."""
    if os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
        raise ValueError(f"{name} is the same file as {other_name}, {os.fspath(other)}; give {name} another name")


def _unwritable(path: Path, error: OSError) -> OSError:
    return OSError(f"{path} cannot be written: {error.strerror}; nothing was changed")
