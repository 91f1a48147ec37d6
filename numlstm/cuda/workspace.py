"""Buffers of calls, on the device and in pinned host memory, kept from call to call."""

import numpy as np

from . import device
from .arrays import whole


class Workspace:
    """All buffers that calls of one (T, B) and stream write besides their results; or calls with several lengths.

    A buffer that is too small is replaced by one of at least twice its size, so that calls with several lengths soon
    allocate nothing.
    """

    def __init__(self, dtype):
        self.dtype, self.buffers = dtype, {}
        self.dense = None  # the rows of a dense call
        self._host_table = self._device_table = None  # of the latest call's rows

    def room(self, name, count, dtype=None):
        """The device buffer of that name, of so many numbers."""
        return self._of_size(name, max(1, count), lambda size: device.empty(size, dtype or self.dtype))

    def host(self, name, count):
        """The pinned host buffer of that name, of so many numbers."""
        return self._of_size(f"host {name}", count, lambda size: device.pinned(size, self.dtype))

    def _of_size(self, name, count, make):
        kept = self.buffers.get(name)
        if kept is None or kept.size < count:
            kept = self.buffers[name] = make(count if kept is None else max(count, 2 * kept.size))
        return kept if kept.size == count else kept[:count]

    def upload(self, name, array, stream):
        """A host array on the device, converted to the LSTM's dtype, through pinned memory."""
        here, there = self.host(name, array.size), self.room(name, array.size)
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(here.reshape(array.shape), array, casting="unsafe")
        there.copy_to_device(here, stream=stream)
        return whole(there, array.shape)

    def zero(self):
        """A single zero on the device."""
        if "zero" not in self.buffers:
            zero = device.upload(np.zeros(1, self.dtype))
            device.synchronize(0)  # before another stream reads it
            self.buffers["zero"] = zero
        return self.buffers["zero"]

    def table(self, rows, stream):
        """The table of the rows on the device; uploaded only if it differs from the previous call's."""
        if self._host_table is not rows.table and not np.array_equal(self._host_table, rows.table):
            self._host_table = None
            self._device_table = self.room("table", rows.table.size, np.int64)
            self._device_table.copy_to_device(rows.table, stream=stream)
            self._host_table = rows.table
        return self._device_table
