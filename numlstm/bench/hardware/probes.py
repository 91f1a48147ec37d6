"""The kernels that measure the machine's limits, with the same registers as the engine's kernels.

FMA peak: many independent chains of FMAs that stay in registers. Bandwidth: many chains of additions, each of which
reads a register from memory.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators
# (Numba's decorators and the kernels' instructions have no types)

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import types

from numlstm.kernels.compiler import standalone
from numlstm.kernels.instructions import PLAN, instruction, load_slot
from numlstm.kernels.loading import registry
from numlstm.kernels.loading.build import bare_module, optimise
from numlstm.kernels.simd import Simd

STREAMS = 8  # registers that an iteration reads: two ports x latency four
INT64 = ir.IntType(64)
ENTRY = "probe"


class Kernel:
    """A compiled kernel: call it with the address of its plan. It releases the GIL.

    It is built like the engine's kernels, but for this CPU.
    """

    def __init__(self, function: Callable[[Any], None]) -> None:
        kernel = standalone(function)
        kernel.compile(types.void(PLAN))
        self._module, self._machine = bare_module({ENTRY: kernel}), _host()
        optimise(self._module, self._machine, (ENTRY,))
        self._engine = llvm.create_mcjit_compiler(self._module, _host(), use_lmm=True)
        self._engine.finalize_object()
        self._call: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._engine.get_function_address(ENTRY))

    def __call__(self, address: int) -> None:
        self._call(address)

    @property
    def assembly(self) -> str:
        """The machine code as text."""
        text: str = self._machine.emit_assembly(self._module)
        return text


def _host() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )


def registers() -> tuple[list[int], int, bool]:
    """Register widths in bytes, widest first; the number of registers; whether there is a fused multiply-add.

    Of the level of this process's kernels.
    """
    level = registry.level()
    narrower = [32] if level.register_bytes == 64 else []  # some CPUs lower their clock for wide registers
    return [level.register_bytes, *narrower], level.registers, level.fused


def fma_kernel(dtype: str, lanes: int, chains: int, fused: bool) -> Kernel:
    """``plan[0]`` times one FMA in each of `chains` registers of `lanes` numbers.

    Every chain is s = s * a + b. ``plan[1]`` is the address of a, b and a start for each chain, a register each. The
    starts differ, so that LLVM cannot merge the chains. The sum goes to ``plan[2]``, so that no chain is removed.
    """
    simd = Simd(dtype, lanes, fused)
    sums_type = types.UniTuple(simd.register, chains)

    @instruction(sums_type, simd.pointer)
    def begin(builder: Any, numbers: Any) -> list[Any]:
        return [simd.emit_load(builder, numbers, INT64((2 + n) * lanes)) for n in range(chains)]

    @instruction(sums_type, sums_type, simd.register, simd.register)
    def step(builder: Any, sums: Any, factor: Any, addend: Any) -> list[Any]:
        return [simd.emit_fma(builder, builder.extract_value(sums, n), factor, addend) for n in range(chains)]

    load, store, pointer_at, total = simd.load, simd.store, simd.pointer_at, _total(simd, chains)

    def kernel(plan):  # type: ignore[no-untyped-def]
        numbers = pointer_at(plan, 1)
        factor, addend, sums = load(numbers, 0), load(numbers, lanes), begin(numbers)
        for _ in range(load_slot(plan, 0)):
            sums = step(sums, factor, addend)
        store(pointer_at(plan, 2), 0, total(sums))

    return Kernel(kernel)


def read_kernel(width: int) -> Kernel:
    """``plan[0]`` times: add up the ``plan[3]`` float32 at ``plan[1]``, a multiple of `STREAMS` registers.

    A register has `width` bytes. The sum goes to ``plan[2]``.
    """
    simd = Simd("float32", width // 4)
    sums_type = types.UniTuple(simd.register, STREAMS)

    @instruction(sums_type)
    def zero(builder: Any) -> list[Any]:
        return [simd.constant(0)] * STREAMS

    @instruction(sums_type, sums_type, simd.pointer, types.int64)
    def step(builder: Any, sums: Any, numbers: Any, at: Any) -> list[Any]:
        places = [builder.add(at, INT64(n * simd.lanes)) for n in range(STREAMS)]
        read = [simd.emit_load(builder, numbers, place) for place in places]
        return [builder.fadd(builder.extract_value(sums, n), value) for n, value in enumerate(read)]

    store, pointer_at, total, pace = simd.store, simd.pointer_at, _total(simd, STREAMS), STREAMS * simd.lanes

    def kernel(plan):  # type: ignore[no-untyped-def]
        numbers, sums = pointer_at(plan, 1), zero()
        for _ in range(load_slot(plan, 0)):
            for at in range(0, load_slot(plan, 3), pace):
                sums = step(sums, numbers, at)
        store(pointer_at(plan, 2), 0, total(sums))

    return Kernel(kernel)


def _total(simd: Simd, count: int) -> Any:
    """An instruction that adds the registers of a tuple."""

    @instruction(simd.register, types.UniTuple(simd.register, count))
    def total(builder: Any, sums: Any) -> Any:
        value = builder.extract_value(sums, 0)
        for n in range(1, count):
            value = builder.fadd(value, builder.extract_value(sums, n))
        return value

    return total
