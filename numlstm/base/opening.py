"""The caller's files, opened for reading: without blocking, and only regular files.

Another program can replace a file between a check of its path and its opening, so the open file is checked as well.
Files are not memory-mapped: if a mapped file is truncated, the next access kills the process.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedIOBase, BufferedReader
from typing import IO

from numlstm.base.typing import Path

AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # or opening a pipe would wait for a writer; no effect on regular files


def regular(path: Path, expected: str = "a file") -> BufferedReader:
    """Open a regular file for reading.

    Parameters
    ----------
    path : path
        Symbolic links are followed.
    expected : str
        The kind of file, for the message.

    Raises
    ------
    OSError
        It cannot be opened, or it is a directory, a pipe, a device or a socket.
    """

    def opener(path: str, flags: int) -> int:
        check(os.stat(path))  # opening a device or a pipe can have side effects
        handle = os.open(path, flags | AT_ONCE)
        try:
            check(os.fstat(handle))
        except BaseException:
            os.close(handle)
            raise
        return handle

    def check(status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise OSError(f"{shown} is {kind}; {expected} is expected")

    shown = os.fspath(path)
    return open(path, "rb", opener=opener)


def size(file: IO[bytes]) -> int:
    """Size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def stored(file: IO[bytes]) -> int:
    """Bytes of an open file on the disk: its size without the holes of a sparse file, if the system reports them.

    Nothing may have been read from the file yet.
    """
    whole, handle = size(file), file.fileno()
    if not hasattr(os, "SEEK_HOLE"):
        return whole
    begin = end = held = 0
    try:
        while end < whole:
            begin = os.lseek(handle, end, os.SEEK_DATA)
            end = os.lseek(handle, begin, os.SEEK_HOLE)
            held += end - begin
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data after this position
            held = whole  # a file system that cannot tell
    os.lseek(handle, 0, os.SEEK_SET)
    return held


def fill(file: BufferedIOBase, offset: int, into: memoryview) -> None:
    """Read from an offset until `into` is full; ValueError if the file ends earlier."""
    file.seek(offset)
    done = 0
    while done < len(into):
        count = file.readinto(into[done:])
        if not count:
            raise ValueError(
                f"it was cut short while it was read: it ends within bytes {offset} to {offset + len(into)}, or before"
            )
        done += count
