"""``numlstm check``: the model of a file against the reference in higher precision, as an accuracy report.

The reference reads the numbers of the file, not those that numlstm packed, so that packing is checked as well.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import prod
from typing import Any

import click
import numpy as np

from numlstm import files, formats, reference
from numlstm.base import atomic, opening
from numlstm.base.config import QUANTIZED
from numlstm.base.console import printable, size, table
from numlstm.base.typing import Array, Path, Result
from numlstm.commands.messages import reports_errors
from numlstm.commands.options import FILE, NAME
from numlstm.formats import Found
from numlstm.kernels.loading import registry
from numlstm.kernels.plan_layout import INT8
from numlstm.lstm import LSTM

NAMES = ("output", "h_n", "c_n")
STEPS, BATCH = 50, 4  # of a small model
LONG = 8  # times as many steps, in one row
WORK = {"float32": 100_000_000, "float64": 5_000_000}  # multiply-adds of a row of the report; longdouble is slow

# The limit of the error is what rounding does to this model. Plain NumPy in the model's dtype measures that four times:
# once as it is, and three times with every number of the model and the input moved to a neighbouring one. One
# measurement is not enough: if rounding errors grow from step to step, the error of a single engine is a matter of
# chance. In 3,268 trials of 817 random LSTMs (1 to 4 layers, weights 1, 3, 10 and 30 times those of a fresh one,
# float32 and float64), numlstm's error never exceeded 4 times the largest of the four plus SPARE. Compared with plain
# NumPy alone, it did in 47. The tests hold numlstm to a tighter limit if PyTorch is installed: PyTorch's error plus
# 2**-24 in float32.
MOVED = 3
FACTOR = 4
SPARE = {"float32": 2.0**-22, "float64": 2.0**-51}  # 4 roundings of 1
# A limit above half the digits of the results would prove nothing: fewer steps are taken.
MEANINGFUL = {"float32": 2.0**-12, "float64": 2.0**-26}
SAME_DIGITS = 64.0  # times SPARE is the limit if the reference has no more digits than the model


@dataclass(frozen=True)
class Kind:
    """One kind of random input: uniform in [-scale, scale)."""

    name: str
    scale: float
    states: bool = False  # initial states in [-1, 1), or zeros
    long: bool = False


KINDS = (
    Kind("ordinary", 2.0, states=True),
    Kind("tiny", 1e-6),
    Kind("large", 30.0),
    Kind("long", 2.0, long=True),
)


@dataclass(frozen=True)
class Trial:
    """The result for one kind of input: the largest absolute errors of output, h_n and c_n."""

    kind: Kind
    steps: int
    batch: int
    ours: tuple[float, ...]
    plain: tuple[float, ...]
    limit: float
    meaningful: bool  # whether the limit is below half the digits

    @property
    def passed(self) -> bool:
        """Whether every error is within the limit; NaN is not."""
        return self.meaningful and all(error <= self.limit for error in self.ours)


@click.command("check")
@click.argument("model", type=FILE)
@NAME
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random input.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps per sequence.  [default: 50, fewer for large models]")
@click.option("--batch", type=click.IntRange(min=1), help="Rows of the batch.  [default: 4]")
@click.option("-o", "--out", type=FILE, help="Also write the report to this file.")
@click.option("--weights", type=click.Choice(QUANTIZED), help="Also show what rounding the weights would change.")
@reports_errors
def command(
    model: Path,
    name: str | None,
    seed: int,
    steps: int | None,
    batch: int | None,
    out: Path | None,
    weights: str | None,
) -> None:
    """Check the LSTM of MODEL against the reference.

    Both run on random input, the reference in higher precision. Prints an accuracy report: the file's SHA-256, the
    versions, the errors and their limits. The exit code is 1 if an error is above its limit.

    With --weights, the report also has the largest and the mean change of the output on the same input when the weights
    are rounded to fewer bits.
    """
    if out is not None:
        atomic.ready(out)
        atomic.apart("-o", out, "MODEL", model)
    digest = _digest(model)
    with formats.opened(model) as contents:
        found = files.pick(contents, name)
        module, suspects = files.built(found)
        suffix = "" if found.kind == "LSTM" else "_l0"
        parameters = {key + suffix: tensor.read() for key, tensor in found.parameters.items()}
    lstm = files.as_lstm(module)
    if lstm.weights == INT8:
        raise ValueError(
            f"{model}: its weights are int8, and where the last bit of a number decides how it is rounded, results "
            "differ by more than any limit\nCheck the float32 model that it was rounded from, with --weights int8."
        )
    bits = hashlib.sha256()
    trials = [] if suspects else [_trial(lstm, parameters, kind, seed, steps, batch, bits) for kind in KINDS]
    fault = _fault(trials, suspects)
    lines = [printable(line) for line in _text(model, digest, found, lstm, seed, trials, bits.hexdigest(), fault)]
    if weights:
        lines += ["", *_changes(lstm, lstm.quantize_weights(weights), seed, trials)]
    if out is not None:
        with atomic.replacing(out) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
    for line in lines:
        click.echo(line)
    if fault:
        raise RuntimeError(f"{model}: {fault}")


def reference_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the reference: float64 for float32, and for float64 longdouble, which may have no more digits."""
    return np.dtype(np.float64 if dtype == np.float32 else np.longdouble)


def _has_more_digits(dtype: np.dtype[Any]) -> bool:
    return bool(np.finfo(reference_dtype(dtype)).nmant > np.finfo(dtype).nmant)


def _reference_name(dtype: np.dtype[Any]) -> str:
    return "longdouble" if dtype == np.float64 and _has_more_digits(dtype) else "float64"


def _digest(path: Path) -> str:
    with opening.regular(path, "a model file") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _trial(
    lstm: LSTM, parameters: Mapping[str, Array], kind: Kind, seed: int, steps: int | None, batch: int | None, bits: Any
) -> Trial:
    """Try one kind of input. Halve the steps while the limit would prove nothing."""
    config, dtype = lstm._config, lstm.dtype
    run = partial(reference.lstm, options=config.cell_options)
    lstm.batch_first, lstm.direction = False, "forward"  # neither changes what is computed
    work = sum(map(prod, config.parameter_shapes().values()))  # multiply-adds of a row's step
    rows = 1 if kind.long else batch or BATCH
    most = LONG * (steps or STEPS) if kind.long else steps or STEPS
    many = most if steps else max(2, min(most, WORK[dtype.name] // (work * rows)))
    while True:
        rng = np.random.default_rng((seed, KINDS.index(kind)))
        x, hx = _input(lstm, kind, many, rows, rng)
        want = run(parameters, x, hx, dtype=reference_dtype(dtype), flush=dtype)
        plain = run(parameters, x, hx, dtype=dtype)
        noise = [max(_errors(plain, want))]
        # with two steps of a large model chance matters little, and moving all its numbers takes long
        for _ in range(MOVED if many * rows * work <= WORK[dtype.name] or steps else 1):
            other = {key: _moved(array.astype(dtype, copy=False), rng) for key, array in parameters.items()}
            states = None if hx is None else (_moved(hx[0], rng), _moved(hx[1], rng))
            noise.append(max(_errors(run(other, _moved(x, rng), states, dtype=dtype), want)))
        largest = min(1.0, max(float(np.abs(array).max()) for array in _flat(want)))
        limit = FACTOR * max(noise) + SPARE[dtype.name] * largest
        if not _has_more_digits(dtype):
            limit = max(limit, SAME_DIGITS * SPARE[dtype.name] * largest)
        meaningful = limit <= MEANINGFUL[dtype.name] * largest
        if meaningful or many == 1:
            break
        many //= 2
    got = lstm(x, hx)
    for array in _flat(got):
        bits.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return Trial(kind, many, rows, _errors(got, want), _errors(plain, want), limit, meaningful)


def _changes(lstm: LSTM, quantized: LSTM, seed: int, trials: list[Trial]) -> Iterator[str]:
    """What rounded weights change, line by line."""
    rows = []
    for n, trial in enumerate(trials):
        x, hx = _input(lstm, trial.kind, trial.steps, trial.batch, np.random.default_rng((seed, n)))
        change = np.abs(quantized(x, hx)[0] - lstm(x, hx)[0])
        rows.append([trial.kind.name, *(f"{value:.1e}" for value in (change.max(), change.mean(), trial.ours[0]))])
    yield f"change of the output by weights in {quantized.weights}"
    yield from table(("numbers", "largest", f"mean{'':4}", f"error in {lstm.weights}"), rows, left=("numbers",))


def _input(
    lstm: LSTM, kind: Kind, steps: int, rows: int, rng: np.random.Generator
) -> tuple[Array, tuple[Array, Array] | None]:
    """Input and states, made by exact arithmetic, so that they are the same on every machine."""
    config = lstm._config

    def uniform(*shape: int) -> Array:
        return 2 * rng.random(shape) - 1

    x = (kind.scale * uniform(steps, rows, config.input_size)).astype(lstm.dtype)
    if not kind.states:
        return x, None
    cells = config.num_layers * config.num_directions
    h_0, c_0 = uniform(cells, rows, config.output_size), uniform(cells, rows, config.hidden_size)
    return x, (h_0.astype(lstm.dtype), c_0.astype(lstm.dtype))


def _moved(array: Array, rng: np.random.Generator) -> Array:
    """Every number replaced by the next one above or below, except 0: the next integer when taken as bits.

    Examples
    --------
    >>> moved = _moved(np.ones(1000, np.float32), np.random.default_rng(0))
    >>> sorted({float(number - 1) for number in moved}) == [-(2.0**-24), 2.0**-23]
    True
    """
    bits = np.array(array, order="C").view(f"i{array.itemsize}")
    step = np.asarray(rng.integers(0, 2, array.shape, np.int8))
    step *= 2
    step -= 1
    step[array == 0] = 0
    bits += step
    return bits.view(array.dtype)


def _flat(result: Result) -> tuple[Array, Array, Array]:
    return result[0], *result[1]


def _errors(got: Result, want: Result) -> tuple[float, ...]:
    """The largest absolute error of output, h_n and c_n."""
    with np.errstate(invalid="ignore"):
        return tuple(float(np.abs(a - b).max()) for a, b in zip(_flat(got), _flat(want), strict=True))


def _fault(trials: list[Trial], suspects: list[str]) -> str:
    if suspects:
        return f"undefined: NaN or infinity in {', '.join(suspects)}; there is no right result to compare with"
    beyond = [trial.kind.name for trial in trials if trial.meaningful and not trial.passed]
    if beyond:
        return f"FAILED: numlstm is beyond the limit on {', '.join(beyond)} numbers"
    undecided = [trial.kind.name for trial in trials if not trial.meaningful]
    if undecided:
        return (
            f"undecided: on {', '.join(undecided)} numbers rounding alone changes half the digits within one step, "
            "in any engine of this dtype"
        )
    return ""


def _text(
    path: Path, digest: str, found: Found, lstm: LSTM, seed: int, trials: list[Trial], bits: str, fault: str
) -> Iterator[str]:
    """The report, line by line."""
    from importlib.metadata import version

    dtype = lstm.dtype
    kernel = registry.kernel(lstm.weights, lstm.cell_options)
    fused = "" if kernel.level.fused else ", no fused multiply-add"
    count = sum(map(prod, lstm._config.parameter_shapes().values()))
    yield f"numlstm check {os.fspath(path)}"
    yield ""
    yield f"date      {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    yield f"file      {size(os.path.getsize(path))}, SHA-256 {digest}"
    yield f"model     {found if found.name else found.sizes()}, {count:,} parameters"
    for note in filter(None, (found.warning, *found.notes)):
        yield f"          {' '.join(note.split())}"
    yield f"engine    numlstm {version('numlstm')} in {dtype}, numpy {np.__version__}"
    yield f"kernels   {kernel.level.name}{fused}; {kernel.origin}"
    yield f"reference the LSTM's equations in NumPy on the file's own numbers, in {_reference_name(dtype)}"
    if not _has_more_digits(dtype):
        yield "          which has no more digits than the model here: its own error is in every error below"
    yield f"seed      {seed}"
    yield ""
    if trials:
        yield from _table(trials, dtype)
        yield ""
        yield f"results   SHA-256 {bits}"
        yield "          of numlstm's numbers; with this seed the same on every CPU with fused multiply-add"
        spare = f"2**{np.log2(SPARE[dtype.name]):.0f} x the largest result, or x 1 if that is less"
        yield f"limit     {FACTOR} x rounding + {spare}"
        yield "          rounding: NumPy's largest error, as it is or with every number moved by one rounding"
    yield f"verdict   {fault or 'passed: every error is within its limit'}"


def _table(trials: list[Trial], dtype: np.dtype[Any]) -> Iterator[str]:
    header = ("numbers", "from", "to", "T", "B", *NAMES, "output ", "h_n ", "c_n ", "limit")
    rows = []
    for trial in trials:
        scale = trial.kind.scale
        numbers = [f"{value:.1e}" for value in (*trial.ours, *trial.plain, trial.limit)]
        rows.append([trial.kind.name, f"{-scale:g}", f"{scale:g}", str(trial.steps), str(trial.batch), *numbers])
    lines = list(table(header, rows, left=("numbers",)))
    ours, plain = lines[0].index("output") - 1, lines[0].rindex("output") - 1
    yield "largest absolute error of".ljust(ours) + " numlstm".ljust(plain - ours) + f" NumPy in {dtype}"
    yield from lines
