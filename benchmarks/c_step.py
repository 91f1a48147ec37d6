"""Time the exported C library's step and forward, and RTNeural beside it.

    python benchmarks/c_step.py [--level LEVEL] [--rtneural PATH]

Prints the nanoseconds per sample of an LSTM with one input and one row: of ``step``, of one ``forward`` over 2048
samples, and of RTNeural, whose source is read from PATH (with its submodule modules/xsimd) and compiled by g++ with
xsimd and with Eigen; the faster one counts. All take turns, and the least CPU time of many rounds counts.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numlstm
from numlstm.export import MODEL, export
from numlstm.export.targets import find

SIZES = (8, 12, 16, 20, 24, 32, 40, 64)
HERE = Path(__file__).parent
Times = dict[int, tuple[float, float, float]]  # of step, forward and RTNeural by hidden size


def program(folder: Path, level: str, rtneural: Path | None, backend: str, march: str) -> Path:
    """Compile the timing program beside an exported library; with RTNeural by one of its backends."""
    out, objects, flags = folder / f"c_step_{backend}", [], []
    if rtneural is not None:
        sizes = "".join(f"SIZE({units})" for units in SIZES)
        include = [f"-I{rtneural}", f"-I{rtneural}/modules/xsimd/include", f"-I{rtneural}/modules/Eigen"]
        alignment = 64 if level == "x86-64-v4" and backend == "XSIMD" else 32
        defines = [f"-DRTNEURAL_USE_{backend}=1", f"-DRTNEURAL_DEFAULT_ALIGNMENT={alignment}", f"-DSIZES={sizes}"]
        objects, flags = [folder / f"{backend}.o"], ["-DRTNEURAL", "-lstdc++", "-lm"]
        source = HERE / "c_step_rtneural.cpp"
        line = ["g++", "-O3", f"-march={march}", "-std=c++17", *defines, *include, "-c", source, "-o", objects[0]]
        subprocess.run(line, check=True)
    library = folder / "8" / "libnumlstm.a"
    line = ["cc", "-O2", f"-I{library.parent}", HERE / "c_step.c", *objects, library, *flags, "-o", out]
    subprocess.run(line, check=True)
    return out


def measured(command: Path, folder: Path, rounds: int) -> Times:
    """Run a timing program."""
    models = [folder / str(units) / MODEL for units in SIZES]
    said = subprocess.run([command, str(rounds), *models], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in said.splitlines()]
    return {int(row[0]): (float(row[1]), float(row[2]), float(row[3])) for row in rows}


def main() -> None:
    """Export, compile, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", default=find("host").level().name)
    parser.add_argument("--rtneural", type=Path, help="a checkout of RTNeural")
    parser.add_argument("--march", help="g++'s -march for RTNeural; by default the level, or native")
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for units in SIZES:
            export(numlstm.LSTM(1, units, seed=0), folder / str(units), level=options.level, echo=lambda line: None)
        backends = ("XSIMD", "EIGEN") if options.rtneural else ("",)
        march = options.march or (options.level if options.level.startswith("x86") else "native")
        programs = [program(folder, options.level, options.rtneural, backend, march) for backend in backends]
        runs = [measured(command, folder, options.rounds) for command in programs]
    print(
        f"ns per sample, {options.level}\nunits    step forward  more"
        + ("  xsimd  eigen  /step /forward" if options.rtneural else "")
    )
    for units in SIZES:
        step, forward = (min(run[units][way] for run in runs) for way in (0, 1))
        line = f"{units:5} {step:7.1f} {forward:7.1f} {step - forward:5.1f}"
        if options.rtneural:
            others = [run[units][2] for run in runs]
            line += f" {others[0]:6.1f} {others[1]:6.1f} {min(others) / step:6.2f} {min(others) / forward:8.2f}"
        print(line)


if __name__ == "__main__":
    main()
