"""Buffers that a call writes besides its results, and the slots that a kernel runs on."""

from __future__ import annotations

import numpy as np

from numlstm.base.typing import Array
from numlstm.kernels.loading.entry_points import Kernel
from numlstm.kernels.plan_layout import Cell, Header, Partition
from numlstm.runtime import object_layout
from numlstm.runtime.call import Call
from numlstm.runtime.object_layout import address
from numlstm.runtime.packed_weights import aligned_empty
from numlstm.runtime.planner import Plan

BUFFERS = {Header.BELOW: "below", Header.GATES: "gates", Header.HIDDEN: "hidden", Header.ROUNDED: "rounded"}
KEEP_BYTES = 16 << 20  # a buffer of at most this size is kept, however little of it the next call needs


class Workspace:
    """The buffers of a call and its plan's slots. It serves one call at a time."""

    def __init__(self, kernel: Kernel, dtype: np.dtype[np.floating]) -> None:
        self.kernel, self.dtype = kernel, dtype
        self.plan: Plan | None = None
        self.buffers: dict[str, Array] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers.copy().values())

    def room(self, name: str, count: int) -> Array:
        """The buffer of that name, with room for ``count`` numbers. A large one that is not needed is given back."""
        have = self.buffers.get(name)
        if have is None or count > have.size or (count < have.size // 4 and have.nbytes > KEEP_BYTES):
            self.buffers.pop(name, None)  # given back before the new one is taken
            have = self.buffers[name] = aligned_empty(count, self.dtype)
        return have

    def adopt(self, plan: Plan) -> None:
        """Make room for a plan, and copy its slots."""
        slots = plan.slots.copy()
        for slot, name in BUFFERS.items():
            slots[slot] = address(self.room(name, getattr(plan, name)))
        self.slots = slots
        self.words = memoryview(slots.data)  # reading and writing one number takes NumPy longer
        self.address = address(slots)
        self.plan = plan

    def bind(self, call: Call) -> None:
        """Write the addresses of a call's arrays into the slots, and its rows."""
        arrays = call.x, call.h_0, call.c_0, call.output, call.h_n, call.c_n, call.panels.data
        if object_layout.readable:
            self.kernel.bind(self.address, id(arrays))
        else:
            for slot, array in zip(range(Header.INPUT, Header.PANELS + 1), arrays, strict=True):
                self.words[slot] = 0 if array is None else address(array)
        self.words[Header.ROWS_TO] = call.rows

    def follow(self, leader: Workspace, thread_index: int, partition: Partition) -> None:
        """Take from the caller's workspace what a worker shares with it."""
        own, of_caller = self.words, leader.words
        own[Header.THREAD_INDEX] = thread_index
        for slot in (Header.SHARE, Header.BELOW, Header.CHUNK_ROWS):
            own[slot] = of_caller[slot]
        if partition == Partition.BLOCKS:  # all threads work on the same gates and the same hidden h
            own[Header.GATES], own[Header.HIDDEN] = of_caller[Header.GATES], of_caller[Header.HIDDEN]

    def run(self) -> None:
        """Run the plan."""
        self.kernel.forward(self.address)

    def run_part(
        self, cells: tuple[int, int], rows: tuple[int, int] | None = None, steps: tuple[int, int] | None = None
    ) -> None:
        """Run some cells, rows and steps; all rows and steps by default. The slots then are no longer the plan's."""
        words = self.words
        self.plan = None
        words[Header.CELLS_FROM], words[Header.CELLS_TO] = cells
        words[Header.ROWS_FROM], words[Header.ROWS_TO] = rows or (0, words[Header.ROWS])
        words[Header.STEPS_FROM], words[Header.STEPS_TO] = steps or (0, words[Header.STEPS])
        self.run()

    def cell_output(self, cell: int, output: Array) -> Array:
        """Where the layer of a cell writes, shaped as the call's output: there, or into the buffer below it."""
        if self.words[Header.LENGTH + cell * Cell.LENGTH + Cell.TARGET] == Header.OUTPUT:
            return output
        return self.buffers["below"][: output.size].reshape(output.shape)
