"""Sequences of several lengths in one batch: each row has the bits that it has alone; nothing beyond its end is read.

Every path of the kernel is forced at small sizes, and its counters prove that it ran. Faults planted in the table of
segments make the comparison fail.
"""

import copy
import ctypes
import threading

import numpy as np
import pytest
from bits import SIZES
from hypothesis import given
from hypothesis import strategies as st
from judge import DTYPES, UNIT, bits, equal, error, exact, flat, need_longdouble, same_bits
from random_cases import cases
from runtime.test_threads import FLAGS, OTHERS, WAYS, Gathered
from samples import data, make
from test_bits import FORCED

import numlstm
from numlstm.base.config import Config
from numlstm.kernels.plan_layout import Header, Partition, UniformRun
from numlstm.runtime import planner, schedule
from numlstm.runtime.executor import Executor
from numlstm.sequences import ragged as packed_calls

pytestmark = pytest.mark.cpu_level

many = cases(60)

LENGTHS = {
    "in any order": [3, 7, 1, 7, 2, 5, 5, 1, 6, 4, 7],
    "by length": [7, 7, 7, 6, 5, 5, 4, 3, 2, 1, 1],
    "all different": [7, 6, 5, 4, 3, 2, 1],
    "rising": [1, 2, 4, 7],
    "all the same": [7] * 5,
    "one long": [1, 1, 1, 1, 1, 1, 7, 1],
    "one row": [7],
    "of one step": [1, 1, 1],
    "none of all steps": [2, 3, 1],
}
EMPTY = {
    "some without steps": [3, 0, 7, 0, 1],
    "by length, some without steps": [7, 4, 0, 0],
    "all without steps": [0, 0, 0],
}


@pytest.fixture(autouse=True)
def alone():
    """On one thread, whose counters are read, where a test asks for no more."""
    with numlstm.num_threads(1):
        yield


def ragged(net, lengths, seed=0, steps=7):
    """A padded batch, steps first, whose padding is NaN, and states."""
    x, hx = data(net, steps, len(lengths), seed)
    for row, length in enumerate(lengths):
        x[length:, row] = np.nan
    return x, hx


def by_rows(net, x, hx, lengths):
    """What each row gives alone, padded with zeros: of (steps, batch, features)."""
    features = (2 if net.bidirectional else 1) * (net.proj_size or net.hidden_size)
    output, states = np.zeros((*x.shape[:2], features), x.dtype), []
    for row, length in enumerate(lengths):
        given = None if hx is None else (hx[0][:, row], hx[1][:, row])
        if length:
            output[:length, row], given = net(x[:length, row], given)
        elif given is None:
            given = tuple(np.zeros_like(state[:, 0]) for state in data(net, 1, 1)[1])
        states.append(given)
    return output, tuple(np.stack([state[n] for state in states], axis=1) for n in (0, 1))


def run(net, x, hx, lengths, **forced):
    """Results by ``lengths=``, and the kernel's counters."""
    with planner.override(**forced):
        net(x, hx, lengths=lengths)
        net._model.executor.idle.clear()
        results = net(x, hx, lengths=lengths)
        return results, net._model.executor.idle[-1].slots[: Header.LENGTH].copy()


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("hidden", "proj"), SIZES)
@pytest.mark.parametrize("kind", ["in any order", "by length"])
def test_every_path_gives_each_row_what_it_is_alone(kind, hidden, proj, dtype):
    net = make(hidden, proj, dtype, num_layers=2, bidirectional=True)
    lengths = LENGTHS[kind]
    x, hx = ragged(net, lengths)
    want = by_rows(net, x, hx, lengths)
    assert not np.isnan(want[0]).any()
    for name, forced in {"default": {}, **FORCED}.items():
        got, count = run(net, x, hx, lengths, **forced)
        assert equal(got, want), name
        assert count[Header.UNIFORM_RUNS] >= 2 * 2 * len(set(lengths)), name


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("kind", LENGTHS | EMPTY)
def test_any_lengths(kind, flags):
    net, lengths = numlstm.LSTM(5, 24, seed=1, **flags).eval(), (LENGTHS | EMPTY)[kind]
    x, hx = ragged(net, lengths)
    for states in (hx, None):
        want = by_rows(net, x, states, lengths)
        out = tuple(np.full_like(array, np.nan) for array in (want[0], *want[1]))
        assert equal(net(x, states, lengths=lengths), want)
        assert equal(net(x, states, lengths=lengths, out=out), want) and same_bits(out[0], want[0])


@pytest.mark.parametrize("kind", LENGTHS)
def test_packed_and_padded_are_the_same(kind):
    net, lengths = make(proj_size=5, num_layers=2, bidirectional=True), LENGTHS[kind]
    x, hx = ragged(net, lengths)
    first = numlstm.LSTM(5, 37, 2, proj_size=5, bidirectional=True, batch_first=True, seed=37).eval()
    want = by_rows(net, x, hx, lengths)
    output, states = first(x.swapaxes(0, 1), hx, lengths=lengths)
    assert equal((output.swapaxes(0, 1), states), want)
    packed = numlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    for lstm in (net, first):  # batch_first is for padded ones
        output, states = lstm(packed, hx)
        assert isinstance(output, numlstm.PackedSequence)
        padded, ends = numlstm.pad_packed_sequence(output, total_length=7)
        assert equal((padded, states), want) and ends.tolist() == lengths
        for ours, theirs in zip(output[1:], packed[1:], strict=True):
            assert np.array_equal(ours, theirs)
    order = np.argsort(-np.array(lengths), kind="stable")
    ordered = numlstm.pack_padded_sequence(x[:, order], np.array(lengths)[order])
    assert ordered.sorted_indices is None
    output, states = net(ordered, (hx[0][:, order], hx[1][:, order]))
    assert same_bits(output.data, net(packed, hx)[0].data)
    assert all(same_bits(got, all_rows[:, order]) for got, all_rows in zip(states, want[1], strict=True))


def test_rows_by_length_are_read_and_written_where_they_are(monkeypatch):
    """Without a copy, whatever the layout; other rows, and numbers of another dtype, are packed first."""
    for flags in ({"num_layers": 2}, {"bidirectional": True, "proj_size": 3}, {"num_layers": 3, "bidirectional": True}):
        net, copies, gathered = numlstm.LSTM(5, 24, seed=1, **flags).eval(), [], packed_calls.gathered
        keep = lambda *both, copies=copies, gathered=gathered: (copies.append(1), gathered(*both))[1]  # noqa: E731
        monkeypatch.setattr(packed_calls, "gathered", keep)
        lengths = LENGTHS["by length"]
        x, hx = ragged(net, lengths, steps=9)
        want = by_rows(net, x, hx, lengths)
        rows_outside, backwards = np.ascontiguousarray(x.swapaxes(0, 1)), np.ascontiguousarray(x[::-1])
        for laid_out in (x, rows_outside.swapaxes(0, 1), np.repeat(x, 2, axis=1)[:, ::2], backwards[::-1]):
            assert equal(net(laid_out, hx, lengths=lengths), want) and not copies
        first = numlstm.LSTM(5, 24, batch_first=True, seed=1, **flags).eval()
        for laid_out in (x.swapaxes(0, 1), rows_outside):
            output, states = first(laid_out, hx, lengths=lengths)
            assert equal((output.swapaxes(0, 1), states), want) and not copies
        assert equal(net(x.astype("f8"), hx, lengths=lengths), want) and copies
        assert equal(net(np.asfortranarray(x), hx, lengths=lengths), want) and len(copies) == 2
        still = np.broadcast_to(x[:1], x.shape)
        assert equal(net(still, hx, lengths=lengths), net(still.copy(), hx, lengths=lengths)) and len(copies) == 3


def test_whole_lengths_are_the_call_without():
    net = make(proj_size=5, num_layers=2, bidirectional=True)
    x, hx = ragged(net, [7] * 6)
    assert equal(net(x, hx, lengths=[7] * 6), net(x, hx))


def test_every_path_is_taken_and_counted():
    net, lengths = make(proj_size=5, num_layers=2), LENGTHS["in any order"]
    x, hx = ragged(net, lengths)
    counts = {name: run(net, x, hx, lengths, **forced)[1] for name, forced in FORCED.items()}
    cells, segments, steps = 2, len(set(lengths)), 7
    assert counts["hoisted, long chunks"][Header.HOISTED] == cells * segments
    assert counts["not hoisted"][Header.HOISTED] == counts["not hoisted"][Header.K_BLOCKS] == 0
    assert counts["run after run"][Header.K_BLOCKS] > 0
    assert counts["rows one by one"][Header.TILES] == 0 < counts["rows one by one"][Header.MULTI_BLOCK]
    # each group of rows takes the steps of its longest row, and no more
    groups = {"groups of 1 row": 1, "groups of 5 rows": 5}
    ordered = sorted(lengths, reverse=True)
    for name, count in counts.items():
        firsts = range(0, len(lengths), groups.get(name, len(lengths)))
        assert count[Header.GROUPS] == len(firsts), name
        assert count[Header.PROJECTED] == cells * sum(ordered[first] for first in firsts), name
        assert steps == max(lengths)
    plain = run(net, x, hx, [7] * len(lengths))[1]
    assert plain[Header.UNIFORM_RUNS] == cells
    net(x, hx)
    assert net._model.executor.idle[-1].slots[Header.UNIFORM_RUNS] == 0, "a call without lengths goes its own way"


def test_few_rows_at_the_end_are_hoisted():
    """A batch too large to hoist still hoists the steps that few rows take."""
    net = numlstm.LSTM(40, 256, seed=0).eval()
    lengths = [4] * 40 + [12] * 10
    x, hx = ragged(net, lengths, steps=12)
    got, count = run(net, x, hx, lengths)
    assert count[Header.HOISTED] >= 1 and equal(got, by_rows(net, x, hx, lengths))
    assert run(net, x, hx, [12] * 50)[1][Header.HOISTED] == 0


def test_more_rows_than_a_group():
    net = make(13, 0, num_layers=2, bidirectional=True)
    lengths = np.random.default_rng(0).integers(1, 8, 200).tolist()
    x, hx = ragged(net, lengths)
    want = by_rows(net, x, hx, lengths)
    for group in (0, 1, 7, 96, 199, 200):
        got, count = run(net, x, hx, lengths, group=group)
        assert equal(got, want), group
        assert count[Header.GROUPS] == -(-200 // min(group or 200, 200)) or group == 0


# ---------------------------------------------------------------- threads


class Padded:
    """An LSTM whose calls are all with these lengths."""

    def __init__(self, net, lengths):
        self.net, self.lengths, self._model = net, lengths, net._model

    def __call__(self, x, hx):
        return self.net(x, hx, lengths=self.lengths)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("way", [way for way in WAYS if not way.startswith("wavefront")])
@pytest.mark.parametrize("kind", ["in any order", "by length"])
def test_any_number_of_threads_gives_the_same_bits(monkeypatch, kind, way, flags, dtype):
    gathered, lengths = Gathered(monkeypatch), LENGTHS[kind]
    net = numlstm.LSTM(5, 37, dtype=dtype, seed=37, **flags).eval()
    x, hx = ragged(net, lengths)
    call, want = Padded(net, lengths), by_rows(net, x, hx, lengths)
    for other in OTHERS:
        got, counts = gathered(call, x, hx, 1, **other)
        assert equal(got, want) and counts[Header.WORK_ITEMS] == 0
        for count in (2, 3):
            got, counts = gathered(call, x, hx, count, schedule=WAYS[way], **other)
            assert equal(got, want), (count, other)
            chosen = schedule.choose(net._config, 7, 5, 4, count, WAYS[way], packed_rows=len(lengths))
            assert (counts[Header.WORK_ITEMS] > 0) == (chosen is not None)
            if chosen is not None:
                assert counts[Header.UNIFORM_RUNS] >= len(set(lengths))


def test_layers_of_several_lengths_have_no_wavefront():
    deep = Config(64, 64, 4)
    assert schedule.choose(deep, 1000, 1, 4, 4).partition == Partition.WAVEFRONT
    chosen = schedule.choose(deep, 1000, 1, 4, 4, packed_rows=2)
    assert chosen is None or chosen.partition != Partition.WAVEFRONT
    assert schedule.choose(deep, 1000, 1, 4, 4, WAYS["wavefront"], packed_rows=2) is None


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("rows", [2, 3, 5, 16, 64, 100, 256, 1000])
def test_chunks_of_unequal_rows(rows, threads):
    """They cover all rows; claimed in their order, the last ones are small enough for all threads to end together."""
    chosen = schedule.choose(Config(64, 64), 1000, -(-rows // 2), 4, threads, WAYS["rows"], packed_rows=rows)
    assert chosen.num_chunks * chosen.chunk_rows >= rows > (chosen.num_chunks - 1) * chosen.chunk_rows
    assert chosen.ranges == 1 and 1 <= chosen.num_threads <= threads
    each = chosen.chunk_rows
    work = [sum(range(rows - part * each, max(rows - (part + 1) * each, 0), -1)) for part in range(chosen.num_chunks)]
    ends = [0] * chosen.num_threads
    for chunk in work:
        ends[ends.index(min(ends))] += chunk
    if rows >= 16 * threads:
        assert max(ends) <= 1.1 * sum(work) / threads


def test_long_calls_use_workers(monkeypatch):
    gathered = Gathered(monkeypatch)
    net = numlstm.LSTM(16, 128, num_layers=2, seed=0).eval()
    lengths = np.random.default_rng(0).integers(1, 60, 48).tolist()
    x, hx = ragged(net, lengths, steps=60)
    packed = numlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    want = net(packed, hx)
    got, counts = gathered(net, packed, hx, 2)
    assert counts[Header.WORK_ITEMS] > 0
    assert same_bits(got[0].data, want[0].data) and equal((got[1][0], got[1]), (want[1][0], want[1]))


def test_many_callers_at_once():
    net = make(proj_size=5, num_layers=2, bidirectional=True)
    cases = []
    for kind, lengths in LENGTHS.items():
        x, hx = ragged(net, lengths, seed=len(kind))
        cases.append((x, hx, lengths, by_rows(net, x, hx, lengths)))
    wrong, barrier = [], threading.Barrier(len(cases))

    def call(x, hx, lengths, want):
        barrier.wait(60)
        for _ in range(30):
            if not equal(net(x, hx, lengths=lengths), want):
                wrong.append(lengths)

    with numlstm.num_threads(3):
        callers = [threading.Thread(target=call, args=case) for case in cases]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(120)
    assert not wrong and not any(caller.is_alive() for caller in callers)


# ---------------------------------------------------------------- against the reference


@st.composite
def calls(draw):
    hidden, dtype = draw(st.integers(1, 40)), draw(st.sampled_from(DTYPES))
    flags = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "proj_size": draw(st.integers(0, hidden - 1)),
        "dtype": dtype,
    }
    net = numlstm.LSTM(5, hidden, seed=draw(st.integers(0, 99)), **flags).eval()
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=9))
    x, hx = ragged(net, lengths, seed=draw(st.integers(0, 99)), steps=max(lengths) + draw(st.integers(0, 2)))
    return net, x, hx if draw(st.booleans()) else None, lengths


def judged(net, x, hx, lengths):
    """What the reference gives for each row alone, in higher precision."""
    steps_first = copy.copy(net)
    steps_first.batch_first = False
    rows = [
        exact(steps_first, x[:length, row], None if hx is None else (hx[0][:, row], hx[1][:, row]))
        for row, length in enumerate(lengths)
    ]
    output = np.zeros((*x.shape[:2], rows[0][0].shape[-1]), np.longdouble)
    for row, length in enumerate(lengths):
        output[:length, row] = rows[row][0]
    return output, tuple(np.stack([row[1][n] for row in rows], axis=1) for n in (0, 1))


@many
@given(call=calls())
def test_near_the_reference_and_each_row_alone(call):
    net, x, hx, lengths = call
    if net.dtype == np.float64:
        need_longdouble()
    laid_out = x.swapaxes(0, 1) if net.batch_first else x
    output, states = net(laid_out, hx, lengths=lengths)
    got = output.swapaxes(0, 1) if net.batch_first else output, states
    assert error(got, judged(net, x, hx, lengths)) <= 64 * UNIT[net.dtype]
    assert equal(got, by_rows(net, x, hx, lengths))
    packed, states = net(numlstm.pack_padded_sequence(laid_out, lengths, net.batch_first, enforce_sorted=False), hx)
    padded, _ = numlstm.pad_packed_sequence(packed, total_length=len(x))
    assert equal((padded, states), got)


def test_the_bound_would_see_a_fault():
    """One bias of 24 that is off by 2**-12, and a sequence that ends a step too early."""
    net, lengths = numlstm.LSTM(5, 6, seed=0).eval(), [3, 7, 2]
    x, hx = ragged(net, lengths)
    want = judged(net, x, hx, lengths)
    assert error(net(x, hx, lengths=lengths), want) <= 64 * UNIT[net.dtype]
    assert error(net(x, hx, lengths=[3, 6, 2]), want) > 64 * UNIT[net.dtype]
    net.bias_hh_l0 = net.bias_hh_l0 + np.eye(24, dtype="f4")[7] * 2**-12
    assert error(net(x, hx, lengths=lengths), want) > 64 * UNIT[net.dtype]


# ---------------------------------------------------------------- memory


def test_nothing_else_is_read_or_written():
    """The data lie among NaN, and the results among numbers that must stay."""
    net, lengths = make(proj_size=5, num_layers=2, bidirectional=True), LENGTHS["in any order"]
    x, hx = ragged(net, lengths)
    packed = numlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    want = net(packed, hx)
    around = np.full((len(packed.data) + 40, 5), np.nan, "f4")
    around[20:-20] = packed.data
    shapes = [array.shape for array in (want[0].data, *want[1])]
    held = [np.full(np.prod(shape) + 2000, 7, "f4") for shape in shapes]
    out = tuple(array[1000:-1000].reshape(shape) for array, shape in zip(held, shapes, strict=True))
    output, states = net(packed._replace(data=around[20:-20]), hx, out=out)
    assert output.data is out[0] and states[0] is out[1] and states[1] is out[2]
    assert equal((output.data, states), (want[0].data, want[1]))
    assert all((array[:1000] == 7).all() and (array[-1000:] == 7).all() for array in held)


def test_results_share_memory_with_nothing_and_inputs_stay():
    net, lengths = make(proj_size=5, num_layers=2), LENGTHS["in any order"]
    x, hx = ragged(net, lengths)
    packed = numlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    arrays = [x, *hx, *packed]
    before = [array.tobytes() for array in arrays]
    results = [flat(net(x, hx, lengths=lengths)), flat(net(x, None, lengths=lengths))]
    for states in (hx, None):
        output, states = net(packed, states)
        results.append((*output, *states))
    assert [array.tobytes() for array in arrays] == before
    everything = [array for result in results for array in result]
    for n, array in enumerate(everything):
        assert not any(np.shares_memory(array, other) for other in arrays + everything[:n])


def test_out_for_padded_ones():
    net, lengths = make(proj_size=5, num_layers=2, bidirectional=True), LENGTHS["in any order"]
    x, hx = ragged(net, lengths)
    want = net(x, hx, lengths=lengths)
    out = tuple(np.full(array.shape, np.nan, "f4") for array in flat(want))
    got = net(x, hx, lengths=lengths, out=out)
    assert got[0] is out[0] and got[1][0] is out[1] and got[1][1] is out[2] and equal(got, want)
    for kind in ("in any order", "by length"):
        given_ = ragged(net, LENGTHS[kind])[0]
        held = tuple(state.copy() for state in hx)  # continued in place
        wanted = net(given_, hx, lengths=LENGTHS[kind])
        assert equal(net(given_, held, lengths=LENGTHS[kind], out=(out[0], *held)), wanted)
    with pytest.raises(ValueError, match="output in out shares memory with input"):
        net(out[0][:, :, :5], hx, lengths=lengths, out=out)
    with pytest.raises(ValueError, match="output in out must have shape"):
        net(numlstm.pack_padded_sequence(x, lengths, enforce_sorted=False), hx, out=out)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_dtype_and_layout(dtype):
    net, lengths = make(proj_size=5, dtype=dtype, num_layers=2, bidirectional=True), LENGTHS["in any order"]
    x = np.random.default_rng(0).integers(-9, 9, (7, len(lengths), 5))
    hx = ragged(net, lengths)[1]
    want = by_rows(net, x.astype(dtype), hx, lengths)
    wide = tuple(state.astype("longdouble") for state in hx)
    for other in ("i1", "i8", ">i4", "f2", "f4", "f8", ">f8", "longdouble"):
        given = x.astype(other)
        for states in (hx, wide, tuple(np.asfortranarray(state) for state in hx)):
            assert equal(net(given, states, lengths=lengths), want)
        assert equal(net(np.asfortranarray(given), hx, lengths=np.array(lengths, "u1")), want)
        assert equal(net(np.repeat(given, 2, axis=2)[:, :, ::2], hx, lengths=tuple(lengths)), want)
        packed = numlstm.pack_padded_sequence(given, lengths, enforce_sorted=False)
        assert packed.data.dtype == given.dtype
        for held in (packed.data, np.asfortranarray(packed.data), np.repeat(packed.data, 2, axis=0)[::2]):
            output, states = net(packed._replace(data=held), hx)
            assert equal((numlstm.pad_packed_sequence(output)[0], states), want)


def test_no_plan_is_kept():
    net = make(proj_size=5, num_layers=2)
    net(np.zeros((3, 2, 5), "f4"))
    kept = net._model.executor
    before = len(kept.plans), len(kept.dispatch_table[0])
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(1, 8, 6)
        net(ragged(net, lengths)[0], lengths=lengths)
    assert (len(kept.plans), len(kept.dispatch_table[0])) == before and len(kept.idle) == 1


def test_an_empty_batch():
    net = make(proj_size=5, num_layers=2, batch_first=True)
    output, (h_n, c_n) = net(np.zeros((0, 4, 5)), lengths=[])
    assert output.shape == (0, 4, 5) and h_n.shape == (2, 0, 5) and c_n.shape == (2, 0, 37)


# ---------------------------------------------------------------- dropout


@pytest.mark.parametrize("layers", [2, 3])
def test_dropout_between_layers(layers):
    net = numlstm.LSTM(5, 16, layers, dropout=0.5, bidirectional=True, seed=0)
    lengths = LENGTHS["in any order"]
    x, hx = ragged(net, lengths)
    packed = numlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    evaluated = flat(net.eval()(x, hx, lengths=lengths))
    net.train()
    one, two = (net(packed, hx) for _ in range(2))
    assert not np.array_equal(one[0].data, two[0].data)
    state = net._rng.bit_generator.state
    for wrong in ({"lengths": [9] * len(lengths)}, {"lengths": [1]}, {"lengths": lengths, "hx": 5}):
        with pytest.raises((RuntimeError, TypeError)):
            net(x, **wrong)
    with pytest.raises(ValueError, match="output in out must have shape"):
        net(packed, out=(x, x, x))
    assert net._rng.bit_generator.state == state, "what is refused draws no numbers"
    padded = net(x, hx, lengths=lengths)
    assert not (padded[0] == evaluated[0]).all() and same_bits(padded[1][0][:2], evaluated[1][:2])
    assert all((padded[0][length:, row] == 0).all() for row, length in enumerate(lengths))
    seen = []

    def keep_all(config):
        return lambda sequence: seen.append(sequence.shape)

    net._masks = keep_all
    assert equal(net(x, hx, lengths=lengths), (evaluated[0], evaluated[1:]))
    assert seen == [(sum(lengths), 1, 32)] * (layers - 1)
    net._masks = lambda config: lambda sequence: sequence.fill(0)
    output, (h_n, _) = net(x, hx, lengths=lengths)
    nothing = numlstm.LSTM(32, 16, bidirectional=True, seed=0).eval()
    last = f"_l{layers - 1}"
    own = {n.replace(last, "_l0"): value for n, value in net.state_dict().items() if last in n}
    nothing.load_state_dict(own)
    want = nothing(np.zeros((7, len(lengths), 32), "f4"), (hx[0][-2:], hx[1][-2:]), lengths=lengths)
    assert same_bits(output, want[0]) and same_bits(h_n[-2:], want[1][0])


# ---------------------------------------------------------------- planted faults


def segments_with(monkeypatch, change):
    table = planner._with_uniform_runs

    def planted(slots, sizes):
        slots = table(slots, sizes)
        change(slots[-slots[Header.UNIFORM_RUN_COUNT] * UniformRun.LENGTH :].reshape(-1, UniformRun.LENGTH))
        return slots

    monkeypatch.setattr(planner, "_with_uniform_runs", planted)


def one_row_less(segments):
    segments[1:, UniformRun.ROWS] -= segments[1:, UniformRun.ROWS] > 1


def one_row_before(segments):
    segments[1:, UniformRun.BEFORE] -= 1


def one_step_less(segments):
    segments[-1, UniformRun.STEPS] -= segments[-1, UniformRun.STEPS] > 1


def one_step_before(segments):
    segments[1:, UniformRun.BEGIN] -= 1


BY_LENGTH, MIXED = [9, 9, 6, 6, 6, 2, 2], [6, 9, 2, 6, 9, 2, 6]  # where they are, and packed
PLANTED = [
    *((fault, lengths) for fault in (one_row_less, one_step_less) for lengths in (BY_LENGTH, MIXED)),
    (one_row_before, MIXED),
    (one_step_before, BY_LENGTH),
]


@pytest.mark.parametrize(("fault", "lengths"), PLANTED, ids=lambda case: getattr(case, "__name__", str(case)))
@pytest.mark.parametrize("flags", [{}, {"bidirectional": True}], ids=["one direction", "both"])
def test_a_planted_fault_in_the_table_is_noticed(monkeypatch, fault, lengths, flags):
    net = make(proj_size=5, num_layers=1, **flags)
    x, hx = ragged(net, lengths, steps=9)
    want = by_rows(net, x, hx, lengths)
    assert equal(net(x, hx, lengths=lengths), want)
    segments_with(monkeypatch, fault)
    assert not equal(net(x, hx, lengths=lengths), want)


def test_states_that_are_not_handed_on_are_noticed(monkeypatch):
    """Segments that all begin from h_0 and c_0, as sequences of their own."""
    net, lengths = make(proj_size=5), [3, 5]
    x, hx = ragged(net, lengths, steps=5)
    want = by_rows(net, x, hx, lengths)

    def forgetful(executor, call):
        run(executor, call._replace(x=call.x[:6], sizes=call.sizes[:3], output=call.output[:6]))
        h, c = call.h_0[:, :1].copy(), call.c_0[:, :1].copy()
        rest = {"x": call.x[6:], "sizes": call.sizes[3:], "output": call.output[6:]}
        run(executor, call._replace(h_0=h, c_0=c, h_n=h, c_n=c, **rest))
        call.h_n[:, :1], call.c_n[:, :1] = h, c

    run = Executor.run
    assert equal(net(x, hx, lengths=lengths), want)
    monkeypatch.setattr(Executor, "run", forgetful)
    assert not equal(net(x, hx, lengths=lengths), want)


def test_the_comparison_sees_one_bit():
    net, lengths = make(proj_size=5), [3, 2]
    x, hx = ragged(net, lengths)
    got, want = net(x, hx, lengths=lengths), by_rows(net, x, hx, lengths)
    assert equal(got, want)
    bits(got[0])[0, 1, 2] ^= 1
    assert not equal(got, want)


def test_kernels_are_called_with_plans_of_their_own(monkeypatch):
    """The way over the table is the kernel's: a batch is one call of it, however many lengths there are."""
    net, lengths = make(proj_size=5, num_layers=2, bidirectional=True), LENGTHS["all different"]
    x, hx = ragged(net, lengths)
    net(x, hx, lengths=lengths)
    kept, calls = net._model.executor, []
    forward = kept.kernel.forward
    counted = kept.kernel._replace(forward=lambda plan: (calls.append(plan), forward(plan))[1])
    monkeypatch.setattr(kept, "_kernel", counted)
    kept.idle.clear()
    net(x, hx, lengths=lengths)
    assert len(calls) == 1
    words = (ctypes.c_int64 * Header.LENGTH).from_address(calls[0])
    assert words[Header.PACKED] > 0 and words[Header.UNIFORM_RUN_COUNT] == len(set(lengths))


@pytest.mark.parametrize("rows", [4, 0])
def test_batch_sizes_whose_sum_wraps_around_are_told_as_they_are(rows):
    """2**62 four times over is 2**64, which is 0 in 64 bits."""
    sizes = [1 << 62] * 4 + [1] * rows
    data = np.zeros((rows, 3), np.float32)
    with pytest.raises(RuntimeError, match=f"batch_sizes must sum to the number of rows in data, not to {sum(sizes)}"):
        numlstm.LSTM(3, 2)(numlstm.PackedSequence(data, sizes))
