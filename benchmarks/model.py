"""What the layers around an LSTM cost: in a call of a small model, and in a step of a streamed amplifier.

``python benchmarks/model.py`` prints both, and how fast ONNX files run, measured in turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from numlstm import LSTM, load, load_model, nn, num_threads
from numlstm.base.typing import Array

QUICK = os.environ.get("NUMLSTM_BENCH_QUICK") == "1"
ROUNDS, CALLS = (3, 50) if QUICK else (31, 2_000)
SECONDS = 0.2  # a round of all ways


def in_turns(*ways: Callable[[], object]) -> list[float]:
    """Seconds a call of each way: medians over rounds, in which they take turns."""
    begin = perf_counter()
    for way in ways:
        way()
    calls = max(1, min(CALLS, int(SECONDS / (perf_counter() - begin))))
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, own in zip(ways, times, strict=True):
            begin = perf_counter()
            for _ in range(calls):
                way()
            own.append((perf_counter() - begin) / calls)
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


# ONNX models of usual sizes as exporters write them, and what each is given


def weights(rng: np.random.Generator, features: int, hidden: int, directions: int = 1) -> dict[str, Array]:
    """Parameters of an LSTM node."""
    shapes = {
        "W": (directions, 4 * hidden, features),
        "R": (directions, 4 * hidden, hidden),
        "B": (directions, 8 * hidden),
    }
    return {name: rng.uniform(-0.1, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def head(rng: np.random.Generator, features: int, outputs: int) -> dict[str, Array]:
    """Parameters of a Linear layer."""
    return {
        name: rng.uniform(-0.1, 0.1, shape).astype(np.float32)
        for name, shape in (("K", (features, outputs)), ("b", (outputs,)))
    }


def models() -> dict[str, tuple[str, dict[str, Array], Array]]:
    """By name: the graph, its weights, and the input."""
    rng = np.random.default_rng(0)
    words = {"E": rng.uniform(-1, 1, (5000, 100)).astype(np.float32)}
    return {
        "tagger": (
            "(int64[n, t] x) => (float[n, t, 17] y) { e = Gather(E, x) u = Transpose<perm=[1, 0, 2]>(e)"
            ' h = LSTM<hidden_size=256, direction="bidirectional">(u, W, R, B) v = Transpose<perm=[0, 2, 1, 3]>(h)'
            " z = Reshape(v, flat) w = Transpose<perm=[1, 0, 2]>(z) m = MatMul(w, K) a = Add(m, b) y = Softmax(a) }",
            words | weights(rng, 100, 256, 2) | head(rng, 512, 17) | {"flat": np.array([0, 0, -1])},
            rng.integers(0, 5000, (1, 50)),
        ),
        "classifier": (
            "(int64[n, t] x) => (float[n, 3] y) { e = Gather(E, x) u = Transpose<perm=[1, 0, 2]>(e)"
            " h, s, c = LSTM<hidden_size=128>(u, W, R, B) z = Gather<axis=0>(s, last)"
            " m = Gemm(z, K, b) y = Softmax(m) }",
            words | weights(rng, 100, 128) | head(rng, 128, 3) | {"last": np.array(-1)},
            rng.integers(0, 5000, (4, 60)),
        ),
        "amplifier": (
            "(float[n, t, 1] x) => (float[n, t, 1] y) { u = Transpose<perm=[1, 0, 2]>(x)"
            " h = LSTM<hidden_size=40>(u, W, R, B) z = Squeeze(h, one) v = Transpose<perm=[1, 0, 2]>(z)"
            " m = MatMul(v, K) a = Add(m, b) y = Add(a, x) }",
            weights(rng, 1, 40) | head(rng, 40, 1) | {"one": np.array([1])},
            rng.uniform(-1, 1, (1, 2048, 1)).astype(np.float32),
        ),
    }


def content_of(text: str, arrays: dict[str, Array]) -> bytes:
    """The bytes of an ONNX model."""
    import onnx

    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    content: bytes = model.SerializeToString()
    return content


# small files of the tests, for which Python is most of the time
FILES = Path(__file__).parents[1] / "tests" / "fixtures" / "models"
SMALL: dict[str, tuple[Any, ...]] = {
    "forecaster_script.onnx": (np.ones((2, 32, 2), np.float32),),
    "sentiment_script.onnx": (np.ones((3, 20), np.int64),),
}
NAMES = ("tagger", "classifier", "amplifier", *SMALL)


def session_of(content: bytes) -> Any:
    """ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def over_onnxruntime(name: str) -> tuple[float, float]:
    """How many times as fast as ONNX Runtime a file runs by `load_model`, and its LSTM by itself; all on one thread."""
    if name in SMALL:
        content, inputs = (FILES / name).read_bytes(), SMALL[name]
    else:
        text, arrays, given_x = models()[name]
        content, inputs = content_of(text, arrays), (given_x,)
    model, session = load_model(content), session_of(content)
    given = dict(zip((each.name for each in session.get_inputs()), inputs, strict=True))
    lstm: Any = load(content)
    lstm.batch_first = False
    first = inputs[0]
    x = np.ones((first.shape[1], first.shape[0], lstm.input_size), np.float32)
    with TemporaryDirectory() as folder:
        lstm.save(Path(folder, "lstm.onnx"))
        alone = session_of(Path(folder, "lstm.onnx").read_bytes())
    h = c = np.zeros((lstm.num_layers * (1 + lstm.bidirectional), x.shape[1], lstm.hidden_size), np.float32)
    fed = dict(zip((own.name for own in alone.get_inputs()), (x, h, c), strict=True))
    with num_threads(1):
        whole, theirs, own, of_lstm = in_turns(
            lambda: model(*inputs),
            lambda: session.run(None, given),
            lambda: lstm(x, (h, c)),
            lambda: alone.run(None, fed),
        )
    return theirs / whole, of_lstm / own


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
    """A whole ONNX file over ONNX Runtime on the same file, as a part of the LSTM's own speed-up; 0.8 is the aim."""

    params = NAMES
    param_names = ("file",)
    timeout = 120.0

    def track_of_the_lstm(self, file: str) -> float:
        whole, alone = over_onnxruntime(file)
        return whole / alone

    track_of_the_lstm.unit = "of the LSTM's own speed-up"  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(f"Embedding, Linear and softmax around an LSTM: {around_a_call():.1f} us a call")
    print(f"a streamed amplifier with its head: {step_with_head():.2f} of the bare step")
    for file in NAMES:
        whole, alone = over_onnxruntime(file)
        print(f"{file}: {whole:.2f} times as fast as ONNX Runtime, its LSTM alone {alone:.2f} times")
