"""What an engine is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from numlstm.base.typing import Array
from numlstm.bench.grid import Workload

STYLES = ("fresh", "reuse")


class LeftOutError(Exception):
    """An engine that cannot be measured; the message says why."""


@dataclass(frozen=True)
class Setting:
    """One way to make the call.

    ``call()`` returns ``output, h_n, c_n`` as NumPy arrays, flat or as ``output, (h_n, c_n)``. It runs inside
    ``context()``, which is entered once a round, before the clock starts.
    """

    call: Callable[[], Any]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Task:
    """What an engine is given. A call must not write to the inputs: all calls read the same arrays."""

    workload: Workload
    threads: int
    style: str
    parameters: Mapping[str, Array]
    inputs: tuple[Array, Array, Array]

    def bias(self, suffix: str) -> Array:
        """The sum of the two biases of a cell, such as ``"_l0"``."""
        bias: Array = self.parameters[f"bias_ih{suffix}"] + self.parameters[f"bias_hh{suffix}"]
        return bias


Engine = Callable[[Task], dict[str, Setting]]


def results(returned: Any) -> tuple[Array, Array, Array]:
    """``output, h_n, c_n`` of a call, nested or not."""
    if len(returned) == 2:
        output, (h_n, c_n) = returned
    else:
        output, h_n, c_n = returned
    return output, h_n, c_n


def package_version(name: str) -> str:
    """The installed version, or a LeftOutError that says how to install it."""
    try:
        return version(name)
    except PackageNotFoundError:
        raise LeftOutError(f"{name} is not installed (pip install {name})") from None


def check_supported(
    workload: Workload,
    engine: str,
    *,
    dtypes: tuple[str, ...] = ("float32",),
    batch_first: bool = True,
    both_directions: bool = True,
) -> None:
    """Raise LeftOutError for what an engine's LSTM lacks. No engine that calls this has proj_size."""
    if workload.proj_size:
        raise LeftOutError(f"the LSTM that {engine} runs here has no proj_size")
    if workload.dtype not in dtypes:
        raise LeftOutError(f"{engine}'s LSTM on the CPU computes in {' or '.join(dtypes)}, not in {workload.dtype}")
    if workload.batch_first and not batch_first:
        raise LeftOutError(f"the LSTM that {engine} runs here has the steps first")
    if workload.directions == 2 and not both_directions:
        raise LeftOutError(f"the LSTM that {engine} runs here has one direction")
