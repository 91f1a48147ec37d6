"""A file that appears whole or not at all: written under another name beside it, then moved."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}  # no room for it, whatever is written


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the context ends well.

    Until then, and for good on any failure, `path` is what it was. Nobody sees half a file. A link stays one: what it
    leads to is replaced. What is no file, a device or a pipe, is written to and never replaced.

    Parameters
    ----------
    path : path
        What is to be written, or to be replaced.

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
    import tempfile  # with shutil and its archives: much for whoever only loads
    from pathlib import Path

    path = Path(path)
    ready(path)
    if path.exists() and not path.is_file():
        try:
            with io.BufferedWriter(_Through(path, "wb")) as file:
                yield file
        except OSError as error:
            if error.errno in FULL:
                raise OSError(f"{path} cannot be written: {error.strerror}") from error
            raise
        return
    target = _led_to(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in FULL:
            raise _unwritable(path, error) from error
        raise


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
    path.mkdir(parents=True, exist_ok=True)


def apart(name: str, path: str | os.PathLike[str], other_name: str, other: str | os.PathLike[str]) -> None:
    """Raise where a file to be written is one that is read, by whatever path."""
    if os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
        raise ValueError(f"{name} is the same file as {other_name}, {os.fspath(other)}; give {name} another name")


def _unwritable(path: Path, error: OSError) -> OSError:
    return OSError(f"{path} cannot be written: {error.strerror}; nothing was changed")
