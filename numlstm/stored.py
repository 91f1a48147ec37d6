"""Arrays on disk that need not fit in memory: read and written a box at a time through memory maps."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Shape3 = tuple[int, int, int]

SPAN = 16 << 20  # bytes of a file that are mapped at a time: what is mapped and touched counts as memory of the process
NOT_ABLE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # of a file system that cannot reserve room


class Stored:
    """An array of three axes in a file, in C order.

    Parameters
    ----------
    file : binary file
        Open for reading, and for writing where `write` is called.
    dtype : dtype
    shape : (int, int, int)
    offset : int
        Where in the file its numbers begin.

    Examples
    --------
    >>> stored = Stored.new(tempfile.gettempdir(), np.dtype("f4"), (3, 4, 2))
    >>> stored.write(slice(1, 3), slice(0, 2), np.ones((2, 2, 2), np.float32))
    >>> stored.read(slice(0, 3), slice(1, 3)).sum(axis=-1).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 0.0]]
    """

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any], shape: Shape3, offset: int = 0) -> None:
        self.file, self.dtype, self.shape, self.offset = file, dtype, shape, offset

    @classmethod
    def new(cls, folder: str | os.PathLike[str], dtype: np.dtype[Any], shape: Shape3) -> Stored:
        """One of zeros in a file without a name, which is gone with the process, however that ends.

        Its room on the disk is taken here: a full disk would otherwise kill the process that writes to a map.
        """
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        try:
            _reserve(file, int(np.prod(shape, dtype=object)) * dtype.itemsize)
        except BaseException:
            file.close()
            raise
        return cls(file, dtype, shape)

    def _boxes(
        self, outer: slice, inner: slice, mode: Literal["r", "r+"] = "r"
    ) -> Iterator[tuple[tuple[slice, slice], Array]]:
        """The part [outer, inner] in boxes: where in it each is, and a view of the file. No map exceeds a span."""
        _, width, features = self.shape
        one = features * self.dtype.itemsize
        if not one or inner.stop <= inner.start:
            return
        whole = width * one <= SPAN  # several of the first axis, whole, or some of one
        many, most = (SPAN // (width * one), inner.stop - inner.start) if whole else (1, max(1, SPAN // one))
        for begin in range(outer.start, outer.stop, many):
            end = min(begin + many, outer.stop)
            for left in range(inner.start, inner.stop, most):
                right = min(left + most, inner.stop)
                at, wide = (0, width) if whole else (left, right - left)
                offset = self.offset + (begin * width + at) * one
                view: Array = np.memmap(self.file, self.dtype, mode, offset, (end - begin, wide, features))
                of_part = slice(begin - outer.start, end - outer.start), slice(left - inner.start, right - inner.start)
                yield of_part, view[:, left - at : right - at]

    def read(self, outer: slice, inner: slice) -> Array:
        """A copy of the part [outer, inner]."""
        part = np.empty((outer.stop - outer.start, inner.stop - inner.start, self.shape[2]), self.dtype)
        for box, view in self._boxes(outer, inner):
            part[box] = view
        return part

    def write(self, outer: slice, inner: slice, part: Array) -> None:
        """Let the part [outer, inner] be these numbers."""
        for box, view in self._boxes(outer, inner, "r+"):
            view[...] = part[box]

    def dump(self, into: IO[bytes], shape: tuple[int, ...]) -> None:
        """Write it as a ``.npy`` file of that shape, without the whole of it in memory."""
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(into, header)
        for _, view in self._boxes(slice(0, self.shape[0]), slice(0, self.shape[1])):
            into.write(view.reshape(-1).view(np.uint8).data)

    def close(self) -> None:
        """Close the file; one that `new` made is gone then."""
        self.file.close()


def _reserve(file: IO[bytes], size: int) -> None:
    """Let a new file have that many bytes, on the disk and not only in its length."""
    if not size:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in NOT_ABLE:
                raise
        else:
            return
    block = bytes(min(size, 1 << 20))
    for begin in range(0, size, len(block)):
        file.write(block[: size - begin])
    file.flush()
