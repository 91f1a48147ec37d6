"""How time grows with a size: the batch, the steps and the hidden size, each doubled while the rest stays.

Twice the rows or steps are twice the work, and twice the hidden size four times. Time must not grow faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .grid import Workload
from .results import Result

BASE = Workload("", 64, 128, 1, 1, 32, 8)
FIELDS = {"B": "batch_size", "T": "sequence_length", "H": "hidden_size"}
SIZES = {"B": (8, 16, 32, 64, 128, 256), "T": (32, 64, 128, 256, 512, 1024), "H": (32, 64, 128, 256, 512, 1024)}
AT_MOST = {"B": 1, "T": 1, "H": 2}  # exponents of the work for large sizes


def workload(axis: str, size: int, dtype: str = "float32") -> Workload:
    """The workload of one size.

    Examples
    --------
    >>> workload("T", 64).sequence_length
    64
    """
    sizes = {FIELDS[axis]: size}
    return replace(BASE, name=f"{axis}={size}", dtype=dtype, **sizes)  # type: ignore[arg-type]


def doubled(dtype: str = "float32") -> list[Workload]:
    """Every size of every axis, ``B=8`` and so on."""
    return [workload(axis, size, dtype) for axis, sizes in SIZES.items() for size in sizes]


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The exponent p of a time that grows as size**p: the slope of a straight line through the logarithms.

    Examples
    --------
    >>> round(exponent([1, 2, 4], [3, 6, 12]), 6), round(exponent([1, 2, 4], [3, 12, 48]), 6)
    (1.0, 2.0)
    """
    slope, _ = np.polyfit(np.log(sizes), np.log(times), 1)
    return float(slope)


def times_by_axis(results: Sequence[Result], engine: str) -> dict[str, tuple[list[int], list[float]]]:
    """Sizes and microseconds by axis, for the workloads on which an engine was measured."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for result in results:
        axis, _, size = result.workload.name.partition("=")
        if engine in result.measured:
            sizes, times = found.setdefault(axis, ([], []))
            sizes.append(int(size))
            times.append(result.median(engine))
    return found


def exponents(results: Sequence[Result], engine: str) -> dict[str, float]:
    """The exponent of each axis with at least two sizes."""
    return {axis: exponent(*both) for axis, both in times_by_axis(results, engine).items() if len(both[0]) > 1}
