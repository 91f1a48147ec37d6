"""Faults planted in a kernel, which the gate of ``numlstm.cuda.gate`` must find: prints each fault and its findings."""

import json
import math

import numba
import numpy as np
from numba import cuda

from numlstm.cuda import gate

single = np.float32


def in_float64(count, rows, features, source, at, cell_stride, row_stride, feature_stride, target, target_at):
    total = 0.0
    for k in range(count):
        total += source[k]
    target[target_at] = total


def approximate(count, rows, features, source, at, cell_stride, row_stride, feature_stride, target, target_at):
    target[target_at] = math.exp(source[at])


def contracted(count, rows, features, source, at, cell_stride, row_stride, feature_stride, target, target_at):
    target[target_at] = source[at] + source[at + 1]


def in_local_memory(count, rows, features, source, at, cell_stride, row_stride, feature_stride, target, target_at):
    kept = cuda.local.array(300, numba.float32)
    for k in range(count):
        kept[k % 300] = source[k]
    target[target_at] = kept[at % 300]


def too_much_shared(count, rows, features, source, at, cell_stride, row_stride, feature_stride, target, target_at):
    kept = cuda.shared.array(12000, numba.float32)
    for k in range(count):
        kept[k] = source[k]
    cuda.syncthreads()
    target[target_at] = kept[at]


def main():
    """Compile each."""
    said = {}
    for function in (in_float64, approximate, contracted, in_local_memory, too_much_shared):
        said[function.__name__] = gate.check("flush_copy", "float32", 0, "sm_80", function).findings
    # registers: one more multiprocessor's worth than there is
    facts = {"registers": 160, "stack": 0, "spills": 8, "shared": 48 * 1024 + 1}
    said["figures"] = gate.findings("float32", "", facts, 512)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
