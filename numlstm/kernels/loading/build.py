"""From a Numba kernel to an object file for a level. Imported only when one must be built.

Numba types and lowers the kernels. LLVM is driven here, so that the result depends on the level and not on the machine
that builds. The object's entries are ``void numlstm_forward(int64_t *plan)``, ``void numlstm_bind(int64_t *plan,
PyObject *arrays)`` and ``PyObject *numlstm_fastcall(PyObject *self, PyObject *const *arguments, Py_ssize_t count)``. A
stream's are ``int64_t numlstm_step(int64_t *stream)``, ``PyObject *numlstm_stream(PyObject *self, PyObject *input)``
and ``int64_t numlstm_exchange(int64_t *flag, int64_t expected, int64_t value)``. A head's is ``void
numlstm_head(int64_t *record, int64_t source, int64_t target, int64_t rows, int64_t given)``. The object of training
has two functions of a plan, ``numlstm_forward`` and ``numlstm_backward``, and two that Python calls,
``numlstm_small_vjp`` and ``numlstm_small_back``. Nothing in an object is undefined: it is given the addresses of the
functions of Python and NumPy that it calls.
"""

from __future__ import annotations

import re
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock

from numlstm.base.cell_options import of_kernel

from ..compiler import STANDALONE, Kernel
from ..entries.fastcall import fastcall_entries
from ..entries.head import head_entry, heads
from ..entries.stream import stream_entries
from ..microkernel import Variant
from ..plan_layout import BACKWARD, BFLOAT16, FORWARD, INT8, kernel_tag
from ..recurrence import forward_kernel
from ..simd import Simd
from ..tile import (
    REGISTERS_16,
    REGISTERS_16_BFLOAT16,
    REGISTERS_16_INT8,
    REGISTERS_32,
    REGISTERS_32_INT8,
    WEBASSEMBLY,
    Shapes,
)
from ..training.backward import backward_kernel
from ..training.calls import small_call_entries
from .fingerprint import TRAINING, of_training
from .levels import Level


@global_compiler_lock
def bare_module(dispatchers: dict[str, Any]) -> llvm.ModuleRef:
    """Kernels by name as one LLVM module of bare C functions: no Python, no GIL, no reference counts."""
    compiled = {name: next(iter(dispatcher.overloads.values())) for name, dispatcher in dispatchers.items()}
    target = next(iter(compiled.values())).target_context
    library = target.codegen().create_library("numlstm")
    module = library.create_ir_module("numlstm")
    for name, result in compiled.items():
        callee = target.declare_function(module, result.fndesc)
        given, back = result.signature.args, result.signature.return_type
        kinds = [target.get_value_type(kind) for kind in given]
        returned = ir.VoidType() if back == types.none else target.get_value_type(back)
        entry = ir.Function(module, ir.FunctionType(returned, kinds), name=name)
        builder = ir.IRBuilder(entry.append_basic_block())
        _, value = target.call_conv.call_function(builder, callee, back, given, entry.args)
        if back == types.none:
            builder.ret_void()
        else:
            builder.ret(value)
        library.add_linking_library(result.library)
    library.add_ir_module(module)
    library.finalize()
    return llvm.parse_assembly(str(library.linked()))


def target_machine(level: Level) -> llvm.TargetMachine:
    """LLVM's description of a level; position-independent code, so that the object can be linked anywhere."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(level.triple)
    return target.create_target_machine(cpu=level.cpu, features=level.features, opt=3, reloc="pic", codemodel="small")


def optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine, entries: tuple[str, ...]) -> None:
    """Keep only what the entries reach, and optimise it for the machine; loops are vectorised by hand already."""
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    for function in module.functions:
        if not function.is_declaration and function.name not in entries:
            function.linkage = llvm.Linkage.internal
            if known := re.search(rf"{STANDALONE}(\w+?)B\d", function.name):
                function.name = known[1]
    for variable in module.global_variables:  # Numba's environments, which nothing here reads
        if not variable.is_declaration:
            variable.linkage = llvm.Linkage.internal
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    module.verify()


def shapes_of(number: str, level: Level) -> Shapes:
    """The tile shapes of a kernel."""
    if level.triple.startswith("wasm"):
        return WEBASSEMBLY
    if level.registers >= 32:
        return REGISTERS_32_INT8 if number == INT8 else REGISTERS_32
    return {BFLOAT16: REGISTERS_16_BFLOAT16, INT8: REGISTERS_16_INT8}.get(number, REGISTERS_16)


def heads_of(number: str, level: Level, shapes: Shapes) -> Kernel:
    """The kernel of the heads behind an LSTM, whose weights always have the number type of the states."""
    return heads(Simd("float32" if number in (BFLOAT16, INT8) else number, level.lanes(number), level.fused), shapes)


def engine_entries(name: str, level: Level, shapes: Shapes) -> dict[str, Kernel]:
    """The forward kernel by itself, and what Python and a stream call."""
    number, options = of_kernel(name)
    lanes = level.lanes(number)
    forward = forward_kernel(number, lanes, shapes, level.fused, level.pause, Variant(options=options))
    run_heads = heads_of(number, level, shapes)
    return {
        FORWARD: forward,
        **fastcall_entries(forward),
        **stream_entries(forward, run_heads, kernel_tag(name)),
        **head_entry(run_heads),
    }


def training_entries(number: str, level: Level, shapes: Shapes) -> dict[str, Kernel]:
    """The forward kernel that keeps what its gradients need, the backward kernel, and both for small calls."""
    lanes = level.lanes(number)
    forward = forward_kernel(number, lanes, shapes, level.fused, level.pause, Variant(keeps=True))
    backward = backward_kernel(number, lanes, shapes, level.fused, level.pause)
    small = small_call_entries(number, lanes, level.fused, forward, backward)
    return {FORWARD: forward, BACKWARD: backward, **small}


@global_compiler_lock
def build(number: str, level: Level, shapes: Shapes | None = None) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """The optimised module of the forward kernel for a number type and level, and its target machine."""
    shapes = shapes or shapes_of(number, level)
    make = training_entries if of_training(number) else engine_entries
    entries = make(number.removesuffix(TRAINING), level, shapes)
    module = bare_module(entries)
    machine = target_machine(level)
    optimise(module, machine, tuple(entries))
    undefined = sorted(f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm."))
    if undefined:
        raise RuntimeError(f"the kernel for {level.name} refers to {undefined}, which nothing here provides")
    return module, machine


def emitted(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> bytes:
    """The object of an optimised module. It refers to nothing outside."""
    if "windows" in machine.triple:  # LLVM refers to this symbol of Microsoft's C library wherever there are floats
        module.link_in(llvm.parse_assembly("$_fltused = comdat any\n@_fltused = weak_odr global i32 0, comdat"))
    code: bytes = machine.emit_object(module)
    return code


def object_code(number: str, level: Level, shapes: Shapes | None = None) -> bytes:
    """The relocatable object file."""
    return emitted(*build(number, level, shapes))


def assembly(number: str, level: Level, shapes: Shapes | None = None) -> str:
    """The same module as assembly, to read."""
    module, machine = build(number, level, shapes)
    return machine.emit_assembly(module)
