"""``numlstm info``: versions, the CPU and its kernels."""

from __future__ import annotations

import click

from numlstm.base.config import QUANTIZED
from numlstm.bench.hardware import machine
from numlstm.commands.messages import one_line, reports_errors
from numlstm.cuda import presence
from numlstm.kernels.loading import cache, registry
from numlstm.runtime import cores, threads


@click.command("info")
@reports_errors
def command() -> None:
    """Show versions, the CPU, and which kernels run on it."""
    facts, level = machine.facts(), registry.level()
    _row("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    _row("Python", f"{facts['python']}, {facts['system']}")
    _row("CPU", ", ".join(filter(None, (facts["cpu"], facts["cpu_model"]))))
    _row("cores", f"{cores.usable_cores()} usable")
    _row("threads", f"{threads.get_num_threads()} at most for a call, {threads.source()}")
    _row("caches", machine.in_words(facts["caches"]))
    fused = "fused multiply-add" if level.fused else "no fused multiply-add: other bits than on CPUs that have it"
    _row("kernels for", f"{level.name}: {level.registers} registers of {level.register_bytes * 8} bits, {fused}")
    try:
        _row("cache folder", str(cache.cache_folder()))
    except OSError as error:
        _row("cache folder", f"none: {error}")
    cuda = presence.look()
    found = ", ".join(filter(None, (cuda.device, cuda.driver, cuda.extra)))
    _row("CUDA", found if cuda.missing is None else one_line(f"none: {cuda.missing}"))
    for dtype in ("float32", "float64", *QUANTIZED):
        kernel = registry.kernel(dtype)
        _row(f"{dtype} kernels", f"{kernel.origin}; ready after {kernel.seconds * 1e3:.0f} ms")


def _row(name: str, value: str) -> None:
    click.echo(f"{name:16} {value}")
