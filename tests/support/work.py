"""How much Python does: lines and calls are counted, so that tests compare work and not time.

`operations` counts what a callable runs in this thread: every line, every call of a Python function and of one in C.
What a single call does inside C is not seen: `x in a_long_list` is one operation. `growth` compares sizes.
"""

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

SLACK = 1.25  # above what is proportional; a constant part makes it less, a sort's logarithm a little more


def operations(call: Callable[[], Any]) -> int:
    """Lines, calls and calls into C that ``call()`` makes; what it returns is dropped, what it raises goes on."""
    count = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return line

    def c_call(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event == "c_call":
            count += 1

    traced, profiled = sys.gettrace(), sys.getprofile()
    sys.settrace(line)
    sys.setprofile(c_call)
    try:
        call()
    finally:
        sys.setprofile(profiled)
        sys.settrace(traced)
    return count


def growth(call: Callable[[int], Callable[[], Any]], sizes: Iterable[int]) -> list[float]:
    """Operations at each size over those at the first one, in proportion to the size: 1 and less where it is linear.

    Parameters
    ----------
    call : callable
        Given a size, prepares the work and returns the callable that does it, of which the operations are counted.
    sizes : iterable of int
        As a rule n, 2 n and 4 n.
    """
    sizes = list(sizes)
    counts = []
    for size in sizes:
        work = call(size)
        counts.append(operations(work))
    return [count / counts[0] * sizes[0] / size for count, size in zip(counts, sizes, strict=True)]


def assert_linear(call: Callable[[int], Callable[[], Any]], first: int) -> None:
    """Fail where the work at 2 and 4 times the size is more than 2 and 4 times as much."""
    ratios = growth(call, (first, 2 * first, 4 * first))
    assert max(ratios) <= SLACK, f"work in proportion to the size: {ratios}; at most {SLACK} is linear"
