"""Random configurations: what the grid does not name, so that no size is slow without anybody's knowing."""

from __future__ import annotations

import math

import numpy as np

from .grid import Line

INPUTS, HIDDEN, ROWS, STEPS, LAYERS = (1, 1024), (1, 1024), (1, 256), (1, 1000), (1, 3)
FMAS = 2_000_000_000  # of a call at most: some 30 ms of a core at its peak
MOST_FMAS = 20_000_000_000
DOUBLE, PROJECTED = 1 / 5, 1 / 6  # parts of all configurations


def configurations(count: int, seed: int = 0, fmas: int = FMAS) -> list[Line]:
    """As many lines, the same ones for the same arguments.

    Sizes are log-uniform, so that every order of magnitude has its share and most are no multiple of a register's
    lanes. A line beyond `fmas` multiply-adds a call is drawn anew. A line's name is its sizes, as ``--sizes`` reads
    them.

    Parameters
    ----------
    count : int
        How many.
    seed : int
        Of the random numbers.
    fmas : int
        What a call may take at most.

    Examples
    --------
    >>> [line.name for line in configurations(2, seed=3)]
    ['5,1,1,2,55,1,batch_first', '2,3,2,1,35,10']
    """
    random = np.random.default_rng(seed)
    lines: list[Line] = []
    while len(lines) < count:
        line = _draw(random)
        if line.fmas <= fmas:
            lines.append(line)
    return lines


def _draw(random: np.random.Generator) -> Line:
    def size(bounds: tuple[int, int]) -> int:
        least, most = bounds
        return min(most, int(math.exp(random.uniform(math.log(least), math.log(most + 1)))))

    hidden_size = size(HIDDEN)
    projected = hidden_size > 1 and random.random() < PROJECTED
    line = Line(
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
    return line.named(line.sizes)
