"""Kernels made ready ahead of their first use, as in the build of an image."""

from __future__ import annotations

from collections.abc import Callable

from numlstm.kernels.loading import jit, registry

NUMBERS = ("float32", "float64")


def warm(echo: Callable[[str], None]) -> None:
    """See to it that later processes compile nothing, for every number type; say of each where its kernels are.

    Raises
    ------
    OSError
        Kernels had to be compiled, and cannot be kept; the message says why.
    ImportError
        None are there, and what would compile them is not installed.
    """
    unkept = ""
    for number in NUMBERS:
        kernel = registry.kernel(number)
        took = f", in {kernel.seconds:.1f} s" if kernel.origin.startswith("compiled") else ""
        echo(f"{number} kernels for {kernel.level.name}{took}: {kernel.origin}")
        unkept = kernel.origin if kernel.origin.startswith(jit.UNKEPT) else unkept
    if unkept:
        raise OSError(
            f"the next process has to compile again, since nothing could be cached: {unkept.partition(': ')[2]}\n"
            "Let NUMLSTM_CACHE_DIR name a folder of your own that nobody else can write to."
        )
