"""Arrays on disk that need not fit in memory: read and written a box at a time, without a map of the file."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from io import BufferedIOBase
from typing import IO, Any, Literal

import numpy as np

from numlstm.base.opening import fill
from numlstm.base.typing import Array

Shape3 = tuple[int, int, int]

SPAN = 16 << 20  # bytes that are held at a time beyond the part that was asked for
NEAR = 16 << 10  # bytes from run to run below which all between them is read too: less work than a read for each
NOT_ABLE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # of a file system that cannot reserve room


class DiskArray:
    """An array of three axes in a file.

    Parameters
    ----------
    file : binary file
        Open for reading, and for writing where `write` is called.
    dtype : dtype
    shape : (int, int, int)
    offset : int
        Where in the file its numbers begin.
    order : "C" or "F"
        Whether the last axis is the one whose numbers lie side by side, or the first.

    Examples
    --------
    >>> stored = DiskArray.new(tempfile.gettempdir(), np.dtype("f4"), (3, 4, 2))
    >>> stored.write(slice(1, 3), slice(0, 2), np.ones((2, 2, 2), np.float32))
    >>> stored.read(slice(0, 3), slice(1, 3)).sum(axis=-1).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 0.0]]
    """

    def __init__(
        self,
        file: BufferedIOBase,
        dtype: np.dtype[Any],
        shape: Shape3,
        offset: int = 0,
        order: Literal["C", "F"] = "C",
    ) -> None:
        self.file, self.dtype, self.shape, self.offset, self.order = file, dtype, shape, offset, order

    @classmethod
    def new(cls, folder: str | os.PathLike[str], dtype: np.dtype[Any], shape: Shape3) -> DiskArray:
        """One of zeros in a file without a name, which is gone with the process, however that ends.

        Its room on the disk is taken here: a disk that is full is to be known before the work and not after it.
        """
        file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        try:
            _reserve(file, int(np.prod(shape, dtype=object)) * dtype.itemsize)
        except BaseException:
            file.close()
            raise
        return cls(file, dtype, shape)

    def _lines(self, outer: slice, inner: slice, part: Array) -> Iterator[tuple[int, int, Array]]:
        """The part [outer, inner] as runs at equal distances: where the first begins, the distance, and the runs.

        Both are in bytes; the runs are views of `part`, (runs, numbers).
        """
        first, second, features = self.shape
        one = self.dtype.itemsize
        if self.order == "C":
            of_outer = second * features * one
            at = self.offset + outer.start * of_outer + inner.start * features * one
            yield at, of_outer, part.reshape(len(part), -1)
            return
        of_inner = first * one  # every feature is a matrix whose columns are runs
        if inner.stop - inner.start == second:
            yield self.offset + outer.start * one, of_inner, part.T.reshape(features * second, -1)
        else:
            for feature in range(features):
                at = self.offset + (feature * second + inner.start) * of_inner + outer.start * one
                yield at, of_inner, part[:, :, feature].T

    def read(self, outer: slice, inner: slice) -> Array:
        """A copy of the part [outer, inner]; ValueError where the file became shorter than it was."""
        shape = outer.stop - outer.start, inner.stop - inner.start, self.shape[2]
        part = np.empty(shape, self.dtype, order=self.order)
        if part.size:
            for at, distance, runs in self._lines(outer, inner, part):
                _read(self.file, at, distance, runs)
        return part

    def write(self, outer: slice, inner: slice, part: Array) -> None:
        """Let the part [outer, inner] be these numbers; in C order alone."""
        part = np.ascontiguousarray(part, self.dtype)
        for at, distance, runs in self._lines(outer, inner, part):
            for number, run in enumerate(_merged(runs, distance)):
                self.file.seek(at + number * distance)
                self.file.write(_bytes(run))

    def dump(self, into: IO[bytes], shape: tuple[int, ...]) -> None:
        """Write it as a ``.npy`` file of that shape, without the whole of it in memory."""
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(into, header)
        left = int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        piece = memoryview(bytearray(min(left, SPAN)))
        at = self.offset
        while left:
            piece = piece[:left]
            fill(self.file, at, piece)
            into.write(piece)
            at, left = at + len(piece), left - len(piece)

    def close(self) -> None:
        """Close the file; one that `new` made is gone then."""
        self.file.close()


def _merged(runs: Array, distance: int) -> Array:
    """The runs, or the one that they are where nothing is between them."""
    return runs.reshape(1, -1) if runs.shape[1] * runs.itemsize == distance else runs


def _bytes(run: Array) -> memoryview:
    """The bytes of numbers side by side."""
    return run.view(np.uint8).data


def _read(file: BufferedIOBase, at: int, distance: int, runs: Array) -> None:
    """Fill runs of numbers, of which the next begins `distance` bytes after the last one."""
    runs = _merged(runs, distance)
    count, length = len(runs), runs.shape[1] * runs.itemsize
    if count == 1 or distance > NEAR:
        for number, run in enumerate(runs):
            fill(file, at + number * distance, _bytes(run))
        return
    many = SPAN // distance
    for begin in range(0, count, many):
        some = runs[begin : begin + many]
        block = np.empty((len(some) - 1) * distance + length, np.uint8)
        fill(file, at + begin * distance, block.data)
        in_block = np.lib.stride_tricks.as_strided(block, (len(some), length), (distance, 1), writeable=False)
        some[...] = in_block.view(runs.dtype)


def _reserve(file: BufferedIOBase, size: int) -> None:
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
