"""Compiles all kernels without a device, to PTX by NVVM and to machine code by ptxas, and checks the result.

``python -m numlstm.cuda.gate`` prints the table of ``docs/cuda.md``. It exits with 1 if it finds a fault.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import numba
import numpy as np

from . import planner
from .device import cuda
from .kernels import registry

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")
# (kernel, dtype, rows of a tile, or units for "register"): all choices of the planner, "register" at some sizes
CASES = (
    *(("project", dtype, 0) for dtype in ("float32", "float64")),
    *(("project_hidden", dtype, 0) for dtype in ("float32", "float64")),
    *((kernel, dtype, 0) for kernel in ("flush_copy", "pack", "unpack", "arrange") for dtype in ("float32", "float64")),
    *(
        (kernel, dtype, rows)
        for kernel in ("stream", "step")
        for dtype, size in (("float32", 4), ("float64", 8))
        for rows in sorted(planner.TILES[size])
    ),
    *(("register", "float32", units) for units in (1, 17, 32, 40, 64)),
    *(("register", "float64", units) for units in (1, 17, 32)),
)
ARGUMENTS = {  # of each kernel: i an integer, a an array of numbers, t a table of integers
    "project": "iiii aiiii aii aiii",
    "project_hidden": "iiii aiiii aii aiii",
    "flush_copy": "iii aiiii ai",
    "pack": "iii ti a aiiii",
    "unpack": "iii ti a aiiii",
    "arrange": "iii ti a a",
    "stream": "iii tii ai ai aiiii ai ai",
    "register": "ii tii ai ai aiiii ai ai",
    "step": "iii ai ai aii ai aii",
}
APPROXIMATE = re.compile(r"\b\w+\.approx\S*|\b(?:div|rcp|sqrt)\.full\S*|\b\w+\.ftz\S*")


class Made(NamedTuple):
    """One kernel for one architecture."""

    kernel: str
    dtype: str
    rows: int
    architecture: str
    threads: int
    registers: int
    shared: int
    fmas: int
    findings: tuple[str, ...]


def ptxas():
    """The assembler of the extra, or None."""
    for folder in map(Path, sys.path):
        for place in ("nvidia/cuda_nvcc/bin/ptxas", "nvidia/cu13/bin/ptxas"):
            if (folder / place).is_file():
                return folder / place
    return None


def compiled_for(capability):
    """Replace the device that numba-cuda asks for its compute capability; there may be none here."""
    from numba.cuda import dispatcher

    stand_in = SimpleNamespace(compute_capability=capability)
    return patch.object(dispatcher, "get_current_device", lambda: stand_in)


def ptx_of(kernel, dtype, rows, architecture, function=None):
    """The PTX of a kernel, and the threads it is compiled for."""
    source, threads = registry.source(kernel, dtype, rows)
    number = numba.from_dtype(np.dtype(dtype))
    kinds = {"i": numba.int64, "a": number[::1], "t": numba.int64[::1]}
    signature = tuple(kinds[letter] for letter in ARGUMENTS[kernel] if letter != " ")
    capability = divmod(int(architecture[3:]), 10)
    with compiled_for(capability):
        ptx, _ = cuda.compile_ptx(function or source, signature, device=False, cc=capability, launch_bounds=threads)
    return ptx, threads


def assembled(ptx, architecture):
    """Registers, stack, spills and shared memory, as ptxas reports them."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        done = subprocess.run(
            [ptxas(), "-v", f"-arch={architecture}", source, "-o", Path(folder, "kernel.cubin")],
            capture_output=True,
            text=True,
            check=True,
        )

    def number(pattern):
        found = re.search(pattern, done.stderr)
        return int(found[1]) if found else 0

    return {
        "registers": number(r"Used (\d+) registers"),
        "stack": number(r"(\d+) bytes stack"),
        "spills": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        "shared": number(r"(\d+) bytes smem"),
    }


def findings(dtype, ptx, facts, threads):
    """Faults of a kernel, as sentences."""
    said = []
    if facts["stack"] or ".local" in ptx:
        said.append(f"{facts['stack']} bytes of local memory")
    if facts["spills"]:
        said.append(f"{facts['spills']} bytes spilled")
    if dtype == "float32" and ".f64" in ptx:
        said.append(f"{len(re.findall(r'[.]f64', ptx))} times float64 in a float32 kernel")
    if approximate := sorted(set(APPROXIMATE.findall(ptx))):
        said.append(f"not exact: {', '.join(approximate)}")
    kind = "f32" if dtype == "float32" else "f64"
    if unsaid := re.findall(rf"\b(?:add|sub|mul)\.{kind}\b", ptx):
        said.append(f"{len(unsaid)} operations that may be contracted")
    if facts["registers"] > planner.THREAD_REGISTERS:
        said.append(f"{facts['registers']} registers a thread")
    warps = -(-threads // planner.WARP)
    if warps * planner.WARP * -(-facts["registers"] // 8) * 8 > planner.REGISTER_FILE:
        said.append(f"{facts['registers']} registers of {threads} threads are more than a multiprocessor has")
    if facts["shared"] > planner.SHARED:
        said.append(f"{facts['shared']} bytes of shared memory")
    return tuple(said)


def check(kernel, dtype, rows, architecture, function=None):
    """Compile one kernel for one architecture and check it; ``function`` replaces its source."""
    ptx, threads = ptx_of(kernel, dtype, rows, architecture, function)
    facts = assembled(ptx, architecture)
    said = findings(dtype, ptx, facts, threads)
    fmas = len(re.findall(r"\bfma\.rn\.", ptx))
    return Made(kernel, dtype, rows, architecture, threads, facts["registers"], facts["shared"], fmas, said)


def table(made):
    """The lines of the table in ``docs/cuda.md``."""
    lines = [
        "| kernel | dtype | rows or units | threads | static shared bytes | FMAs in PTX | registers on "
        + ", ".join(ARCHITECTURES)
        + " |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        of_case = [each for each in made if (each.kernel, each.dtype, each.rows) == case]
        first = of_case[0]
        registers = ", ".join(str(each.registers) for each in of_case)
        lines.append(
            f"| {first.kernel} | {first.dtype} | {first.rows or ''} | {first.threads} | "
            f"{first.shared} | {first.fmas} | {registers} |"
        )
    return lines


def main():
    """Print the table and the faults."""
    made = [check(*case, architecture) for case in CASES for architecture in ARCHITECTURES]
    print("\n".join(table(made)))
    wrong = [f"{each.kernel} {each.dtype} {each.rows} {each.architecture}: {'; '.join(each.findings)}"
             for each in made if each.findings]  # fmt: skip
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
