"""``numlstm bench``: the measurements of `numlstm.bench`, as tables, files and pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from numlstm.base import opening
from numlstm.base.atomic import replacing
from numlstm.base.wording import counted
from numlstm.bench import engines, grid, measure, picture, scaling, startup, streaming, sweep, table, training
from numlstm.bench.results import Report
from numlstm.commands.messages import reports_errors, status
from numlstm.commands.options import OUTPUT, Finite
from numlstm.kernels.loading import registry
from numlstm.runtime.cores import usable_cores
from numlstm.tracing.plot import drawable

QUICK = click.option(
    "--quick", is_flag=True, help="Few and short turns, to see that it works. Do not quote the results."
)
DTYPE = click.option("--dtype", type=click.Choice(grid.DTYPES), default="float32", show_default=True)


def _rounds(default: int) -> Callable[[Any], Any]:
    text = f"Turns of each engine.  [default: {default}, quick 3]"
    return click.option("--rounds", type=click.IntRange(min=1), help=text)


def _baselines(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str]:
    """The names in a list; all baselines if there is no list, and none if it is "none"."""
    if value is None:
        return list(engines.BASELINES)
    names = [name.strip() for name in value.split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in engines.BASELINES:
            raise click.BadParameter(f"there is no baseline {name!r}; there are {', '.join(engines.BASELINES)}")
    return list(dict.fromkeys(names))


BASELINES = click.option(
    "--baselines",
    metavar="LIST",
    callback=_baselines,
    help="Engines to compare with, separated by commas, or none.  [default: all that are installed]",
)


def _output(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Check the folder of a file before the measurement, not after it."""
    if value and not value.parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.parent}")
    return value


PLOT = click.option(
    "--plot", type=OUTPUT, callback=_output, help="Draw the results and a roofline to this .svg or .png file."
)


def measuring(rounds: int) -> Callable[[Any], Any]:
    """The options of every command that measures workloads in turns."""
    options = (
        click.option(
            "--threads",
            multiple=True,
            type=click.IntRange(1, 256),
            help="Number of threads each engine may use. Repeatable.  [default: 1]",
        ),
        BASELINES,
        _rounds(rounds),
        QUICK,
        click.option("--reuse", is_flag=True, help="Let each engine reuse its output buffers, as with out=."),
        click.option("--save", type=OUTPUT, callback=_output, help="Save all raw samples to this JSON file."),
        PLOT,
    )

    def add(command: object) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


class Bench(click.Group):
    """Also takes the subcommands as options, as in earlier versions: ``--startup``, ``--sweep N`` and so on."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, with the name of a subcommand moved to the front."""
        old = next((name for name in self.commands if f"--{name}" in args), None)
        if old and args[0] not in self.commands:
            click.echo(f"Warning: --{old} is a command now: numlstm bench {old}", err=True)
            args = [old, *(arg for arg in args if arg != f"--{old}")]
        return super().parse_args(ctx, args)


@click.group("bench", cls=Bench, invoke_without_command=True)
@click.option("--workload", "names", multiple=True, metavar="NAME", help="Measure only this workload. Repeatable.")
@click.option(
    "--sizes",
    multiple=True,
    metavar="I,H,L,D,T,B[,P]",
    help="A workload of your own: input, hidden, layers, directions, steps, batch and optionally proj_size. The words "
    "batch_first and float64 may follow. Repeatable.",
)
@DTYPE
@measuring(rounds=15)
@click.pass_context
@reports_errors
def command(ctx: click.Context, /, names: tuple[str, ...], sizes: tuple[str, ...], dtype: str, **options: Any) -> None:
    """Compare the speed with PyTorch and other baselines.

    Without a command, times numlstm and the baselines on the workloads of the grid, and measures the limits of this
    machine.

    The results of each engine are checked first. Then the engines take turns, so that a machine that slows down slows
    all of them. Baselines that are not installed are left out, and the report says so.
    """
    if ctx.invoked_subcommand is None:
        measured(_workloads(names, sizes, dtype), "workloads", **options)
        return
    given = click.core.ParameterSource.COMMANDLINE
    if misplaced := [name for name in ctx.params if ctx.get_parameter_source(name) is given]:
        option = next(param.opts[0] for param in ctx.command.params if param.name == misplaced[0])
        raise click.UsageError(f"write {option} after the command: numlstm bench {ctx.invoked_subcommand} {option} ...")


def _workloads(names: Sequence[str], sizes: Sequence[str], dtype: str) -> list[grid.Workload]:
    """The workloads of these names and sizes; the whole grid if there are neither."""
    try:
        workloads = [grid.find(name) for name in names]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--workload") from None
    try:
        own = [grid.Workload.parse(text, dtype) for text in sizes]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--sizes") from None
    return [*(replace(workload, dtype=dtype) for workload in workloads or ([] if own else grid.GRID)), *own]


@command.command("scaling")
@DTYPE
@measuring(rounds=15)
@reports_errors
def _scaling(dtype: str, **options: Any) -> None:
    """Measure batches, steps and hidden sizes that double."""
    measured(scaling.doubled(dtype), "scaling", **options)


@command.command("sweep")
@click.argument("count", metavar="N", type=click.IntRange(min=1))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sweep.")
@click.option(
    "--max-fmas",
    type=Finite(min=1e6, max=2e10),
    default=2e9,
    show_default=True,
    help="Largest number of multiply-adds per call.",
)
@measuring(rounds=5)
@reports_errors
def _sweep(count: int, seed: int, max_fmas: float, **options: Any) -> None:
    """Measure N random configurations, sorted by speed-up."""
    measured(sweep.configurations(count, seed, int(max_fmas)), "sweep", default_rounds=5, seconds=0.01, **options)


def measured(
    workloads: Sequence[grid.Workload],
    kind: str,
    *,
    threads: tuple[int, ...],
    baselines: list[str],
    rounds: int | None,
    quick: bool,
    reuse: bool,
    save: Path | None,
    plot: Path | None,
    default_rounds: int = 15,
    seconds: float = 0.02,
) -> None:
    """Measure workloads, then print, save and draw the report; options as of `measuring`."""
    if save and plot and save.resolve() == plot.resolve():
        raise click.UsageError(f"--save and --plot name the same file, {plot}")
    if plot:
        drawable(plot)  # fail before the measurement, not after it
    if threads and max(threads) > usable_cores():
        click.echo(
            f"Warning: {max(threads)} threads take turns on {counted(usable_cores(), 'core')} here; the machine's "
            "limits, which are sums over threads, are then too high",
            err=True,
        )
    report = measure.run(
        workloads,
        ["numlstm", *baselines],
        threads=threads or (1,),
        rounds=rounds or (3 if quick else default_rounds),
        seconds=0.005 if quick else seconds,
        style="reuse" if reuse else "fresh",
        kind=kind,
        progress=status,
    )
    status("")
    click.echo(table.text(report))
    if save:
        with replacing(save) as file:
            file.write(report.to_json().encode())
    if plot:
        picture.save(report, plot)
    if wrong := measure.failures(report):
        raise RuntimeError("; ".join(wrong))


def _training_baselines(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in training.BASELINES:
            raise click.BadParameter(f"there is no baseline {name!r}; there are {', '.join(training.BASELINES)}")
    return list(dict.fromkeys(names))


@command.command("train")
@click.option("--workload", "names", multiple=True, metavar="NAME", help="Measure only this workload. Repeatable.")
@click.option(
    "--sizes",
    multiple=True,
    metavar="I,H,L,D,T,B[,P]",
    help="A workload of your own, as for numlstm bench; the word packed may follow too. Repeatable.",
)
@click.option("--sweep", "count", type=click.IntRange(min=1), metavar="N", help="Measure N random sizes.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sweep.")
@click.option(
    "--threads", multiple=True, type=click.IntRange(1, 256), help="Threads each may use. Repeatable.  [default: 1]"
)
@click.option(
    "--baselines",
    metavar="LIST",
    callback=_training_baselines,
    default=",".join(training.BASELINES),
    help="Frameworks to compare with, separated by commas, or none.  [default: all that are installed]",
)
@_rounds(9)
@QUICK
@reports_errors
def _train(
    names: tuple[str, ...],
    sizes: tuple[str, ...],
    count: int | None,
    seed: int,
    threads: tuple[int, ...],
    baselines: list[str],
    rounds: int | None,
    quick: bool,
) -> None:
    """Measure forward and backward passes beside PyTorch, JAX and Keras.

    The gradients of each are first compared with the reference's. All of them give those of the input and of every
    parameter.
    """
    workloads = _training_workloads(names, sizes)
    if count:
        workloads += training.configurations(count, seed)
    workloads = workloads or list(training.WORKLOADS.values())
    if quick:
        workloads = [workload.shortened(20_000_000) for workload in workloads]
    rounds = rounds or (3 if quick else 9)
    found = training.run(workloads, baselines, threads or (1,), rounds, 0.005 if quick else 0.02, status)
    status("")
    click.echo(training.text(found, baselines, rounds))
    if wrong := training.failures(found):
        raise RuntimeError("; ".join(wrong))


def _training_workloads(names: Sequence[str], sizes: Sequence[str]) -> list[training.Training]:
    for name in names:
        if name not in training.WORKLOADS:
            known = ", ".join(training.WORKLOADS)
            raise click.BadParameter(f"no workload is called {name!r}; there are {known}", param_hint="--workload")
    try:
        own = [training.Training.parse(text) for text in sizes]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--sizes") from None
    return [*(training.WORKLOADS[name] for name in names), *own]


@command.command("show")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@PLOT
@reports_errors
def _show(file: Path, plot: Path | None) -> None:
    """Print the table of a saved FILE, without measuring."""
    if plot:
        drawable(plot)
    with opening.regular(file, "a report") as opened:
        report = Report.from_json(opened.read().decode(errors="replace"))
    click.echo(table.text(report))
    if plot:
        picture.save(report, plot)


@command.command("startup")
@BASELINES
@_rounds(15)
@QUICK
@reports_errors
def _startup(baselines: list[str], rounds: int | None, quick: bool) -> None:
    """Measure new processes up to their first result."""
    with tempfile.TemporaryDirectory() as folder:
        found = startup.measure(Path(folder), ["numlstm", *baselines], rounds or (3 if quick else 15), status)
        status("")
        click.echo(startup.text(found))
    wrong = [f"{engine}: {reason}" for engine, reason in found.left_out.items() if "wrong result" in reason]
    if wrong:
        raise RuntimeError("; ".join(wrong))


@command.command("stream")
@BASELINES
@QUICK
@reports_errors
def _stream(baselines: list[str], quick: bool) -> None:
    """Measure the single steps of a stream.

    Throughput and latency, steps of silence after a loud signal, and a loop that Numba compiles.
    """
    registry.kernel("float32")  # may print that it compiles, before the first status line
    text = streaming.text(baselines, quick, status)
    status("")
    click.echo(text)
