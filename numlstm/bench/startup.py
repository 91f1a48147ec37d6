"""What a cold process pays before its first result: time, memory, and the megabytes that had to be installed.

Every figure is of a fresh process that does what a small program does: import the engine, load the model file of the
grid's line ``voice``, and make one call. The engines take turns, and the results of each are checked first.
numlstm's kernels are shipped ones, as in a wheel: where this installation has none, as in a checkout, a copy of the
package is measured that ships those in the cache.
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
from numlstm.bench.grid import Line, find
from numlstm.bench.peers import LeftOutError, package_version
from numlstm.bench.results import OURS
from numlstm.bench.table import markdown, number
from numlstm.reference import lstm as reference

LINE = find("voice")
STEPS = LINE.sequence_length

# What each process does; ``x`` is there. Around them stands FRAME.
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
lstm = torch.nn.LSTM({line.input_size}, {line.hidden_size}, {line.num_layers})
lstm.load_state_dict(load_file("voice.safetensors"))
lstm.eval()
with torch.inference_mode():
    output = lstm(torch.from_numpy(x))[0].numpy()
""",
    "onnxruntime": """
import onnxruntime
imported()
session = onnxruntime.InferenceSession("voice.onnx", providers=["CPUExecutionProvider"])
zeros = numpy.zeros(({line.num_layers}, 1, {line.hidden_size}), "float32")
(output,) = session.run(["output"], dict(input=x, h_0=zeros, c_0=zeros))
""",
    "openvino": """
import openvino
imported()
core = openvino.Core()
compiled = core.compile_model(core.read_model("voice.onnx"), "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
zeros = numpy.zeros(({line.num_layers}, 1, {line.hidden_size}), "float32")
output = compiled(dict(input=x, h_0=zeros, c_0=zeros))["output"]
""",
}
FRAME = """
import sys, time
stops = []
def imported():
    stops.append(time.monotonic_ns())
import numpy
x = numpy.sin(numpy.arange({steps} * {line.input_size}, dtype="float32")).reshape({steps}, 1, {line.input_size})
{program}
stops.append(time.monotonic_ns())
peak = 0
try:  # of this program alone; what getrusage tells begins with the memory of the process that started it
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
# What has to be installed for the programs above
PACKAGES = {
    OURS: (OURS,),
    "torch": ("torch", "numpy", "safetensors"),
    "onnxruntime": ("onnxruntime", "numpy"),
    "openvino": ("openvino", "numpy"),
}
OPTIONAL = ("numba", "llvmlite")  # numlstm runs without them where the kernels that it ships fit
TOLERANCE = 1e-4
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Start:
    """One process, from the moment at which it was asked for: seconds until its imports and its first result, bytes."""

    imported: float
    first_result: float
    peak: int


@dataclass
class Startup:
    """What all engines' processes took, and who was left out and why."""

    starts: dict[str, list[Start]] = field(default_factory=dict)
    installed: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    kernels: str = ""

    def median(self, engine: str, what: str) -> float:
        """Of all processes of an engine: ``"imported"``, ``"first_result"`` or ``"peak"``."""
        return float(np.median([getattr(start, what) for start in self.starts[engine]]))


def measure(
    folder: Path, engines: Sequence[str], rounds: int, progress: Callable[[str], None] = lambda what: None
) -> Startup:
    """Start every engine's process in turn, `rounds` times.

    Parameters
    ----------
    folder : Path
        An empty folder, for models and for a copy of the package.
    engines : sequence of str
        Names in ``PROGRAMS``.
    rounds : int
        Processes of each engine that are timed; one before them is not, and its result is checked.
    progress : callable
        Is told what is done now.
    """
    found = Startup()
    environment = _environment(folder, found)
    expected = _models(folder, found, engines)
    for engine in engines:
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
    """Write the files that the engines load; what a call gives by the reference."""
    from numlstm.bench.onnx_model import onnx_model
    from numlstm.lstm import LSTM

    parameters = LINE.parameters()
    lstm = LSTM(LINE.input_size, LINE.hidden_size, LINE.num_layers)
    lstm.load_state_dict(parameters)
    lstm.save(folder / "voice.safetensors")
    one_row = Line("voice", LINE.input_size, LINE.hidden_size, LINE.num_layers, 1, STEPS, 1)
    try:
        (folder / "voice.onnx").write_bytes(onnx_model(one_row, parameters))
    except ImportError as error:
        reading = [engine for engine in engines if "voice.onnx" in PROGRAMS[engine]]
        found.left_out.update(dict.fromkeys(reading, f"its model is written with onnx: {error}"))
    x = np.sin(np.arange(STEPS * LINE.input_size, dtype=np.float32)).reshape(STEPS, 1, LINE.input_size)
    return reference(parameters, x, dtype=np.float64)[0]


def _environment(folder: Path, found: Startup) -> dict[str, str]:
    """The processes' environment, in which numlstm ships its kernels."""
    from numlstm.kernels.loading import jit, prebuilt, registry, wheel

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    level, package = registry.level(), PACKAGE
    path = os.environ.get("PYTHONPATH", "")
    try:
        prebuilt.find("float32", level)
        found.kernels = "shipped"
    except prebuilt.Unfit as unfit:
        command = wheel.linker()
        if command is None:
            found.kernels = f"from the cache, since {unfit} and there is no linker"
        else:
            copy = wheel.copy_of_package(folder / "site")
            code, _ = jit.object_code("float32", level)
            wheel.place("float32", level, wheel.linked(code, command), copy / "kernels" / "shipped")
            package, found.kernels = copy, "shipped, in a copy of this installation"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package.parent), path)))
    return environment


def start(engine: str, folder: Path, environment: dict[str, str], save: Path | None = None) -> Start:
    """One process of an engine; its result goes into a file, if one is given."""
    code = FRAME.format(program=PROGRAMS[engine].format(line=LINE), steps=STEPS, line=LINE)
    begin = time.monotonic_ns()  # one clock for all processes of a machine
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
    """A process whose time does not count: bytecode is written, files come into the system's cache."""
    path = folder / f"{engine}.npy"
    start(engine, folder, environment, path)
    output = np.load(path)
    if output.shape != expected.shape:
        raise LeftOutError(f"wrong result: output has the shape {output.shape}; it must be {expected.shape}")
    error = float(np.max(np.abs(output - expected)))
    if not error <= TOLERANCE:  # NaN is not
        raise LeftOutError(f"wrong result: output differs from the reference by up to {error:.2g}")


def installed_bytes(packages: Sequence[str], without: Sequence[str] = ()) -> int:
    """Bytes of installed packages and of all that they require, bytecode aside.

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
        with suppress(metadata.PackageNotFoundError):  # required elsewhere: on another system, with an extra
            found = metadata.distribution(name)
            waiting += [
                match[0]
                for line in found.requires or []
                if "extra ==" not in line and (match := re.match(r"[\w.-]+", line))
            ]
            total += _own_bytes(name, found)
    return total


def _own_bytes(name: str, found: Any) -> int:
    if name == OURS:  # of an editable install, pip knows no file
        paths = [path for path in PACKAGE.rglob("*") if path.is_file()]
    else:
        paths = [Path(found.locate_file(file)) for file in found.files or []]
    return sum(path.stat().st_size for path in paths if path.suffix != ".pyc" and path.is_file())


def text(found: Startup) -> str:
    """The table, with what was left out and why."""
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
        f"cold processes: import, load {LINE.name} ({LINE.input_size}, {LINE.hidden_size}, {LINE.num_layers} layers), "
        f"one call of {STEPS} steps; medians of {counted(rounds, 'interleaved round')}; "
        f"numlstm's kernels {found.kernels}",
        markdown(head, rows),
    ]
    if OURS in found.starts:
        slim = installed_bytes(PACKAGES[OURS], without=OPTIONAL) / 1e6
        parts.append(
            f"Shipped kernels do not need {' and '.join(OPTIONAL)}; without them numlstm takes {slim:,.0f} MB."
        )
    parts += [f"{engine} left out: {reason}" for engine, reason in found.left_out.items()]
    return "\n\n".join(parts)
