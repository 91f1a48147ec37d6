"""``numlstm warmup``: compile and cache the kernels before their first use, as in the build of a container image."""

from __future__ import annotations

import click

from numlstm.base.config import QUANTIZED
from numlstm.commands.messages import reports_errors, say
from numlstm.kernels.loading import cache, registry


@click.command("warmup")
@reports_errors
def command() -> None:
    """Compile and cache the kernels ahead of time, those of training too.

    Does nothing for kernels that the package contains. Use it when you build a container image, so that the first
    process compiles nothing. NUMLSTM_CPU selects a lower level than this machine's. The exit code is 1 if the kernels
    cannot be cached.
    """
    uncached = ""
    kernels = {f"{number} kernels": registry.kernel(number) for number in ("float32", "float64", *QUANTIZED)}
    training = {f"{number} training kernels": registry.training_kernel(number) for number in ("float32", "float64")}
    for what, kernel in (kernels | training).items():
        took = f", in {kernel.seconds:.1f} s" if kernel.origin.startswith("compiled") else ""
        say(f"{what} for {kernel.level.name}{took}: {kernel.origin}")
        uncached = kernel.origin if kernel.origin.startswith(cache.UNKEPT) else uncached
    if uncached:
        raise OSError(
            f"the next process has to compile again, since nothing could be cached: {uncached.partition(': ')[2]}\n"
            "Let NUMLSTM_CACHE_DIR name a folder of your own that nobody else can write to."
        )
