"""Exported models and the C programs of ``tests/export/embedding``: what they run, and what Python says it must
give."""

import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from needs import leave_out

import numlstm

SOURCES = Path(__file__).parents[1] / "export" / "embedding"
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wno-unused-function"]
WHOLE, STEPS, PIECES, AGAIN = range(4)
SIZES = [
    {"input_size": 3, "hidden_size": 1},
    {"input_size": 2, "hidden_size": 3, "num_layers": 2},
    {"input_size": 5, "hidden_size": 13, "num_layers": 3},
    {"input_size": 9, "hidden_size": 37},
    {"input_size": 40, "hidden_size": 40, "bidirectional": True},
    {"input_size": 40, "hidden_size": 64, "num_layers": 2},
    {"input_size": 7, "hidden_size": 37, "proj_size": 5, "num_layers": 2},
    {"input_size": 4, "hidden_size": 40, "proj_size": 33},
    {"input_size": 6, "hidden_size": 13, "num_layers": 3, "bidirectional": True},
    {"input_size": 8, "hidden_size": 24, "proj_size": 17, "num_layers": 2, "bidirectional": True},
    {"input_size": 3, "hidden_size": 8, "bias": False},
    {"input_size": 10, "hidden_size": 20, "num_layers": 2, "bidirectional": True},  # two of its gates share a register
]
LARGE = {"input_size": 260, "hidden_size": 520}  # every way of the planner: hoisted, by runs, far


@dataclass(frozen=True)
class Case:
    """A call, and the way in which the C program makes it."""

    batch: int
    room: int
    steps: int
    way: int
    piece: int
    kind: str  # of the numbers


def cases(bidirectional, most_steps=11):
    """Calls of one model: batches, sequences whole and cut, and states of all kinds."""
    made = []
    for batch in (1, 3):
        for steps in (1, most_steps):
            made.append(Case(batch, steps, steps, WHOLE, 0, "usual"))
        made.append(Case(batch, most_steps + 3, most_steps, AGAIN, 0, "usual"))
        made.append(Case(batch, most_steps, most_steps, WHOLE, 0, "decayed"))
        made.append(Case(batch, most_steps, most_steps, WHOLE, 0, "saturated"))
        if not bidirectional:
            made.append(Case(batch, 1, most_steps, STEPS, 0, "usual"))
            made.append(Case(batch, 1, most_steps, WHOLE, 0, "decayed"))  # longer than the state has room for
            made.append(Case(batch, 4, most_steps, PIECES, 5, "usual"))
            made.append(Case(batch, 3, most_steps, PIECES, 1, "saturated"))
    return made


def numbers(lstm, case, seed):
    """h_0, c_0 and input of a case."""
    rng = np.random.default_rng(seed)
    cells, of_h = lstm.num_layers * (1 + lstm.bidirectional), lstm.proj_size or lstm.hidden_size
    h = rng.normal(size=(cells, case.batch, of_h))
    c = rng.normal(size=(cells, case.batch, lstm.hidden_size))
    x = rng.normal(size=(case.steps, case.batch, lstm.input_size))
    if case.kind == "decayed":
        tiny = np.finfo(lstm.dtype).tiny
        h, c, x = h * tiny * 2**26, c * tiny * 4, x * tiny
    if case.kind == "saturated":
        h, c, x = h * 1e4, c * 1e30, x * 1e5
        x[0, 0, 0] = np.inf
    return [array.astype(lstm.dtype) for array in (h, c, x)]


def write_cases(lstm, some, path, seed=0):
    """The file that the C program reads."""
    with open(path, "wb") as file:
        for n, case in enumerate(some):
            file.write(struct.pack("<5q", case.batch, case.room, case.steps, case.way, case.piece))
            for array in numbers(lstm, case, seed + n):
                file.write(array.tobytes())


def differing(lstm, some, results, seed=0):
    """The cases whose results are other bits than Python's, and how many numbers were compared.

    NaN is compared as NaN: its payload is the CPU's own.
    """
    wrong, compared = [], 0
    bits = np.dtype(f"i{lstm.dtype.itemsize}")
    got = np.frombuffer(results, lstm.dtype)
    at = 0
    for n, case in enumerate(some):
        h, c, x = numbers(lstm, case, seed + n)
        y, (h_n, c_n) = lstm(x, (h, c))
        want = np.concatenate([y.ravel(), h_n.ravel(), c_n.ravel()])
        mine = got[at : at + want.size]
        at += want.size
        same = (
            mine.size == want.size and ((np.isnan(mine) & np.isnan(want)) | (mine.view(bits) == want.view(bits))).all()
        )
        compared += want.size
        if not same:
            wrong.append(case)
    assert at == got.size, "there are more results than cases"
    return wrong, compared


def model(sizes, dtype="float32", seed=1):
    """An LSTM of these sizes, in a dtype or with weights in bfloat16."""
    number = "float32" if dtype == "bfloat16" else dtype
    return numlstm.LSTM(**sizes, dtype=number, seed=seed).eval().quantize_weights(dtype)


@cache
def answers(path):
    """Whether the program can be started at all."""
    done = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def tool(*names):
    """The path of the first of these programs that is there and says its version.

    A launcher that has nothing to launch, rustup's without a toolchain say, may lie before one that works. Without any
    the test is left out by name.
    """
    for name in names:
        for folder in os.get_exec_path():
            if (path := shutil.which(name, path=folder)) and answers(path):
                return path
    leave_out(f"needs {' or '.join(names)} (CONTRIBUTING.md names the packages)")
    raise FileNotFoundError(names)


def run(*command, **options):
    """What a program printed; it must succeed."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, check=False, **options
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def exported_text(name):
    """A file that exports are made from."""
    return (Path(numlstm.__file__).parent / "export" / name).read_text()


def compiled(program, folder, library, compiler, *flags):
    """Compile one of the C programs against an exported library, as C or, by a C++ compiler, as C++."""
    plus = "++" in os.path.basename(compiler)
    language = ["-x", "c++", "-std=c++11"] if plus else ["-x", "c", "-std=c99"]
    out = Path(folder) / f"{program}-{os.path.basename(compiler)}{'-'.join(flags).replace('/', '_')}"
    source = SOURCES / f"{program}.c"
    run(compiler, *language, *STRICT, "-I", folder, *flags, source, "-x", "none", library, "-o", out)
    return out
