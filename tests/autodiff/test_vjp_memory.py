"""What vjp keeps: ``memory="low"`` has the bits of "all" and keeps a fraction, and no buffer grows without bound."""

import copy
import gc
import tracemalloc

import numpy as np
import pytest
from judge import equal
from samples import data

import numlstm
from numlstm.autodiff import passes, plans

pytestmark = pytest.mark.cpu_level
CASES = [
    (hidden, proj, layers, directions, kind)
    for hidden, proj in [(13, 0), (37, 5)]
    for layers, directions in [(1, 1), (3, 1), (2, 2)]
    for kind in ["plain", "lengths", "dropout"]
    if kind != "dropout" or layers > 1
]


def results_of(lstm, x, hx, lengths, memory):
    """All results of both passes, and the backward pass."""
    lstm = copy.deepcopy(lstm)
    (output, states), backward = lstm.vjp(x, hx, lengths=lengths, memory=memory)
    d_output = np.random.default_rng(2).standard_normal(output.shape).astype(lstm.dtype)
    grads = backward(d_output, states)
    again = backward(d_output, states)
    assert equal([again.input, *again.hx], [grads.input, *grads.hx])
    return [output, *states, grads.input, *grads.hx, *grads.parameters.values()], backward


@pytest.mark.parametrize(("hidden", "proj", "layers", "directions", "kind"), CASES)
def test_low_memory_gives_the_same_bits(hidden, proj, layers, directions, kind, monkeypatch):
    """Over several segments of several chunks, which begin and end within the sequence."""
    monkeypatch.setattr(plans, "SEGMENT_BYTES", 1 << 17)
    monkeypatch.setattr(plans, "CHUNK_MOST", 64)
    flags = {"bidirectional": directions == 2, "proj_size": proj, "dropout": 0.3 * (kind == "dropout")}
    lstm = numlstm.LSTM(5, hidden, layers, seed=1, dtype="float64" if hidden == 13 else "float32", **flags).train()
    x, hx = data(lstm, 70, 9)
    lengths = np.random.default_rng(1).integers(1, 71, 9) if kind == "lengths" else None
    want, _ = results_of(lstm, x, hx, lengths, "all")
    got, backward = results_of(lstm, x, hx, lengths, "low")
    assert equal(got, want)
    segments = [len(tables.segments) for tables in backward._tape.plan.tables]
    assert min(segments) > 1 and len(backward._tape.plan.tables[0].chunks) > segments[0]


def test_a_segment_that_begins_with_other_states_is_noticed(monkeypatch):
    monkeypatch.setattr(plans, "SEGMENT_BYTES", 1 << 14)
    lstm = numlstm.LSTM(5, 13, seed=1)
    (output, _), backward = lstm.vjp(data(lstm, 300, 3)[0], memory="low")
    want = backward(output).input
    tape = backward._tape
    h, _ = tape.plan.layout.states[0][0]
    tape.buffer[h : h + 39] = 0.5
    assert not equal(backward(output).input, want)


def test_nan_of_one_row_stays_there_with_low_memory():
    lstm = numlstm.LSTM(5, 13, 2, seed=1)
    x, _ = data(lstm, 40, 4)
    x[3, 1] = np.nan
    (output, _), backward = lstm.vjp(x, memory="low")
    grads = backward(np.ones_like(output))
    assert np.isnan(grads.input[:, 1]).any() and not np.isnan(grads.input[:, [0, 2, 3]]).any()


@pytest.mark.parametrize(("memory", "a_number"), [("all", 24), ("low", 4.4)])
def test_bytes_kept_for_each_step_row_and_unit(memory, a_number):
    """With as many units as whole registers hold, and a small input."""
    steps, rows, units = 512, 8, 64
    lstm = numlstm.LSTM(1, units, seed=1)
    x, _ = data(lstm, steps, rows)
    _, backward = lstm.vjp(x, memory=memory)
    kept = backward._tape.plan.kept * 4 - x.nbytes
    assert kept < a_number * 1.01 * steps * rows * units


@pytest.mark.slow
def test_a_thousand_steps_of_varying_sizes_do_not_grow():
    """Buffers are leased and used again: after each 250 steps of the same sizes a model holds as much as before."""
    random = np.random.default_rng(0)
    lstm = numlstm.LSTM(3, 8, 2, seed=0)
    sizes = [(int(random.integers(1, 60)), int(random.integers(1, 9))) for _ in range(250)]
    trainer, held = passes.trainer(lstm._model.executor, lstm._panels), []
    tracemalloc.start()
    try:
        for _ in range(4):
            for n, (steps, rows) in enumerate(sizes):
                x = np.ones((steps, rows, 3), np.float32)
                (output, _), backward = lstm.vjp(x, memory=("all", "low")[n % 2])
                backward(output)
            del backward
            trainer.plans.clear()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
            assert len(trainer.idle) <= 4 and len(trainer.transposed) == 1
    finally:
        tracemalloc.stop()
    assert max(held[1:]) < held[0] + 20_000, held
