"""Files of the caller's, opened for reading: once, without waiting, and only where a regular file is.

Between a look at a path and its opening another program can put something else there, so what was opened is what is
looked at. Nothing is mapped: a map of a file that is cut short meanwhile ends the process at the next touch.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedIOBase, BufferedReader
from typing import IO

from numlstm.base.typing import Path

AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for a writer; without effect on regular files


def regular(path: Path, expected: str = "a file") -> BufferedReader:
    """Open a regular file for reading.

    Parameters
    ----------
    path : path
        Links are followed.
    expected : str
        What is expected there, for the message.

    Raises
    ------
    OSError
        It cannot be opened, or is a directory, a pipe, a device or a socket.
    """

    def opener(path: str, flags: int) -> int:
        check(os.stat(path))  # opening a device can set it going, and opening a pipe can wake whoever writes to it
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
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def stored(file: IO[bytes]) -> int:
    """Bytes of an open file that the disk holds: all but the holes of a sparse file, where the system tells of them.

    The file must not have been read yet.
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
        if error.errno != errno.ENXIO:  # no data behind this place
            held = whole  # a file system that cannot tell
    os.lseek(handle, 0, os.SEEK_SET)
    return held


def fill(file: BufferedIOBase, offset: int, into: memoryview) -> None:
    """Read bytes from an offset on until `into` is full; ValueError where the file ends before that."""
    file.seek(offset)
    done = 0
    while done < len(into):
        count = file.readinto(into[done:])
        if not count:
            raise ValueError(
                f"it was cut short while it was read: it ends within bytes {offset} to {offset + len(into)}, or before"
            )
        done += count
