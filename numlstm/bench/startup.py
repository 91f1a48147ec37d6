"""Cold processes: time and memory up to the first result, and the megabytes of the installation.

Each process does what a small program does: it imports the engine, loads a model file of the grid's workload ``voice``,
and makes one call. The engines take turns, and the results of each are checked first. numlstm uses prebuilt kernels, as
in a wheel. If this installation has none, as a checkout, a copy of the package with the kernels of the cache is
measured.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.base.wording import counted
from numlstm.bench.engines import LeftOutError, package_version
from numlstm.bench.grid import Workload, find
from numlstm.bench.results import OURS
from numlstm.bench.table import markdown, number
from numlstm.reference import lstm as reference

WORKLOAD = find("voice")
STEPS = WORKLOAD.sequence_length

# The part of each process that FRAME surrounds; ``x`` is the input
PROGRAMS = {
    OURS: """
import numlstm
imported()
lstm = numlstm.load("voice.safetensors")
output, _ = lstm(x)
""",
    "torch": """
import torch
imported()
from safetensors.torch import load_file
lstm = torch.nn.LSTM({workload.input_size}, {workload.hidden_size}, {workload.num_layers})
lstm.load_state_dict(load_file("voice.safetensors"))
lstm.eval()
with torch.inference_mode():
    output = lstm(torch.from_numpy(x))[0].numpy()
""",
    "onnxruntime": """
import onnxruntime
imported()
session = onnxruntime.InferenceSession("voice.onnx", providers=["CPUExecutionProvider"])
zeros = numpy.zeros(({workload.num_layers}, 1, {workload.hidden_size}), "float32")
(output,) = session.run(["output"], dict(input=x, h_0=zeros, c_0=zeros))
""",
    "openvino": """
import openvino
imported()
core = openvino.Core()
compiled = core.compile_model(core.read_model("voice.onnx"), "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
zeros = numpy.zeros(({workload.num_layers}, 1, {workload.hidden_size}), "float32")
output = compiled(dict(input=x, h_0=zeros, c_0=zeros))["output"]
""",
}
FRAME = """
import sys, time
stops = []
def imported():
    stops.append(time.monotonic_ns())
import numpy
x = numpy.sin(numpy.arange({steps} * {workload.input_size}, dtype="float32")).reshape({steps}, 1, {workload.input_size})
{program}
stops.append(time.monotonic_ns())
peak = 0
try:  # of this program alone; getrusage includes the memory of the process that started it
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
except OSError:
    try:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    except ImportError:  # Windows
        pass
if len(sys.argv) > 1:
    numpy.save(sys.argv[1], output)
import json
print(json.dumps([*stops, peak]))
"""
# Packages that the programs need
PACKAGES = {
    OURS: (OURS,),
    "torch": ("torch", "numpy", "safetensors"),
    "onnxruntime": ("onnxruntime", "numpy"),
    "openvino": ("openvino", "numpy"),
}
OPTIONAL = ("numba", "llvmlite")  # not needed with prebuilt kernels
TOLERANCE = 1e-4
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Start:
    """One process: seconds from its start to the end of its imports and to its first result, and bytes of memory."""

    imported: float
    first_result: float
    peak: int


@dataclass
class Startup:
    """The processes of all engines, and which engines were left out and why."""

    starts: dict[str, list[Start]] = field(default_factory=dict)
    installed: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    kernels: str = ""

    def median(self, engine: str, what: str) -> float:
        """Over the processes of an engine, of ``"imported"``, ``"first_result"`` or ``"peak"``."""
        return float(np.median([getattr(start, what) for start in self.starts[engine]]))


def measure(
    folder: Path, engines: Sequence[str], rounds: int, progress: Callable[[str], None] = lambda what: None
) -> Startup:
    """Start the processes of all engines in turns.

    Parameters
    ----------
    folder : Path
        An empty folder for models and for a copy of the package.
    engines : sequence of str
        Names in ``PROGRAMS``.
    rounds : int
        Timed processes of each engine. Another one before them is not timed; its result is checked.
    progress : callable
        Told what is being done.
    """
    found = Startup()
    environment = _environment(folder, found)
    expected = _models(folder, found, engines)
    for engine in engines:
        if engine not in PROGRAMS:
            found.left_out[engine] = "there is no program for its cold process here"
        if engine in found.left_out:
            continue
        progress(f"{engine}: first process")
        try:
            if engine != OURS:
                package_version(engine)
            _check(engine, folder, environment, expected)
        except LeftOutError as error:
            found.left_out[engine] = str(error)
            continue
        found.installed[engine] = installed_bytes(PACKAGES[engine])
        found.starts[engine] = []
    for turn in range(rounds):
        for engine, starts in found.starts.items():
            progress(f"round {turn + 1} of {rounds}: {engine}")
            starts.append(start(engine, folder, environment))
    return found


def _models(folder: Path, found: Startup, engines: Sequence[str]) -> Array:
    """Write the files that the engines load; return the output of the reference."""
    from numlstm.bench.engines.onnx_model import onnx_model
    from numlstm.lstm import LSTM

    parameters = WORKLOAD.parameters()
    lstm = LSTM(WORKLOAD.input_size, WORKLOAD.hidden_size, WORKLOAD.num_layers)
    lstm.load_state_dict(parameters)
    lstm.save(folder / "voice.safetensors")
    one_row = Workload("voice", WORKLOAD.input_size, WORKLOAD.hidden_size, WORKLOAD.num_layers, 1, STEPS, 1)
    try:
        (folder / "voice.onnx").write_bytes(onnx_model(one_row, parameters))
    except ImportError as error:
        reading = [engine for engine in engines if "voice.onnx" in PROGRAMS.get(engine, "")]
        found.left_out.update(dict.fromkeys(reading, f"its model is written with onnx: {error}"))
    x = np.sin(np.arange(STEPS * WORKLOAD.input_size, dtype=np.float32)).reshape(STEPS, 1, WORKLOAD.input_size)
    return reference(parameters, x, dtype=np.float64)[0]


def _environment(folder: Path, found: Startup) -> dict[str, str]:
    """Environment variables of the processes, with which numlstm has prebuilt kernels."""
    from numlstm.export import targets
    from numlstm.kernels.loading import jit, prebuilt, registry
    from numlstm.wheels import libraries

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    level, package = registry.level(), PACKAGE
    path = os.environ.get("PYTHONPATH", "")
    try:
        prebuilt.find("float32", level)
        found.kernels = "prebuilt"
    except prebuilt.Unfit as unfit:
        here = targets.find("host")
        command = libraries.linker(here)
        if command is None:
            found.kernels = f"from the cache, since {unfit} and there is no linker"
        else:
            copy = libraries.copy_of_package(folder / "site")
            code, _ = jit.object_code("float32", level)
            library = libraries.linked("float32", code, here, command)
            libraries.place("float32", level, library, here, copy / "kernels" / "shipped")
            package, found.kernels = copy, "prebuilt, in a copy of this installation"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package.parent), path)))
    return environment


def start(engine: str, folder: Path, environment: dict[str, str], save: Path | None = None) -> Start:
    """Run a process of an engine; its result is saved to a file if one is given."""
    code = FRAME.format(program=PROGRAMS[engine].format(workload=WORKLOAD), steps=STEPS, workload=WORKLOAD)
    begin = time.monotonic_ns()  # the same clock in all processes
    done = subprocess.run(
        [sys.executable, "-c", code, *([str(save)] if save else [])],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        raise LeftOutError(f"its process ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    imported, first, peak = json.loads(done.stdout.splitlines()[-1])
    return Start((imported - begin) / 1e9, (first - begin) / 1e9, peak)


def _check(engine: str, folder: Path, environment: dict[str, str], expected: Array) -> None:
    """Check the result of a process that is not timed; it also writes bytecode and fills the file cache."""
    path = folder / f"{engine}.npy"
    start(engine, folder, environment, path)
    output = np.load(path)
    if output.shape != expected.shape:
        raise LeftOutError(f"wrong result: output has the shape {output.shape}; it must be {expected.shape}")
    error = float(np.max(np.abs(output - expected)))
    if not error <= TOLERANCE:  # nor NaN
        raise LeftOutError(f"wrong result: output differs from the reference by up to {error:.2g}")


def installed_bytes(packages: Sequence[str], without: Sequence[str] = ()) -> int:
    """Bytes of installed packages and of all that they require, without bytecode.

    Examples
    --------
    >>> 0 < installed_bytes(["safetensors"]) < installed_bytes(["safetensors", "numpy"])
    True
    """
    seen: set[str] = set()
    waiting = [*packages]
    total = 0
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen or name in without:
            continue
        seen.add(name)
        with suppress(metadata.PackageNotFoundError):  # a requirement of other systems
            found = metadata.distribution(name)
            waiting += [
                match[0]
                for line in found.requires or []
                if "extra ==" not in line and (match := re.match(r"[\w.-]+", line))
            ]
            total += _own_bytes(name, found)
    return total


def _own_bytes(name: str, found: Any) -> int:
    if name == OURS:  # pip does not list the files of an editable install
        paths = [path for path in PACKAGE.rglob("*") if path.is_file()]
    else:
        paths = [Path(found.locate_file(file)) for file in found.files or []]
    return sum(path.stat().st_size for path in paths if path.suffix != ".pyc" and path.is_file())


def text(found: Startup) -> str:
    """The table, and which engines were left out and why."""
    rows = []
    for engine in found.starts:
        seconds = found.median(engine, "first_result")
        rows.append([
            engine,
            f"{found.median(engine, 'imported') * 1e3:,.0f}",
            f"{seconds * 1e3:,.0f}",
            number(seconds / found.median(OURS, "first_result")) if OURS in found.starts else "",
            f"{found.median(engine, 'peak') / 1e6:,.0f}",
            f"{found.installed[engine] / 1e6:,.0f}",
        ])  # fmt: skip
    head = ["engine", "imported, ms", "first result, ms", "x numlstm", "peak memory, MB", "installed, MB"]
    rounds = max((len(starts) for starts in found.starts.values()), default=0)
    parts = [
        f"cold processes: import, load {WORKLOAD.name} ({WORKLOAD.input_size}, {WORKLOAD.hidden_size}, "
        f"{WORKLOAD.num_layers} layers), one call of {STEPS} steps; medians of {counted(rounds, 'interleaved round')}; "
        f"numlstm's kernels {found.kernels}",
        markdown(head, rows),
    ]
    if OURS in found.starts:
        slim = installed_bytes(PACKAGES[OURS], without=OPTIONAL) / 1e6
        parts.append(
            f"Prebuilt kernels do not need {' and '.join(OPTIONAL)}; without them numlstm takes {slim:,.0f} MB."
        )
    parts += [f"{engine} left out: {reason}" for engine, reason in found.left_out.items()]
    return "\n\n".join(parts)
