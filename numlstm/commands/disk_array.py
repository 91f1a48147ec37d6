"""Arrays on disk that may exceed the memory: read and written in parts, without mapping the file."""

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

SPAN = 16 << 20  # most bytes in memory beyond the part that was asked for
NEAR = 16 << 10  # runs at most this many bytes apart are read together with the gaps: faster than a read for each run
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # of a file system without posix_fallocate


class DiskArray:
    """An array of three axes in a file.

    Parameters
    ----------
    file : binary file
        Open for reading, and for writing if `write` is called.
    dtype : dtype
    shape : (int, int, int)
    offset : int
        Of the first number in the file, in bytes.
    order : "C" or "F"
        Whether the last or the first axis is contiguous.

    Examples
    --------
    >>> array = DiskArray.new(tempfile.gettempdir(), np.dtype("f4"), (3, 4, 2))
    >>> array.write(slice(1, 3), slice(0, 2), np.ones((2, 2, 2), np.float32))
    >>> array.read(slice(0, 3), slice(1, 3)).sum(axis=-1).tolist()
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
        """An array of zeros in a file without a name, which vanishes with the process, however that ends.

        The disk space is reserved now, so that a full disk is reported before the work and not after it.
        """
        file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        try:
            _reserve(file, int(np.prod(shape, dtype=object)) * dtype.itemsize)
        except BaseException:
            file.close()
            raise
        return cls(file, dtype, shape)

    def _lines(self, outer: slice, inner: slice, part: Array) -> Iterator[tuple[int, int, Array]]:
        """The contiguous runs of the part [outer, inner]: offset of the first, distance from run to run, and the runs.

        Offset and distance are in bytes; the runs are views of `part`, (runs, numbers).
        """
        first, second, features = self.shape
        one = self.dtype.itemsize
        if self.order == "C":
            of_outer = second * features * one
            at = self.offset + outer.start * of_outer + inner.start * features * one
            yield at, of_outer, part.reshape(len(part), -1)
            return
        of_inner = first * one  # each feature is a matrix whose columns are runs
        if inner.stop - inner.start == second:
            yield self.offset + outer.start * one, of_inner, part.T.reshape(features * second, -1)
        else:
            for feature in range(features):
                at = self.offset + (feature * second + inner.start) * of_inner + outer.start * one
                yield at, of_inner, part[:, :, feature].T

    def read(self, outer: slice, inner: slice) -> Array:
        """A copy of the part [outer, inner]; ValueError if the file has become shorter."""
        shape = outer.stop - outer.start, inner.stop - inner.start, self.shape[2]
        part = np.empty(shape, self.dtype, order=self.order)
        if part.size:
            for at, distance, runs in self._lines(outer, inner, part):
                _read(self.file, at, distance, runs)
        return part

    def write(self, outer: slice, inner: slice, part: Array) -> None:
        """Overwrite the part [outer, inner]; only in C order."""
        part = np.ascontiguousarray(part, self.dtype)
        for at, distance, runs in self._lines(outer, inner, part):
            for number, run in enumerate(_merged(runs, distance)):
                self.file.seek(at + number * distance)
                self.file.write(_bytes(run))

    def dump(self, into: IO[bytes], shape: tuple[int, ...]) -> None:
        """Write it as a ``.npy`` file of that shape, in pieces of `SPAN` bytes."""
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
        """Close the file; the file of `new` is deleted."""
        self.file.close()


def _merged(runs: Array, distance: int) -> Array:
    """The runs, joined into one if there are no gaps between them."""
    return runs.reshape(1, -1) if runs.shape[1] * runs.itemsize == distance else runs


def _bytes(run: Array) -> memoryview:
    """The bytes of a contiguous run."""
    return run.view(np.uint8).data


def _read(file: BufferedIOBase, at: int, distance: int, runs: Array) -> None:
    """Fill runs of numbers that begin `distance` bytes apart in the file."""
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
    """Give a new file that many bytes of disk space, not only that length."""
    if not size:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                raise
        else:
            return
    block = bytes(min(size, 1 << 20))
    for begin in range(0, size, len(block)):
        file.write(block[: size - begin])
    file.flush()
