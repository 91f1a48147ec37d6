"""The limits of this machine, measured: multiply-adds a second, and bytes read a second from each cache and memory.

The frequency of a CPU changes, so engines and limits are compared within a run: ``Limits.sample`` is short enough to
take a turn in every round.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from numlstm.base.typing import Array
from numlstm.bench.hardware.machine import cache_sizes, memory_bytes
from numlstm.bench.hardware.probes import STREAMS, Kernel, fma_kernel, read_kernel, registers

TRIES = 3  # runs of a probe in a sample; the fastest counts, as the others may have lost the core


def aligned(size: int, dtype: str) -> Array:
    """An array of ones, aligned to a cache line. Every page is touched."""
    itemsize = np.dtype(dtype).itemsize
    array: Array = np.ones(size + 64 // itemsize, dtype)
    return array[(-array.ctypes.data % 64) // itemsize :][:size]


class _Probe:
    """The kernel of a limit, its data for each thread, and the operations or bytes of a pass (`worth`)."""

    def __init__(self, kernel: Kernel, width: int, data: list[Array], worth: int) -> None:
        self.kernel, self.data, self.worth = kernel, data, worth
        self.results = [aligned(width // d.itemsize, d.dtype.name) for d in data]  # the register that a kernel writes
        plans = zip(data, self.results, strict=True)
        self.plans = [np.array([1, d.ctypes.data, r.ctypes.data, d.size], np.int64) for d, r in plans]

    def run(self, thread: int) -> float:
        """Operations or bytes a second."""
        address = self.plans[thread].ctypes.data
        start = time.perf_counter_ns()
        self.kernel(address)
        return self.worth * int(self.plans[thread][0]) / (time.perf_counter_ns() - start) * 1e9

    def calibrate(self, seconds: float) -> None:
        """Choose the number of passes so that a run takes about `seconds`."""
        passes = 1
        while True:
            self.plans[0][0] = passes
            pace = max(self.run(0) for _ in range(3)) / self.worth  # the fastest, as another process may hold the core
            if passes / pace >= seconds / 4:
                break
            passes *= 4
        for plan in self.plans:
            plan[0] = max(1, round(pace * seconds))


class Limits:
    """FMA peaks and bandwidths of `threads` threads together.

    Parameters
    ----------
    threads : int
        Threads that run at once.
    seconds : float
        Approximate duration of a probe in a sample; a pass over a buffer larger than the caches may take longer.
    caches : dict of str to int, optional
        Bytes of ``L1``, ``L2``, ``L3``; by default those that the system reports.

    Notes
    -----
    The probe of the memory reads four times the size of L3, but at most a quarter of the memory. The probe of a cache
    reads half its size; that of L3, which other cores share, at most four times the size of L2.
    """

    def __init__(self, threads: int = 1, seconds: float = 0.002, caches: dict[str, int] | None = None) -> None:
        self.threads = threads
        self.probes = {**self._peaks(), **self._bandwidths(caches or cache_sizes())}
        for probe in self.probes.values():
            probe.calibrate(seconds / TRIES)

    def _peaks(self) -> dict[str, _Probe]:
        widths, count, fused = registers()
        chains = 24 if count >= 32 else 12  # more than ports x latency (2 x 5, 4 x 4), few enough to stay in registers
        probes = {}
        for dtype in ("float32", "float64"):
            for width in widths:
                lanes = width // np.dtype(dtype).itemsize
                numbers = aligned((2 + chains) * lanes, dtype)
                numbers[: 2 * lanes] = 0.5  # s * 0.5 + 0.5 converges to 1
                numbers[2 * lanes :] = np.linspace(0, 1, chains * lanes)
                kernel = fma_kernel(dtype, lanes, chains, fused)
                probes[f"fma_{dtype}_{width * 8}"] = _Probe(kernel, width, [numbers] * self.threads, 2 * chains * lanes)
        return probes

    def _bandwidths(self, caches: dict[str, int]) -> dict[str, _Probe]:
        (width, *_), _, _ = registers()
        l1, l2, l3 = (caches[level] for level in ("L1", "L2", "L3"))
        sizes = {
            "L1": l1 // 2,
            "L2": l2 // 2,
            "L3": max(2 * l2, min(l3 // (2 * self.threads), 4 * l2)),
            "memory": min(4 * l3, memory_bytes() // 4) // self.threads,
        }
        kernel, pace = read_kernel(width), STREAMS * width
        probes = {}
        for level, wanted in sizes.items():
            size = max(1, wanted // pace) * pace
            data = [aligned(size // 4, "float32") for _ in range(self.threads)]
            probes[f"read_{level}"] = _Probe(kernel, width, data, size)
        return probes

    def sample(self) -> dict[str, float]:
        """One measurement of every limit.

        Returns
        -------
        dict of str to float
            ``fma_{dtype}_{bits}`` in GF/s, a multiply-add counted as two; ``read_{level}`` in GB/s.
        """
        barrier = threading.Barrier(self.threads)
        with ThreadPoolExecutor(self.threads) as pool:

            def run(probe: _Probe, thread: int) -> float:
                barrier.wait()
                return probe.run(thread)

            def together(probe: _Probe) -> float:
                return sum(pool.map(run, [probe] * self.threads, range(self.threads)))

            return {name: max(together(probe) for _ in range(TRIES)) / 1e9 for name, probe in self.probes.items()}
