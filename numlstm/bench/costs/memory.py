"""What a call costs in memory beyond its results.

Two measures that know nothing of each other, of the same call. ``tracemalloc`` counts, to the byte, what NumPy and
Python allocate, and sees nothing of other allocators. The high-water mark of resident memory sees every page that
was touched, whoever asked for it, but not pages that were resident and free before; so free pages are given
back to the system first. The larger of the two is the answer.
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
from numlstm.bench.peers import results

WORKSPACE = 16 << 20  # bytes that any call may take


def promised_bytes(config: Config, sequence_length: int, batch_size: int, itemsize: int) -> int:
    """What a call may cost at most beyond input, output and weights.

    One sequence of the hidden size per direction where there are several layers, and `WORKSPACE`.

    Examples
    --------
    >>> promised_bytes(Config(8, 64, 2), 1000, 32, 4) - WORKSPACE
    8192000
    """
    between = config.num_directions * sequence_length * batch_size * config.hidden_size * itemsize
    return WORKSPACE + (between if config.num_layers > 1 else 0)


def extra_bytes(call: Callable[[], Any]) -> int:
    """Bytes that one call takes at its peak beyond the arrays that it returns.

    Parameters
    ----------
    call : callable
        Gives ``output, (h_n, c_n)``. Kernels should be loaded already: loading is not what is measured.
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


def high_water_above(act: Callable[[], Any]) -> int:
    """Bytes of resident memory at the peak of an act beyond those before it, mapped files included.

    What the act returns is alive while it is measured.
    """
    _give_back_free_pages()
    if not _forget_high_water_mark():
        raise NotImplementedError("this system does not tell the high-water mark of a part of a process's life")
    before = _status("VmRSS")
    kept = act()
    peak = _status("VmHWM")
    del kept
    return peak - before


def sees_pages() -> bool:
    """Whether this system tells the high-water mark; where it does not, only ``tracemalloc`` counts."""
    return _forget_high_water_mark()


def _forget_high_water_mark() -> bool:
    """Set the mark to what is resident now (Linux: proc_pid_clear_refs(5))."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    """Bytes in a field of /proc/self/status, 0 where there is no such file."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) << 10
    return 0


def _give_back_free_pages() -> None:
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
