"""The command ``numlstm``. Each command imports what it needs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import functools
import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from numlstm.base.console import encodable, printable, progress, tidy
from numlstm.base.log import watched

if TYPE_CHECKING:
    from numlstm.bench.grid import Line

P = ParamSpec("P")
FILE = click.Path(path_type=Path)  # whether it can be read is said by what reads it
NAME = click.option("--name", help="Which LSTM to use if the file holds several: a name from inspect.")
BATCH_FIRST = click.option(
    "--batch-first/--steps-first", default=None, help="Which axis comes first, if the file does not say."
)


class Finite(click.FloatRange):
    """A range that holds no NaN, which is neither below nor above anything, and no infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


def sentences(command: Callable[P, None]) -> Callable[P, None]:
    """What goes wrong for a reason the user can mend is one line and exit code 1, never a traceback.

    What the library warns of is a line as well. Neither holds control characters that came with a file. A signal that
    ends the command leaves no unfinished file.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with tidy(), warnings.catch_warnings(), encodable():
                warnings.showwarning = _warn  # type: ignore[assignment]
                command(*args, **kwargs)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise  # click's own ways of ending a command
        except (OSError, RuntimeError, TypeError, ValueError, ImportError) as error:
            raise click.ClickException(_told(error)) from error
        except MemoryError as error:
            raise click.ClickException(f"out of memory: {_line(str(error))}".rstrip(": ")) from error

    return wrapped


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return _line(f"{os.fsdecode(error.filename)}: {error.strerror}")
    return _line(str(error)) or type(error).__name__


def _warn(message: Warning | str, *where: Any) -> None:
    click.echo(f"Warning: {_line(str(message))}", err=True)


def _line(text: str) -> str:
    """The lines of a message as sentences on one line."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    ended = [line if line[-1] in ".:;,!?" else f"{line}." for line in lines[:-1]]
    return printable(" ".join([*ended, *lines[-1:]]))


class Commands(click.Group):
    """The command itself, whose own --help and --version may find no room where they are written to."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click does, but for an error of stdout."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if not kwargs.get("standalone_mode", True):
                raise
            click.echo(f"Error: {_told(error)}", err=True)
            sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="numlstm", message="%(package)s %(version)s")
def main() -> None:
    """An LSTM engine for the CPU with the interface of torch.nn.LSTM."""


@main.command()
@click.argument("file", type=FILE)
@click.option("--tensors", is_flag=True, help="Also list the other tensors.")
@sentences
def inspect(file: Path, tensors: bool) -> None:
    """List the LSTMs in a model FILE.

    Prints their names, sizes and dtypes, where they are in the file, and what prevents loading them, if anything. The
    exit code is 1 if there is none.
    """
    from numlstm.commands import inspect

    if not inspect.show(file, tensors, click.echo):
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("source", metavar="IN", type=FILE)
@click.argument("target", metavar="OUT", type=FILE)
@NAME
@click.option(
    "--dtype", type=click.Choice(["float32", "float64"]), help="Dtype of the saved parameters.  [default: as in IN]"
)
@BATCH_FIRST
@sentences
def convert(source: Path, target: Path, name: str | None, dtype: str | None, batch_first: bool | None) -> None:
    """Save the LSTM of model file IN as OUT, in another format.

    The suffix of OUT selects the format: .safetensors, .npz or .onnx. Only the LSTM is saved. An existing OUT is
    replaced, unless an error occurs.
    """
    from numlstm.commands import convert

    convert.convert(source, target, name=name, dtype=dtype, batch_first=batch_first, echo=_say)


class OneInput(click.Command):
    """A command with one INPUT at the end of its arguments, which may be a pattern: more are one that the shell saw."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but for what is said of arguments beyond the last."""
        ctx.allow_extra_args = True
        super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            given = [os.fspath(ctx.params["input"]), *ctx.args]
            shown = _line(", ".join(given[:3])) + (", ..." if len(given) > 3 else "")
            told = f"INPUT is one file, folder or pattern, and {len(given)} were given: {shown}"
            if all(name.lower().endswith(".parquet") for name in given):
                told += "; write a pattern in quotes, 'data/*.parquet', or the shell puts the names in its place"
            ctx.fail(told)
        return ctx.args


@main.command(cls=OneInput)
@click.argument("model", type=FILE)
@click.argument("input", type=FILE)
@click.option(
    "-o", "--out", type=FILE, required=True, help="The .npz file for output, h_n and c_n; for Parquet, a folder."
)
@click.option("--state", type=FILE, help="Initial states: the .npz of an earlier run, or one with h_0 and c_0.")
@NAME
@BATCH_FIRST
@click.option(
    "--chunk",
    metavar="MB",
    type=Finite(min=0, min_open=True),
    default=64.0,
    show_default=True,
    help="Memory for each piece of the work. The results do not depend on it.",
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Parquet: address of a Dask scheduler, or local.  [default: local]"
)
@click.option("--group", metavar="COLUMN", help="Parquet: the column that says which sequence a row belongs to.")
@click.option("--order", metavar="COLUMN", help="Parquet: the column that orders the steps of a sequence.")
@click.option(
    "--features",
    metavar="COLUMNS",
    help="Parquet: the columns of the input, separated by commas.  [default: all others]",
)
@click.option(
    "--per",
    type=click.Choice(["sequence", "step"]),
    help="Parquet: write a row per sequence or per step.  [default: sequence]",
)
@click.option("--whole", is_flag=True, help="Parquet: no sequence spans two files, so rows need no shuffle.")
@sentences
def run(
    *,
    model: Path,
    input: Path,
    out: Path,
    state: Path | None,
    name: str | None,
    batch_first: bool | None,
    chunk: float,
    scheduler: str | None,
    group: str | None,
    order: str | None,
    features: str | None,
    per: Any,
    whole: bool,
) -> None:
    """Run the LSTM of MODEL over the sequences in INPUT.

    INPUT is a .npy file of shape (steps, batch, features), or (batch, steps, features) if the batch comes first, or
    (steps, features); a .npz file with such an array named input and optionally h_0 and c_0; or a .csv file with one
    row per step. A .npy file may be larger than memory.

    INPUT may also be Parquet with one row per step: a file, a folder, or a quoted pattern (extra dask). OUT is then a
    folder. To resume a job, give the same command again.
    """
    if input.suffix.lower() == ".parquet" or (input.is_dir() and (group or order)):
        if not (group and order):
            raise click.UsageError("Parquet needs --group and --order: which sequence a row belongs to, and which step")
        for option, value in (("--state", state), ("--batch-first", batch_first)):
            if value is not None:
                raise click.UsageError(f"{option} is not for Parquet")
        from numlstm.dask import job

        columns = features.split(",") if features else None
        job.run(
            model,
            str(input),
            out,
            scheduler=scheduler or "local",
            group=group,
            order=order,
            features=columns,
            per=per or "sequence",
            whole=whole,
            name=name,
            echo=_say,
        )
        return
    given = {"--scheduler": scheduler, "--group": group, "--order": order, "--features": features, "--per": per}
    if unused := [option for option, value in (given | {"--whole": whole}).items() if value]:
        raise click.UsageError(f"{', '.join(unused)}: for Parquet files, and INPUT is none: {input}")
    from numlstm.commands import run

    run.run(
        model,
        input,
        out,
        state=state,
        name=name,
        batch_first=batch_first,
        chunk=int(min(chunk * 1e6, 1e18)),
        progress=progress,
        echo=_say,
    )


@main.command()
@click.argument("model", type=FILE)
@click.argument("input", type=FILE)
@click.option("-o", "--out", type=FILE, help="Write the gates and states of every step to this .npz file.")
@click.option("--plot", type=FILE, help="Draw them to this .png or .svg file.")
@click.option("--row", type=click.IntRange(min=0), default=0, show_default=True, help="The row of the batch to draw.")
@click.option(
    "--cell",
    "cells",
    multiple=True,
    metavar="NAME",
    help="Draw only this cell, such as l0 or l0_reverse. Repeatable.  [default: all]",
)
@click.option("--state", type=FILE, help="Initial states: the .npz of an earlier run, or one with h_0 and c_0.")
@NAME
@BATCH_FIRST
@sentences
def trace(
    *,
    model: Path,
    input: Path,
    out: Path | None,
    plot: Path | None,
    row: int,
    cells: tuple[str, ...],
    state: Path | None,
    name: str | None,
    batch_first: bool | None,
) -> None:
    """Show what the gates of MODEL do over the sequences in INPUT.

    INPUT is as for run, but not Parquet, and must fit in memory. For each layer and direction, the table has the
    median half-life of the units in steps (how long the forget gate takes to halve a cell's state), and the shares of
    gates that are closed (below 0.05) or open (above 0.95).
    """
    from numlstm.commands import trace

    trace.trace(
        model,
        input,
        out,
        picture=plot,
        row=row,
        cells=cells,
        state=state,
        name=name,
        batch_first=batch_first,
        echo=click.echo,
    )


@main.command()
@click.argument("model", type=FILE)
@NAME
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random input.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps per sequence.  [default: 50, fewer for large models]")
@click.option("--batch", type=click.IntRange(min=1), help="Rows of the batch.  [default: 4]")
@click.option("-o", "--out", type=FILE, help="Also write the report to this file.")
@sentences
def check(model: Path, name: str | None, seed: int, steps: int | None, batch: int | None, out: Path | None) -> None:
    """Check the LSTM of MODEL against the reference.

    Both run on random input, the reference in higher precision. Prints an accuracy report: the file's SHA-256, the
    versions, the errors and their limits. The exit code is 1 if an error is above its limit.
    """
    from numlstm.commands import check

    fault = check.check(model, name=name, seed=seed, steps=steps, batch=batch, out=out, echo=click.echo)
    if fault:
        raise RuntimeError(f"{model}: {fault}")


@main.command()
@click.argument("model", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, metavar="DIR", help="The folder to write to.")
@click.option(
    "--target",
    default="host",
    show_default=True,
    help="Platform of the library: host, x86_64-linux, aarch64-linux, aarch64-macos, x86_64-macos or x86_64-windows.",
)
@click.option(
    "--level",
    metavar="LEVEL",
    help="Level of x86-64 instructions: x86-64-v3, x86-64-v4, or x86-64, whose results have other bits.  "
    "[default: x86-64-v3]",
)
@click.option(
    "--prefix",
    default="numlstm",
    show_default=True,
    help="Prefix of the library's names. Libraries that are linked together need different ones.",
)
@click.option("--shared", is_flag=True, help="Also link a shared library. Needs a C compiler or the package ziglang.")
@NAME
@sentences
def export(
    *, model: Path, out: Path, target: str, level: str | None, prefix: str, shared: bool, name: str | None
) -> None:
    """Write the LSTM of MODEL as a library for C, C++ and Rust.

    Writes a header, a static library, the model as a binary file and an example in C to DIR. Running them needs no
    Python, and making them needs no C compiler.
    """
    from numlstm import files
    from numlstm.export import export

    export(files.load(model, name), out, target=target, level=level, prefix=prefix, shared=shared, echo=_say)


def _say(text: str) -> None:
    click.echo(_line(text))


@main.command()
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the forecast to this .png or .svg file with matplotlib.  [default: a chart in text]",
)
@sentences
def demo(plot: Path | None) -> None:
    """Time a small model and forecast atmospheric CO2.

    Also checks that the results are bitwise reproducible, and compares times and results with PyTorch if that is
    installed. The forecast is for years that the model was not trained on.
    """
    from numlstm.demo import run
    from numlstm.tracing.plot import drawable

    if plot:
        drawable(plot)  # before anything is measured that could not be drawn
    run(plot)


@main.command()
@click.option("--workload", "names", multiple=True, metavar="NAME", help="Measure only this workload. Repeatable.")
@click.option(
    "--sizes",
    multiple=True,
    metavar="I,H,L,D,T,B[,P]",
    help="A workload of your own: input, hidden, layers, directions, steps, batch and optionally proj_size. The words "
    "batch_first and float64 may follow. Repeatable.",
)
@click.option(
    "--sweep",
    metavar="N",
    type=click.IntRange(min=1),
    help="Measure N random configurations instead, sorted by speed-up.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sweep.")
@click.option(
    "--max-fmas",
    type=Finite(min=1e6, max=2e10),
    default=2e9,
    show_default=True,
    help="Largest number of multiply-adds per call in the sweep.",
)
@click.option(
    "--startup", is_flag=True, help="Measure time and memory of new processes up to their first result instead."
)
@click.option("--scaling", is_flag=True, help="Measure batches, steps and hidden sizes that double instead.")
@click.option(
    "--stream", is_flag=True, help="Measure single steps of a stream instead: throughput, latency, silence, Numba."
)
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(1, 256),
    help="Number of threads each engine may use. Repeatable.  [default: 1]",
)
@click.option(
    "--baselines",
    "peers",
    metavar="LIST",
    help="Engines to compare with, separated by commas, or none.  [default: all that are installed]",
)
@click.option("--rounds", type=click.IntRange(min=1), help="Turns of each engine.  [default: 15, sweep 5, quick 3]")
@click.option("--quick", is_flag=True, help="Few and short turns, to see that it works. Do not quote the results.")
@click.option("--reuse", is_flag=True, help="Let each engine reuse its output buffers, as with out=.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    show_default=True,
    help="Not for a sweep, which draws its own.",
)
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Save all raw samples to this JSON file.")
@click.option(
    "--show",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Print the table of a saved file, without measuring.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the results and a roofline to this .svg or .png file.",
)
@sentences
def bench(
    *,
    names: tuple[str, ...],
    sizes: tuple[str, ...],
    sweep: int | None,
    seed: int,
    max_fmas: float,
    startup: bool,
    scaling: bool,
    stream: bool,
    threads: tuple[int, ...],
    peers: str | None,
    rounds: int | None,
    quick: bool,
    reuse: bool,
    dtype: str,
    save: Path | None,
    show: Path | None,
    plot: Path | None,
) -> None:
    """Compare the speed with PyTorch and other baselines.

    Times numlstm, PyTorch, ONNX Runtime and OpenVINO, and measures the limits of this machine.

    The results of each engine are checked first. Then the engines take turns, so that a machine that slows down slows
    all of them. Baselines that are not installed are left out, and the report says so.
    """
    from numlstm.base import opening
    from numlstm.base.atomic import replacing
    from numlstm.base.wording import counted
    from numlstm.bench import measure, picture, table
    from numlstm.bench.peers import PEERS
    from numlstm.bench.results import Report
    from numlstm.bench.scaling import doubled
    from numlstm.bench.sweep import configurations
    from numlstm.runtime.threads import usable_cores
    from numlstm.tracing.plot import drawable

    if startup:
        if names or sizes or sweep or scaling or threads or reuse or save or show or plot:
            raise click.UsageError("--startup goes with --baselines, --rounds and --quick alone")
        _startup(_peers(peers, PEERS), rounds or (3 if quick else 15))
        return
    for option, file in (("--save", save), ("--plot", plot)):
        if file and not file.parent.is_dir():
            raise click.BadParameter(f"there is no folder {file.parent}", param_hint=option)
    if save and plot and save.resolve() == plot.resolve():
        raise click.UsageError(f"--save and --plot name the same file, {plot}")
    if plot:
        drawable(plot)  # before anything is measured that could not be drawn
    if show:
        if names or sizes or sweep or scaling or stream or threads or peers or rounds or quick or reuse or save:
            raise click.UsageError("--show goes with --plot alone")
        with opening.regular(show, "a report") as shown:
            report = Report.from_json(shown.read().decode(errors="replace"))
        click.echo(table.text(report))
        if plot:
            picture.save(report, plot)
        return
    if sum(map(bool, (names or sizes, sweep, scaling, stream))) > 1:
        raise click.UsageError(
            "--sweep, --scaling, --stream and chosen workloads (--workload, --sizes) exclude each other"
        )
    given = {name for name in ("seed", "max_fmas", "dtype") if _said(name)}
    if sweep and "dtype" in given:
        raise click.UsageError("--sweep draws its own dtypes: leave out --dtype")
    if not sweep and given & {"seed", "max_fmas"}:
        raise click.UsageError("--seed and --max-fmas go with --sweep")
    if stream:
        from numlstm.bench import streaming
        from numlstm.kernels.loading import registry

        if threads or rounds or reuse or save or plot or dtype != "float32":
            raise click.UsageError("--stream takes --baselines and --quick, and no other option")
        engines = _peers(peers, PEERS)
        registry.kernel("float32")  # that it is compiled is a line of its own, before those that are written over
        measured = streaming.text(engines, quick, _progress)
        _progress("")
        click.echo(measured)
        return
    kind = "sweep" if sweep else "scaling" if scaling else "lines"
    if sweep:
        lines = configurations(sweep, seed, int(max_fmas))
    else:
        lines = doubled(dtype) if scaling else _lines(names, sizes, dtype)
    if threads and max(threads) > usable_cores():
        click.echo(
            f"Warning: {max(threads)} threads take turns on {counted(usable_cores(), 'core')} here; the machine's "
            "limits, which are sums over threads, are then too high",
            err=True,
        )
    report = measure.run(
        lines,
        ["numlstm", *_peers(peers, PEERS)],
        threads=threads or (1,),
        rounds=rounds or (3 if quick else 5 if sweep else 15),
        seconds=0.005 if quick else 0.01 if sweep else 0.02,
        style="reuse" if reuse else "fresh",
        kind=kind,
        progress=_progress,
    )
    _progress("")
    click.echo(table.text(report))
    if save:
        with replacing(save) as written:
            written.write(report.to_json().encode())
    if plot:
        picture.save(report, plot)
    if wrong := measure.failures(report):
        raise RuntimeError("; ".join(wrong))


def _startup(peers: list[str], rounds: int) -> None:
    import tempfile

    from numlstm.bench import startup

    with tempfile.TemporaryDirectory() as folder:
        found = startup.measure(Path(folder), ["numlstm", *peers], rounds, _progress)
        _progress("")
        click.echo(startup.text(found))
    wrong = [f"{engine}: {reason}" for engine, reason in found.left_out.items() if "wrong result" in reason]
    if wrong:
        raise RuntimeError("; ".join(wrong))


def _lines(names: tuple[str, ...], sizes: tuple[str, ...], dtype: str) -> list[Line]:
    from dataclasses import replace

    from numlstm.bench import grid

    try:
        lines = [grid.find(name) for name in names]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--workload") from None
    try:
        own = [grid.Line.parse(text, dtype) for text in sizes]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--sizes") from None
    return [*(replace(line, dtype=dtype) for line in lines or ([] if own else grid.GRID)), *own]


def _peers(text: str | None, known: tuple[str, ...]) -> list[str]:
    if text is None:
        return list(known)
    names = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in known:
            fact = f"there is no baseline {name!r}; there are {', '.join(known)}"
            raise click.BadParameter(fact, param_hint="--baselines")
    return list(dict.fromkeys(names))


def _said(name: str) -> bool:
    """Whether an option of this command was given, and not its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _progress(what: str) -> None:
    """What is done now, on one line of a terminal that is written over; nothing anywhere else."""
    if watched():
        click.echo(f"\r\x1b[K{what}", nl=False, err=True)


@main.command()
@sentences
def info() -> None:
    """Show versions, the CPU, and which kernels run on it."""
    from numlstm.bench.hardware import machine
    from numlstm.cuda import presence
    from numlstm.kernels.loading import cache, registry
    from numlstm.runtime import threads

    def say(name: str, value: str) -> None:
        click.echo(f"{name:16} {value}")

    facts, level = machine.facts(), registry.level()
    say("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    say("Python", f"{facts['python']}, {facts['system']}")
    say("CPU", ", ".join(filter(None, (facts["cpu"], facts["cpu_model"]))))
    say("cores", f"{threads.usable_cores()} usable")
    say("threads", f"{threads.get_num_threads()} at most for a call, {threads.source()}")
    say("caches", machine.in_words(facts["caches"]))
    fused = "fused multiply-add" if level.fused else "no fused multiply-add: other bits than on CPUs that have it"
    say("kernels for", f"{level.name}: {level.registers} registers of {level.register_bytes * 8} bits, {fused}")
    try:
        say("cache folder", str(cache.cache_folder()))
    except OSError as error:
        say("cache folder", f"none: {error}")
    cuda = presence.look()
    there = ", ".join(filter(None, (cuda.device, cuda.driver, cuda.extra)))
    say("CUDA", _line(f"none: {cuda.missing}") if cuda.missing is not None else there)
    for number in ("float32", "float64"):
        kernel = registry.kernel(number)
        say(f"{number} kernels", f"{kernel.origin}; ready after {kernel.seconds * 1e3:.0f} ms")


@main.command()
@sentences
def warmup() -> None:
    """Compile and cache the kernels ahead of time.

    Does nothing for kernels that the package contains. Use it when you build a container image, so that the first
    process compiles nothing. NUMLSTM_CPU selects a lower level than this machine's. The exit code is 1 if the kernels
    cannot be cached.
    """
    from numlstm.commands import warmup

    warmup.warm(_say)
