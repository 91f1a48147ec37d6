"""Whether the CPU has what a library's level needs: functions of the library, which any CPU of the family can run."""

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from numlstm.kernels.compiler import inline, named
from numlstm.kernels.instructions import INT64, instruction
from numlstm.kernels.loading.levels import FEATURES, LEAVES, Level

EAX, EBX, ECX = range(3)
INT32 = ir.IntType(32)
OSXSAVE = 1 << 27  # of ECX of leaf 1: the system saves registers, and XGETBV says which
# bits that XGETBV sets: XMM, YMM; with AVX-512 opmask and ZMM too
SAVED = {"x86-64-v3": 0b110, "x86-64-v4": 0b11100110}
# void cpuid(int32 leaf, int32 subleaf, int32 registers[4]) and int32 xgetbv(), for either calling convention: as bytes,
# since LLVM's parser of assembly is there for the machine that builds alone
_TO_RAX = {
    False: "89f8 89f1 4989d0",  # mov eax, edi; mov ecx, esi; mov r8, rdx
    True: "89c8 89d1",  # Windows: mov eax, ecx; mov ecx, edx
}
_CPUID = "4989d9 {} 0fa2 418900 41895804 41894808 4189500c 4c89cb c3"  # rbx waits in r9; registers to [r8]; ret
_XGETBV = "31c9 0f01d0 c3"  # xor ecx, ecx; xgetbv; ret


def cpu_functions(prefix: str, triple: str) -> llvm.ModuleRef:
    """A module of the two functions: machine code where LLVM puts a function's prologue."""
    code = {"cpuid": _CPUID.format(_TO_RAX["windows" in triple]), "xgetbv": _XGETBV}
    types_of = {"cpuid": ("void", "i32, i32, ptr", "ret void"), "xgetbv": ("i32", "", "ret i32 0")}
    hidden = "" if "windows" in triple else "hidden "
    lines = [f'target triple = "{triple}"']
    for name, (result, arguments, end) in types_of.items():
        text = bytes.fromhex(code[name])
        constant = "".join(f"\\{byte:02x}" for byte in text)
        lines.append(
            f"define {hidden}{result} @{prefix}_{name}({arguments}) noinline nounwind "
            f'prologue [{len(text)} x i8] c"{constant}" {{ {end} }}'
        )
    return llvm.parse_assembly("\n".join(lines))


def cpu_check(prefix: str, level: Level):
    """``fits()``: whether the CPU has all that the level needs, and the system saves its registers."""
    if level.name not in SAVED:

        @inline
        def always():
            return True

        return always

    @instruction(types.int64, types.int64, types.int64, types.int64)
    def cpuid(builder, leaf, subleaf, which):
        signature = ir.FunctionType(ir.VoidType(), [INT32, INT32, INT32.as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, signature, f"{prefix}_cpuid")
        with builder.goto_entry_block():
            registers = builder.alloca(ir.ArrayType(INT32, 4))
        first = builder.bitcast(registers, INT32.as_pointer())
        builder.call(function, [builder.trunc(leaf, INT32), builder.trunc(subleaf, INT32), first])
        return builder.zext(builder.load(builder.gep(first, [which])), INT64)

    @instruction(types.int64)
    def saved(builder):
        signature = ir.FunctionType(INT32, [])
        function = cgutils.get_or_insert_function(builder.module, signature, f"{prefix}_xgetbv")
        return builder.zext(builder.call(function, []), INT64)

    features, registers = FEATURES[level.name], SAVED[level.name]
    # registers ECX, EBX and ECX of the leaves 1, 7 and 0x80000001
    masks = [sum(1 << bit for name, bit in leaf.bits.items() if name in features) for leaf in LEAVES]
    leaf_1, leaf_7, extended = masks[0] | OSXSAVE, masks[1], masks[2]

    @named("cpu_fits")
    def fits():
        if cpuid(0, 0, EAX) < 7 or cpuid(1, 0, ECX) & leaf_1 != leaf_1:
            return False
        if saved() & registers != registers or cpuid(7, 0, EBX) & leaf_7 != leaf_7:
            return False
        return cpuid(0x80000000, 0, EAX) >= 0x80000001 and cpuid(0x80000001, 0, ECX) & extended == extended

    return fits
