"""What a call and a model take: NumPy tells tracemalloc of every array, so bytes are counted exactly."""

import gc
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest

import numlstm

pytestmark = pytest.mark.cpu_level

MB = 1 << 20
CALLS = 100_000


def peak(function):
    """Bytes that a call holds at most beyond what was held before."""
    function()  # plans and workspaces of this shape exist from here on
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = function()
        most = tracemalloc.get_traced_memory()[1]
        del kept
        return most - before
    finally:
        tracemalloc.stop()


def first_peak(lstm, x, **arguments):
    """Likewise for the first call of its shape, workspaces included; the kernels are loaded before."""
    numlstm.LSTM(1, 1, dtype=lstm.dtype)(np.zeros((1, 1, 1)))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = lstm.forward(x, **arguments)
        most = tracemalloc.get_traced_memory()[1]
        del kept
        return most - before
    finally:
        tracemalloc.stop()


def result_bytes(lstm, steps, batch):
    directions = 2 if lstm.bidirectional else 1
    size = lstm.proj_size or lstm.hidden_size
    states = lstm.num_layers * directions * batch * (size + lstm.hidden_size)
    return (steps * batch * directions * size + states) * lstm.dtype.itemsize


CASES = {
    "one layer": ({}, (3000, 64), "f4"),
    "one layer, long": ({}, (200_000, 1), "f4"),
    "one layer, wide": ({}, (4, 60_000), "f4"),
    "hoisted": ({"hidden_size": 256}, (2000, 4), "f4"),
    "projected, wide": ({"proj_size": 8}, (4, 60_000), "f4"),
    "three layers": ({"num_layers": 3}, (3000, 64), "f4"),
    "two directions": ({"num_layers": 2, "bidirectional": True}, (2000, 64), "f4"),
    "converted from float16": ({}, (3000, 200), "f2"),
    "converted, one step wider than the buffer": ({"input_size": 64}, (3, 60_000), "f8"),
    "converted, two directions": ({"num_layers": 2, "bidirectional": True}, (2000, 64), "i2"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_call_takes_a_bounded_amount(case):
    """Beyond the results: 16 MB, and one sequence of the hidden size per direction where there are layers."""
    flags, (steps, batch), dtype = CASES[case]
    lstm = numlstm.LSTM(**{"input_size": 16, "hidden_size": 32, "seed": 0, **flags}).eval()
    x = np.ones((steps, batch, lstm.input_size), dtype)
    directions = 2 if lstm.bidirectional else 1
    sequence = steps * batch * directions * (lstm.proj_size or lstm.hidden_size) * 4 if lstm.num_layers > 1 else 0
    allowed = result_bytes(lstm, steps, batch) + sequence + 16 * MB
    assert first_peak(lstm, x) <= allowed


def test_the_measure_notices_a_whole_converted_input():
    """A copy of the input, as a careless engine would make, is beyond what the case above allows."""
    x = np.ones((3000, 200, 16), "f2")
    lstm = numlstm.LSTM(16, 32, seed=0)
    taken = peak(lambda: (lstm(x), x.astype("f4"), x.astype("f8")))
    assert taken > result_bytes(lstm, 3000, 200) + 16 * MB


def test_a_model_holds_its_weights_once():
    lstm = numlstm.LSTM(256, 512, num_layers=2, seed=0)
    weights = lstm.state_dict()
    size = sum(w.nbytes for w in weights.values())
    gc.collect()
    tracemalloc.start()
    try:
        other = numlstm.LSTM(256, 512, num_layers=2, seed=1)
        other.load_state_dict(weights)
        other(np.zeros((4, 2, 256), np.float32))
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size <= held <= 1.03 * size + MB


def test_a_smaller_call_gives_a_large_workspace_back():
    lstm = numlstm.LSTM(16, 64, num_layers=2, seed=0).eval()
    gc.collect()
    tracemalloc.start()
    try:
        lstm(np.zeros((1, 1, 16), np.float32))
        before = tracemalloc.get_traced_memory()[0]
        lstm(np.zeros((5000, 64, 16), np.float32))
        assert tracemalloc.get_traced_memory()[0] - before > 50 * MB  # the sequence between the layers is kept ...
        lstm(np.zeros((1, 1, 16), np.float32))
        deadline = time.monotonic() + 60
        while tracemalloc.get_traced_memory()[0] - before >= MB and time.monotonic() < deadline:
            time.sleep(0.001)  # a worker may hold what the call had, until it has the GIL
        assert tracemalloc.get_traced_memory()[0] - before < MB  # ... until it is of no use any more
    finally:
        tracemalloc.stop()


def test_a_call_with_out_allocates_no_array():
    lstm = numlstm.LSTM(16, 32, num_layers=2, seed=0).eval()
    x = np.zeros((50, 64, 16), np.float32)
    output, (h_n, c_n) = lstm(x)
    # the least of a few: a worker that starts meanwhile is measured too
    assert min(peak(lambda: lstm.forward(x, (h_n, c_n), out=(output, h_n, c_n))) for _ in range(5)) < h_n.nbytes
    assert peak(lambda: lstm(x)) > output.nbytes  # the measure does see arrays


GROWTH = """
import gc, resource, sys
import numpy as np
import numlstm

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

form, calls = sys.argv[1], int(sys.argv[2])
lstm = numlstm.LSTM(3, 8, num_layers=2, seed=0).eval()
x = np.zeros((2, 1, 3), np.float16 if form == "converted" else np.float32)
cell = numlstm.LSTMCell(3, 8, seed=0)
output, (h_n, c_n) = lstm(x)
leak = []
call = {
    "results": lambda: lstm(x),
    "converted": lambda: lstm(x),
    "out": lambda: lstm.forward(x, out=(output, h_n, c_n)),
    "states": lambda: lstm(x, (h_n, c_n)),
    "refused": lambda: lstm(x, [h_n, c_n]),
    "cell": lambda: cell(x[0], (h_n[0], c_n[0])),
    "leak": lambda: leak.append(lstm(x)),
}[form]
for _ in range(2000):
    call()
gc.collect()
gc.disable()  # garbage that only the collector finds would count as a leak
held = resident()
for _ in range(calls):
    call()
print(resident() - held)
"""


def growth(form):
    """Bytes by which a fresh process grows over many calls, as the operating system counts them."""
    command = [sys.executable, "-c", GROWTH, form, str(CALLS)]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["results", "out", "converted", "states", "refused", "cell"])
def test_a_hundred_thousand_calls_leave_nothing_behind(form):
    assert growth(form) < MB


def test_the_measure_notices_a_leak():
    assert growth("leak") > 10 * MB


@pytest.mark.slow
@pytest.mark.parametrize("form", ["results", "converted", "states"])
def test_nothing_is_held_between_calls(form):
    lstm = numlstm.LSTM(3, 8, num_layers=2, seed=0).eval()
    x = np.zeros((2, 1, 3), np.float16 if form == "converted" else np.float32)
    _, hx = lstm(x)
    tracemalloc.start()
    try:
        for _ in range(100):  # what a call replaces is counted from here on
            lstm(x, hx if form == "states" else None)
        held = tracemalloc.get_traced_memory()[0]
        for _ in range(CALLS):
            lstm(x, hx if form == "states" else None)
        assert tracemalloc.get_traced_memory()[0] - held < 4096
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_workspaces_of_threads_that_are_gone_are_let_go():
    lstm = numlstm.LSTM(16, 64, num_layers=2, seed=0).eval()
    x = np.zeros((5000, 64, 16), np.float32)
    ready = threading.Barrier(4)

    def call():
        ready.wait()
        lstm(x)

    tracemalloc.start()
    try:
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(b.nbytes for w in lstm._model.executor.idle for b in w.buffers.values()) > 75 * MB
        lstm(x[:1, :1])
        assert sum(b.nbytes for w in lstm._model.executor.idle for b in w.buffers.values()) < MB
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 2 * MB
    finally:
        tracemalloc.stop()
