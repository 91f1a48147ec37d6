"""The library that ``numlstm export`` writes, as two objects: the forward kernel, and the C functions around it.

They are written as the kernels are: one back end makes them for every target, and no C compiler is needed. The object
of the kernel is for the level asked for. That of the functions is for any CPU of the family, and looks whether this
one has what the level needs before the other is ever entered.
"""

from types import SimpleNamespace
from typing import Any

import llvmlite.binding as llvm
from numba.core.compiler_lock import global_compiler_lock

from numlstm.base.cell_options import of_kernel
from numlstm.export.c_model import model_functions
from numlstm.export.c_state import state_functions
from numlstm.export.cpu_check import SAVED, cpu_functions
from numlstm.kernels.compiler import inline
from numlstm.kernels.entries.head import head_entry
from numlstm.kernels.instructions import greater, record_at, smaller, store_slot
from numlstm.kernels.loading.build import bare_module, emitted, heads_of, optimise, shapes_of, target_machine
from numlstm.kernels.loading.levels import Level
from numlstm.kernels.microkernel import Variant
from numlstm.kernels.plan_rules import plan_rules
from numlstm.kernels.recurrence import forward_kernel

KERNEL = SimpleNamespace(inline=inline, smaller=smaller, greater=greater, store_slot=store_slot, record_at=record_at)


def glue(kernel: str, level: Level, prefix: str) -> dict[str, Any]:
    """The library's functions by name, for a kernel, as `registry` names it, and a kind of CPU."""
    number, options = of_kernel(kernel)
    lanes, size = level.lanes(number), 8 if number == "float64" else 4
    rules = SimpleNamespace(**vars(plan_rules(KERNEL, lanes, size, number)), lanes=lanes)
    functions = model_functions(options, level, prefix, rules) | state_functions(prefix, rules)
    entries = {}
    for name, (function, signature) in functions.items():
        entry = entries[f"{prefix}_{name}"] = inline(function)
        entry.compile(signature)
    return entries


@global_compiler_lock
def kernel_object(kernel: str, level: Level, prefix: str) -> bytes:
    """The object of ``void {prefix}_kernel(int64_t *plan)``, which runs a plan on the thread that calls.

    And of ``void {prefix}_head(int64_t *record, int64_t source, int64_t target, int64_t rows, int64_t given)``.
    """
    number, options = of_kernel(kernel)
    lanes, shapes = level.lanes(number), shapes_of(number, level)
    (head,) = head_entry(heads_of(number, level, shapes)).values()
    entries = {
        f"{prefix}_kernel": forward_kernel(number, lanes, shapes, level.fused, None, Variant(options=options)),
        f"{prefix}_head": head,
    }
    return _object(bare_module(entries), level, tuple(entries), hidden=tuple(entries))


@global_compiler_lock
def glue_object(kernel: str, level: Level, prefix: str) -> bytes:
    """The object of the C functions, for any CPU of the level's family."""
    functions = glue(kernel, level, prefix)
    module = bare_module(functions)
    checks = None
    if level.name in SAVED:
        level, checks = level._replace(cpu="x86-64", features=""), cpu_functions(prefix, level.triple)
    return _object(module, level, tuple(functions), checks, (f"{prefix}_kernel", f"{prefix}_head"))


def _object(
    module: llvm.ModuleRef,
    level: Level,
    entries: tuple[str, ...],
    unoptimised: llvm.ModuleRef | None = None,
    hidden: tuple[str, ...] = (),
) -> bytes:
    """The object of a module, optimised, linked with one that is not. Other objects share ``hidden`` functions."""
    machine = target_machine(level)
    if level.triple.startswith("wasm") and level.fused:
        module = with_relaxed_madd(module)
    optimise(module, machine, entries)
    if unoptimised is not None:
        module.link_in(unoptimised)
    for function in module.functions:
        if function.name in hidden:
            function.visibility = "hidden"
    undefined = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")} - set(hidden)
    if undefined:
        raise RuntimeError(f"the code for {level.name} refers to {sorted(undefined)}, which nothing here provides")
    return emitted(module, machine)


# An FMA of a register, and one of half a register
_MADD = """
declare {kind} @llvm.wasm.relaxed.madd.{name}({kind}, {kind}, {kind})
define {kind} @fma.{name}({kind} %a, {kind} %b, {kind} %c) alwaysinline {{
  %sum = call {kind} @llvm.wasm.relaxed.madd.{name}({kind} %a, {kind} %b, {kind} %c)
  ret {kind} %sum
}}
"""
_HALF_MADD = """
define <2 x float> @fma.v2f32(<2 x float> %a, <2 x float> %b, <2 x float> %c) alwaysinline {
  %wide_a = shufflevector <2 x float> %a, <2 x float> poison, <4 x i32> <i32 0, i32 1, i32 poison, i32 poison>
  %wide_b = shufflevector <2 x float> %b, <2 x float> poison, <4 x i32> <i32 0, i32 1, i32 poison, i32 poison>
  %wide_c = shufflevector <2 x float> %c, <2 x float> poison, <4 x i32> <i32 0, i32 1, i32 poison, i32 poison>
  %sum = call <4 x float> @llvm.wasm.relaxed.madd.v4f32(<4 x float> %wide_a, <4 x float> %wide_b, <4 x float> %wide_c)
  %half = shufflevector <4 x float> %sum, <4 x float> poison, <2 x i32> <i32 0, i32 1>
  ret <2 x float> %half
}
"""


def with_relaxed_madd(module: llvm.ModuleRef) -> llvm.ModuleRef:
    """The module with ``relaxed_madd`` of WebAssembly for each FMA; LLVM would call ``fmaf`` for every lane."""
    named = llvm.parse_assembly(str(module).replace("@llvm.fma.", "@fma."))
    definitions = "".join(
        _MADD.format(name=name, kind=kind) for name, kind in (("v4f32", "<4 x float>"), ("v2f64", "<2 x double>"))
    )
    named.link_in(llvm.parse_assembly(definitions + _HALF_MADD))
    return named
