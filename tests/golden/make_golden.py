"""What torch 2.13.0 computes, written down: the golden vectors of tests/test_golden.py.

    python tests/golden/make_golden.py            # write torch-2.13.0.npz anew
    python tests/golden/make_golden.py --check    # regenerate, compare with the committed file, say what differs

Parameters, inputs and states come from NumPy's RandomState, whose stream is frozen, and must agree bit for bit.
PyTorch's own results change in their last bits with the CPU, so those need only agree within TOLERANCE.
The file is data: three arrays, no pickle. `load` reads it and needs no torch.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

TORCH = "2.13.0"
FILE = Path(__file__).with_name(f"torch-{TORCH}.npz")
TOLERANCE = {"float32": 2.0**-22, "float64": 2.0**-51}  # 4 roundings of 1.0 to either side
RESULTS = ("output", "h_n", "c_n")


@dataclass
class Case:
    """One call of torch: which module, how it was constructed, what went in and what came out."""

    name: str
    module: str  # LSTM or LSTMCell
    options: dict[str, Any]  # keyword arguments of its constructor, dtype as a string
    relative: bool  # whether the bound is a fraction of the largest value (tiny signals) or of max(1, value)
    parameters: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]  # input, and h_0 and c_0 where given
    results: dict[str, np.ndarray] = field(default_factory=dict)  # of RESULTS; a cell has no output

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.options["dtype"])

    @property
    def hx(self) -> tuple[np.ndarray, np.ndarray] | None:
        return (self.inputs["h_0"], self.inputs["c_0"]) if "h_0" in self.inputs else None

    def bound(self, expected: np.ndarray) -> Any:
        """How far a result may be from the expected one.

        For tiny signals 4 times as much, of the largest value: there the roundings of gates, products and sums
        all count in full, where an ordinary h is a product of numbers below 1.
        """
        size = np.where(np.isfinite(expected), np.abs(expected), 0)
        return TOLERANCE[self.dtype.name] * (4 * size.max(initial=0) if self.relative else np.maximum(1, size))


def differences(case: Case, found: dict[str, np.ndarray]) -> list[str]:
    """Say which results are further than the bound from the case's own, or NaN or infinite in other places."""
    said = []
    for name, expected in case.results.items():
        if name not in found or found[name].shape != expected.shape or found[name].dtype != expected.dtype:
            what = f"{found[name].dtype}{found[name].shape}" if name in found else "missing"
            said.append(f"{case.name}: {name} is {what}, not {expected.dtype}{expected.shape}")
            continue
        finite = np.isfinite(expected)
        if not np.array_equal(found[name][~finite], expected[~finite], equal_nan=True):
            said.append(f"{case.name}: {name} has NaN or infinity in other places or of another sign")
            continue
        distance = np.zeros(expected.shape)
        np.subtract(found[name], expected, out=distance, where=finite)
        wrong = ~(np.abs(distance) <= case.bound(expected))
        if wrong.any():
            at = np.unravel_index(np.argmax(wrong), expected.shape)
            said.append(
                f"{case.name}: {name} differs in {wrong.sum()} of {wrong.size} values, first at "
                f"{tuple(int(k) for k in at)}: {found[name][at]!r}, not {expected[at]!r}"
            )
    return said


def compare(committed: list[Case], made: list[Case]) -> list[str]:
    """Say everything in which freshly made cases differ from the committed ones."""
    new = {case.name: case for case in made}
    said = [f"{case.name}: is not made any more" for case in committed if case.name not in new]
    said += [f"{name}: is not in the file" for name in new.keys() - {case.name for case in committed}]
    for case in committed:
        if case.name not in new:
            continue
        other = new[case.name]
        for what in ("module", "options", "relative"):
            if getattr(case, what) != getattr(other, what):
                said.append(f"{case.name}: {what} is {getattr(other, what)!r}, not {getattr(case, what)!r}")
        for what in ("parameters", "inputs"):
            old_arrays, new_arrays = getattr(case, what), getattr(other, what)
            if list(old_arrays) != list(new_arrays):
                said.append(f"{case.name}: {what} are {list(new_arrays)}, not {list(old_arrays)}")
            for name in old_arrays.keys() & new_arrays.keys():
                old, now = old_arrays[name], new_arrays[name]
                if (old.dtype, old.shape, old.tobytes()) != (now.dtype, now.shape, now.tobytes()):
                    said.append(f"{case.name}: {name} is not the same bit for bit")
        said += differences(case, other.results)
    return said


# The file: an index in JSON, and all numbers of a dtype in one array, equal arrays once.


def save(cases: list[Case], path: Path) -> None:
    """Write the cases; the same cases give the same bytes."""
    numbers: dict[str, list[np.ndarray]] = {"float32": [], "float64": []}
    length = dict.fromkeys(numbers, 0)
    known: dict[tuple[str, bytes], int] = {}

    def place(dtype: str, array: np.ndarray) -> list[Any]:
        key = (dtype, array.tobytes())
        if key not in known:
            known[key] = length[dtype]
            numbers[dtype].append(array.ravel())
            length[dtype] += array.size
        return [known[key], list(array.shape)]

    index = []
    for case in cases:
        entry = {"name": case.name, "module": case.module, "options": case.options, "relative": case.relative}
        for kind in ("parameters", "inputs", "results"):
            entry[kind] = {name: place(case.dtype.name, array) for name, array in getattr(case, kind).items()}
        index.append(entry)
    members = {dtype: np.concatenate(arrays) for dtype, arrays in numbers.items()}
    members["index"] = np.frombuffer(json.dumps(index, separators=(",", ":")).encode(), np.uint8)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in members.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue(), zipfile.ZIP_DEFLATED, 9)


def load(path: Path = FILE) -> list[Case]:
    """Read the cases; every array is read-only."""
    with np.load(path, allow_pickle=False) as archive:
        numbers = {dtype: archive[dtype] for dtype in TOLERANCE}
        index = json.loads(archive["index"].tobytes())
    for pool in numbers.values():
        pool.setflags(write=False)
    cases = []
    for entry in index:
        pool = numbers[entry["options"]["dtype"]]
        for kind in ("parameters", "inputs", "results"):
            entry[kind] = {
                name: pool[start : start + int(np.prod(shape, dtype=int))].reshape(shape)
                for name, (start, shape) in entry[kind].items()
            }
        cases.append(Case(**entry))
    return cases


# The cases.


def draw(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Normal float64 numbers from a stream that no release of NumPy changes."""
    return np.random.RandomState(seed).standard_normal(shape) * scale


def parameters_of(module: Any, seed: int, scale: float) -> dict[str, np.ndarray]:
    """Values for every parameter of a torch module, in [-scale, scale] / sqrt(hidden_size)."""
    random, k = np.random.RandomState(seed), scale * module.hidden_size**-0.5
    return {name: random.uniform(-k, k, tuple(value.shape)) for name, value in module.state_dict().items()}


def make(
    torch: ModuleType,
    name: str,
    sizes: tuple[int, int | None],
    *,
    module: str = "LSTM",
    states: bool = True,
    weight_scale: float = 1.0,
    input_scale: float = 1.0,
    state_scale: float = 0.5,
    quarters: bool = False,
    relative: bool = False,
    planted: dict[str, dict[tuple[int, ...], float]] | None = None,
    **options: Any,
) -> Case:
    """Run torch once; sizes are (T, B), B None for unbatched; `planted` puts values into input, h_0 or c_0.

    With `quarters` every number drawn is rounded to a multiple of 1/4, so that large gates are exact sums:
    else the last bits of the sum, which differ from CPU to CPU, would drown those of the activations.
    """
    dtype = getattr(torch, options["dtype"])
    with torch.inference_mode():
        net = getattr(torch.nn, module)(**{**options, "dtype": dtype}).eval()
        # the seeds depend on nothing but the shapes, so that cases share what they can
        seed = sum(shape.numel() for shape in (value.shape for value in net.state_dict().values()))
        parameters = parameters_of(net, seed, weight_scale)
        cells = (net.num_layers * (1 + net.bidirectional),) if module == "LSTM" else ()
        out = getattr(net, "proj_size", 0) or net.hidden_size
        steps, batch = sizes
        rows = () if batch is None else (batch,)
        first = (steps,) if module == "LSTM" else ()
        x = draw(1, (*first, *rows, net.input_size), input_scale)
        inputs = {"input": x}
        if states:
            inputs["h_0"] = draw(2, (*cells, *rows, out), state_scale)
            inputs["c_0"] = draw(3, (*cells, *rows, net.hidden_size), state_scale)
        for target, values in (planted or {}).items():
            for at, value in values.items():
                inputs[target][at] = value
        if quarters:
            parameters, inputs = (
                {key: np.round(value * 4) / 4 for key, value in arrays.items()} for arrays in (parameters, inputs)
            )
        if options.get("batch_first") and batch is not None:
            inputs["input"] = np.ascontiguousarray(x.swapaxes(0, 1))
        parameters, inputs = (
            {key: value.astype(options["dtype"]) for key, value in arrays.items()} for arrays in (parameters, inputs)
        )
        net.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in parameters.items()})
        given = {key: torch.from_numpy(value.copy()) for key, value in inputs.items()}
        hx = (given["h_0"], given["c_0"]) if states else None
        made = net(given["input"], hx)
        made = (made[0], *made[1]) if module == "LSTM" else made
    names = RESULTS if module == "LSTM" else RESULTS[1:]
    results = {key: value.numpy().copy() for key, value in zip(names, made, strict=True)}
    return Case(name, module, options, relative, parameters, inputs, results)


def generate(torch: ModuleType) -> list[Case]:
    """Make every case with this torch."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        return [*flag_cases(torch), *cell_cases(torch), *size_cases(torch), *extreme_cases(torch)]


def flag_cases(torch: ModuleType) -> Iterator[Case]:
    """Every combination of flags, dtypes, batched or not, states given or not."""
    both = (False, True)
    for bias, batch_first, bidirectional, proj_size, num_layers, dtype, unbatched, states in product(
        both, both, both, (0, 2), (1, 2, 3), TOLERANCE, both, both
    ):
        options = {
            "input_size": 2, "hidden_size": 3, "num_layers": num_layers, "bias": bias, "batch_first": batch_first,
            "bidirectional": bidirectional, "proj_size": proj_size, "dtype": dtype,
        }  # fmt: skip
        said = ",".join(f"{key}={value}" for key, value in list(options.items())[2:])
        name = f"flags/{said},unbatched={unbatched},states={states}"
        yield make(torch, name, (3, None if unbatched else 2), states=states, **options)


def cell_cases(torch: ModuleType) -> Iterator[Case]:
    """LSTMCell: every combination."""
    both = (False, True)
    for bias, dtype, unbatched, states in product(both, TOLERANCE, both, both):
        name = f"cell/bias={bias},dtype={dtype},unbatched={unbatched},states={states}"
        options = {"input_size": 5, "hidden_size": 7, "bias": bias, "dtype": dtype}
        yield make(torch, name, (1, None if unbatched else 3), module="LSTMCell", states=states, **options)


def size_cases(torch: ModuleType) -> Iterator[Case]:
    """Sizes that fit no register and no tile."""
    for input_size, hidden_size, steps, batch, more in [
        (1, 1, 9, 1, {}),
        (1, 1, 2, 5, {"num_layers": 3, "bidirectional": True}),
        (3, 1, 2, 3, {"bidirectional": True}),
        (1, 3, 40, 4, {"num_layers": 2}),
        (5, 13, 6, 7, {"bidirectional": True, "batch_first": True}),
        (13, 13, 5, 2, {"proj_size": 11, "num_layers": 2, "bias": False}),
        (2, 37, 5, 4, {}),
        (7, 37, 3, 1, {"proj_size": 1}),
    ]:
        for dtype in TOLERANCE:
            options = {"input_size": input_size, "hidden_size": hidden_size, "dtype": dtype, **more}
            name = f"sizes/{','.join(f'{k}={v}' for k, v in options.items())},T={steps},B={batch}"
            yield make(torch, name, (steps, batch), **options)


def extreme_cases(torch: ModuleType) -> Iterator[Case]:
    """Tiny signals, saturated gates, huge states, infinities and NaN."""
    inf, nan = float("inf"), float("nan")
    for dtype in TOLERANCE:
        wide = {"input_size": 4, "hidden_size": 9, "dtype": dtype}
        for exponent in (-6, -18, -25) if dtype == "float32" else (-6, -100, -290):
            for name, more in (("", {}), (",bidirectional", {"bidirectional": True}), (",proj_size", {"proj_size": 2})):
                yield make(
                    torch, f"extremes/{dtype},tiny input 1e{exponent}{name}", (3, 2), states=False,
                    input_scale=10.0**exponent, relative=True, bias=False, **wide, **more,
                )  # fmt: skip
        yield make(
            torch, f"extremes/{dtype},saturated gates", (6, 3), weight_scale=3, input_scale=20, quarters=True, **wide
        )
        yield make(
            torch,
            f"extremes/{dtype},saturated by states",
            (1, 3),
            weight_scale=3,
            state_scale=40,
            quarters=True,
            **wide,
        )
        yield make(
            torch, f"extremes/{dtype},huge c_0", (1, 3), state_scale=0.1,
            planted={"c_0": {(0, 1, 2): 1e30, (0, 1, 8): -1e35, (0, 2, 0): 300.0, (0, 2, 8): -19.0}}, **wide,
        )  # fmt: skip
        for name, planted in {
            "inf in input": {"input": {(2, 1, 0): inf}},
            "-inf in input": {"input": {(0, 0, 3): -inf}},
            "NaN in input": {"input": {(1, 2, 2): nan}},
            "inf and -inf in one row of input": {"input": {(1, 1, 0): inf, (1, 1, 2): -inf}},
            "inf in h_0": {"h_0": {(0, 1, -1): inf}},
            "NaN in h_0": {"h_0": {(0, 2, 0): nan}},
            "inf in c_0": {"c_0": {(0, 0, 8): inf, (0, 2, 3): -inf}},
            "NaN in c_0": {"c_0": {(0, 1, 4): nan}},
            "something in every row but one": {
                "input": {(2, 0, 1): inf},
                "h_0": {(0, 1, 2): nan},
                "c_0": {(0, 3, 8): -inf},
            },
        }.items():
            for more in ({}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 3}):
                flags = "".join(f",{k}={v}" for k, v in more.items())
                yield make(torch, f"extremes/{dtype},{name}{flags}", (4, 4), planted=planted, **wide, **more)


def main(arguments: list[str] | None = None) -> int:
    """Write or check the file; 0 is well, 1 is a difference, 2 is the wrong torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    parser.add_argument("--file", type=Path, default=FILE, help=f"default: {FILE.name} beside this script")
    options = parser.parse_args(arguments)
    try:
        import torch

        version = torch.__version__.partition("+")[0]
    except ImportError:
        version = "not installed"
    if version != TORCH:
        print(f"torch is {version}; golden vectors are made with {TORCH}: pip install torch=={TORCH}", file=sys.stderr)
        return 2
    made = generate(torch)
    if not options.check:
        save(made, options.file)
        print(f"{len(made)} cases in {options.file} ({options.file.stat().st_size} bytes)")
        return 0
    said = compare(load(options.file), made)
    for line in said:
        print(line)
    print(
        f"{len(said)} differences in {len(made)} cases" if said else f"{len(made)} cases agree with {options.file.name}"
    )
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
