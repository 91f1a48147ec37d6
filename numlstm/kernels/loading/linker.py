"""Link an object in memory by llvmlite, without Numba."""

from __future__ import annotations

from .entry_points import ENTRIES, TRAINING_ENTRIES, Kernel, TrainingKernel, callable_kernel, callable_training
from .levels import Level


def link(code: bytes, level: Level, origin: str, begun: float, training: bool = False) -> Kernel | TrainingKernel:
    """Load an object by LLVM's linker."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    # keep code and constants in one piece of memory: in a large process LLVM's own manager may put them more than 2 GB
    # apart, which ends the process (llvm/llvm-project#71963, halide/Halide#3208)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=True)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = {name: engine.get_function_address(name) for name in (TRAINING_ENTRIES if training else ENTRIES)}
    if not all(address.values()):
        raise RuntimeError(f"the kernel object lacks one of its entries {', '.join(address)}")
    return (callable_training if training else callable_kernel)(address, level, origin, begun, engine)
