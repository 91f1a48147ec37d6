"""How many threads a call may use."""

from __future__ import annotations

import os
from contextlib import suppress
from types import TracebackType

from numlstm.runtime.cores import MOST, usable_cores

ONE_A_CORE, OF_OPENMP = "one for each core", "OMP_NUM_THREADS and cores"


def set_num_threads(num: int) -> None:
    """Set how many threads a call may use, in the whole process.

    A call uses more than one thread only if it has enough work, from about 200 microseconds on. Results have the same
    bits with any number.

    Parameters
    ----------
    num : int
        1 to 1024. With 1, a call runs on the calling thread only.

    Raises
    ------
    TypeError
        `num` is not an int; with PyTorch's text.
    RuntimeError
        It is below 1; with PyTorch's text.
    ValueError
        It is above 1024.

    Examples
    --------
    >>> import numlstm
    >>> before = numlstm.get_num_threads()
    >>> numlstm.set_num_threads(2)
    >>> numlstm.get_num_threads()
    2
    >>> numlstm.set_num_threads(before)
    """
    global _limit, _source
    _limit, _source = _checked(num), "set by set_num_threads"


def get_num_threads() -> int:
    """How many threads a call may use.

    Unless `set_num_threads` was called, it is ``NUMLSTM_NUM_THREADS``, which may exceed the number of cores. If that is
    not set, it is the number of cores that this process may use (CPU affinity, and the quota of its control group), and
    at most ``OMP_NUM_THREADS``.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        ``NUMLSTM_NUM_THREADS`` is not a number from 1 to 1024.
    """
    global _limit, _source
    if _limit is None:
        _limit, _source = _asked_for() or (usable_cores(), ONE_A_CORE)
    return _limit


def suggest(num: int, of: str) -> None:
    """Set how many threads a call may use, unless the user has, by `set_num_threads` or NUMLSTM_NUM_THREADS.

    `source` then gives ``of``.
    """
    global _limit, _source
    if (_source == "" or limited_by_cores()) and not os.environ.get("NUMLSTM_NUM_THREADS"):
        _limit, _source = _checked(num), of


def source() -> str:
    """Where the number of threads comes from, in words."""
    return _source


def limited_by_cores() -> bool:
    """Whether the number of threads follows from the cores that this process may use."""
    return _source in (ONE_A_CORE, OF_OPENMP)


class num_threads:
    """A context in which calls may use this many threads, in the whole process.

    At its end the previous number is restored, even if `set_num_threads` was called meanwhile.

    Parameters
    ----------
    num : int
        As for `set_num_threads`.

    Examples
    --------
    >>> import numlstm
    >>> with numlstm.num_threads(1):
    ...     numlstm.get_num_threads()
    1
    """

    def __init__(self, num: int) -> None:
        self.num = _checked(num)
        self.before: list[int] = []

    def __enter__(self) -> None:
        self.before.append(get_num_threads())
        set_num_threads(self.num)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        set_num_threads(self.before.pop())


_limit: int | None = None
_source = ""


def _checked(num: int) -> int:
    if isinstance(num, bool) or not hasattr(num, "__index__"):
        raise TypeError(f"set_num_threads expects an int, but got {type(num).__name__}")
    count = num.__index__()
    if count < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, not {count}")
    if count > MOST:
        raise ValueError(f"{count} threads are asked for; numlstm uses {MOST} at most")
    return count


def _asked_for() -> tuple[int, str] | None:
    """The number of threads that the environment sets, and the source of it."""
    if own := os.environ.get("NUMLSTM_NUM_THREADS"):
        try:
            return _checked(int(own)), "set by NUMLSTM_NUM_THREADS"
        except (ValueError, RuntimeError):
            raise ValueError(
                f"NUMLSTM_NUM_THREADS is {own!r}; it must be a whole number from 1 to {MOST}. "
                "Unset it to let numlstm choose."
            ) from None
    of_openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one number for each level of nesting
    with suppress(ValueError):  # digits that int does not take, or more of them than it takes
        if of_openmp.isdigit() and int(of_openmp) > 0:
            return min(int(of_openmp), usable_cores()), OF_OPENMP
    return None
