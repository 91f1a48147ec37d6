"""What the layers around an LSTM cost: in a call of a small model, and in a step of a streamed amplifier.

``python benchmarks/model.py`` prints both, and how fast ONNX files run, measured in turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from numlstm import LSTM, load_model, nn, num_threads

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
ROUNDS, CALLS = (3, 50) if QUICK else (31, 2_000)


def in_turns(*ways: Callable[[], object]) -> list[float]:
    """Seconds a call of each way: medians over rounds, in which they take turns."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, own in zip(ways, times, strict=True):
            begin = perf_counter()
            for _ in range(CALLS):
                way()
            own.append((perf_counter() - begin) / CALLS)
    return [median(own) for own in times]


def around_a_call() -> float:
    """Microseconds that Embedding, Linear and softmax add to the call of an LSTM."""
    lstm = LSTM(8, 16, batch_first=True, seed=0).eval()
    model = nn.Sequential(nn.Embedding(100, 8, seed=0), lstm, nn.Linear(16, 5, seed=0), nn.softmax).eval()
    words = np.arange(10)[None]
    embedded = model.layers["0"](words)
    whole, alone = in_turns(lambda: model(words), lambda: lstm(embedded))
    return 1e6 * (whole - alone)


def step_with_head() -> float:
    """A step of an amplifier with its head, over the bare step of its LSTM."""
    lstm = LSTM(1, 40, seed=0).eval()
    with_head, bare = nn.Sequential(lstm, nn.Linear(40, 1, seed=0), skip=1).eval().stream(), lstm.stream()
    both, alone = in_turns(with_head.step, bare.step)  # type: ignore[union-attr]
    return both / alone


# small ONNX files of the tests, and what each is given: arrays in the order of its inputs
FILES = Path(__file__).parents[1] / "tests" / "fixtures" / "models"
STATE = np.zeros((1, 1, 4), np.float32)
INPUTS: dict[str, tuple[Any, ...]] = {
    "amplifier_script": (np.ones((1, 64, 1), np.float32), STATE, STATE),
    "forecaster_script": (np.ones((2, 32, 2), np.float32),),
    "sentiment_script": (np.ones((3, 20), np.int64),),
}


def over_onnxruntime(name: str) -> float:
    """How many times as fast `load_model` runs a file as ONNX Runtime does, both on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = FILES / f"{name}.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = dict(zip((own.name for own in session.get_inputs()), INPUTS[name], strict=True))
    model = load_model(path)
    with num_threads(1):
        ours, theirs = in_turns(lambda: model(*INPUTS[name]), lambda: session.run(None, given))
    return theirs / ours


class Around:
    """Microseconds that the layers around a small LSTM add to its call; 15 is the aim."""

    timeout = 120.0

    def track_microseconds(self) -> float:
        return around_a_call()

    track_microseconds.unit = "us"  # type: ignore[attr-defined]


class Step:
    """A step of a streamed amplifier with its head, over the bare step; 1.5 is the aim."""

    timeout = 120.0

    def track_over_bare_step(self) -> float:
        return step_with_head()

    track_over_bare_step.unit = "of the bare step"  # type: ignore[attr-defined]


class OnnxRuntime:
    """A whole ONNX file, over ONNX Runtime on the same file."""

    params = tuple(INPUTS)
    param_names = ("file",)
    timeout = 120.0

    def track_times_faster(self, file: str) -> float:
        return over_onnxruntime(file)

    track_times_faster.unit = "times as fast as ONNX Runtime"  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(f"Embedding, Linear and softmax around an LSTM: {around_a_call():.1f} us a call")
    print(f"a streamed amplifier with its head: {step_with_head():.2f} of the bare step")
    for file in INPUTS:
        print(f"{file}.onnx: {over_onnxruntime(file):.2f} times as fast as ONNX Runtime")
