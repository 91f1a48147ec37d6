"""Give a kernel's C functions: prebuilt, from the cache, or built and cached. All loading passes through here.

Each source is imported only if the one before has nothing: a prebuilt kernel needs neither Numba nor llvmlite, a
cached one llvmlite only.
"""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from typing import cast

from numlstm.base.cell_options import PLAIN, CellOptions
from numlstm.base.fork_locks import fork_safe, let_forks_pass

from . import prebuilt
from .entry_points import Kernel, TrainingKernel
from .fingerprint import TRAINING
from .levels import Level, this_machine, x86_flags

if not os.path.isdir(prebuilt.FOLDER):  # jit imports it, and a fork must not come amid an import
    import logging  # noqa: F401
_lock = fork_safe(threading.Lock())
_loaded: dict[str, Kernel | TrainingKernel] = {}


@cache
def level() -> Level:
    """The level that this process loads kernels for."""
    return this_machine()


@cache
def level_of(number: str) -> Level:
    """The level of the kernels of this name."""
    return level().of(number, x86_flags())


def lanes(number: str) -> int:
    """Numbers of this type in a register of this process's kernels."""
    return level_of(number).lanes(number)


def kernel(number: str, options: CellOptions = PLAIN) -> Kernel:
    """The kernel for "float32" or "float64" and a cell, loaded on first use. Safe from any number of threads.

    Raises
    ------
    ImportError
        There is none, and Numba or llvmlite cannot be imported or may not have the memory to make one.
    """
    return cast(Kernel, _load(options.kernel(number)))


def training_kernel(number: str) -> TrainingKernel:
    """The kernel of training, likewise."""
    return cast(TrainingKernel, _load(number + TRAINING))


def _load(number: str) -> Kernel | TrainingKernel:
    """The kernel of that name."""
    loaded = _loaded.get(number)
    if loaded is None:
        begun, reason = time.perf_counter(), ""
        with _lock:
            loaded = _loaded.get(number)
            if loaded is None:
                try:
                    loaded = _loaded[number] = prebuilt.load(number, level_of(number), begun)
                except prebuilt.Unfit as unfit:
                    reason = str(unfit)
                    # under the lock: a child that is forked amid an import would wait for its end forever
                    from . import jit
    if loaded is None:
        let_forks_pass()  # forks that waited for the import do not know the lock that it brought
        with jit.lock:
            loaded = _loaded.get(number)
            if loaded is None:
                loaded = _loaded[number] = jit.kernel(number, level_of(number), reason, begun)
    return loaded
