"""Memory of a call beyond its results.

Two independent measurements of the same call; the larger one counts. ``tracemalloc`` counts exactly what NumPy and
Python allocate, and nothing of other allocators. The high-water mark of resident memory includes every page that was
touched, but not pages that were resident and free before; free pages are therefore returned to the system first.
"""

from __future__ import annotations

import ctypes
import gc
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numlstm.base.config import Config
from numlstm.bench.engines import results

WORKSPACE = 16 << 20  # most bytes of the workspace of a call


def promised_bytes(config: Config, sequence_length: int, batch_size: int, itemsize: int) -> int:
    """The promised limit on the memory of a call beyond input, output and weights.

    `WORKSPACE`, and one sequence of the hidden size per direction if there are several layers.

    Examples
    --------
    >>> promised_bytes(Config(8, 64, 2), 1000, 32, 4) - WORKSPACE
    8192000
    """
    between = config.num_directions * sequence_length * batch_size * config.hidden_size * itemsize
    return WORKSPACE + (between if config.num_layers > 1 else 0)


def extra_bytes(call: Callable[[], Any]) -> int:
    """Bytes of memory at the peak of a call beyond the arrays that it returns.

    Parameters
    ----------
    call : callable
        Returns ``output, (h_n, c_n)``. Call it once before, so that the kernels are loaded.
    """
    _give_back_free_pages()
    forget = _forget_high_water_mark()
    resident = _status("VmRSS")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        returned = call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    own = sum(array.nbytes for array in results(returned))
    allocated = peak - before - own
    touched = _status("VmHWM") - resident - own if forget else 0
    return max(0, allocated, touched)


def high_water_above(call: Callable[[], Any]) -> int:
    """Bytes of resident memory at the peak of a call beyond those before it, including mapped files and its result."""
    _give_back_free_pages()
    if not _forget_high_water_mark():
        raise NotImplementedError("this system cannot reset the high-water mark of a process's memory")
    before = _status("VmRSS")
    kept = call()
    peak = _status("VmHWM")
    del kept
    return peak - before


def sees_pages() -> bool:
    """Whether this system reports the high-water mark; if not, only ``tracemalloc`` counts."""
    return _forget_high_water_mark()


def _forget_high_water_mark() -> bool:
    """Reset the mark to the resident memory of now (Linux: proc_pid_clear_refs(5))."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    """Bytes in a field of /proc/self/status, 0 if there is no such file."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    return 0


def _give_back_free_pages() -> None:
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
