"""Random configurations, to find the slow sizes that are not in the grid."""

from __future__ import annotations

import math

import numpy as np

from .grid import Workload

INPUTS, HIDDEN, ROWS, STEPS, LAYERS = (1, 1024), (1, 1024), (1, 256), (1, 1000), (1, 3)
FMAS = 2_000_000_000  # most of a call: about 30 ms of a core at its peak
MOST_FMAS = 20_000_000_000
DOUBLE, PROJECTED = 1 / 5, 1 / 6  # shares of all configurations


def configurations(count: int, seed: int = 0, fmas: int = FMAS) -> list[Workload]:
    """`count` random workloads, the same for the same arguments.

    Sizes are log-uniform: every order of magnitude is as likely, and most sizes are not a multiple of a register's
    lanes. A workload of more than `fmas` multiply-adds is drawn again. Its name is its sizes, as for ``--sizes``.

    Parameters
    ----------
    count : int
        Number of workloads.
    seed : int
        Of the random numbers.
    fmas : int
        Most multiply-adds of a call.

    Examples
    --------
    >>> [workload.name for workload in configurations(2, seed=3)]
    ['5,1,1,2,55,1,batch_first', '2,3,2,1,35,10']
    """
    random = np.random.default_rng(seed)
    workloads: list[Workload] = []
    while len(workloads) < count:
        workload = _draw(random)
        if workload.fmas <= fmas:
            workloads.append(workload)
    return workloads


def _draw(random: np.random.Generator) -> Workload:
    def size(bounds: tuple[int, int]) -> int:
        least, most = bounds
        return min(most, int(math.exp(random.uniform(math.log(least), math.log(most + 1)))))

    hidden_size = size(HIDDEN)
    projected = hidden_size > 1 and random.random() < PROJECTED
    workload = Workload(
        "",
        size(INPUTS),
        hidden_size,
        int(random.integers(LAYERS[0], LAYERS[1] + 1)),
        int(random.integers(1, 3)),
        size(STEPS),
        size(ROWS),
        int(random.integers(1, hidden_size)) if projected else 0,
        "float64" if random.random() < DOUBLE else "float32",
        bool(random.integers(2)),
    )
    return workload.named(workload.sizes)
