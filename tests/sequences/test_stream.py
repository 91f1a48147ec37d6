"""Streams: the bits of one forward call for any division into steps, and no change by an error."""

import copy
import ctypes
import gc
import pickle
import sys
import types
import weakref
from contextlib import suppress

import numpy as np
import pytest
from judge import DTYPES, counted, equal, exact, flip_one_bit, same_bits

import numlstm
from numlstm.bench.costs import memory
from numlstm.kernels.plan_layout import KEPT, Header, StreamSlots
from numlstm.runtime import object_layout
from numlstm.sequences import stream as streams

pytestmark = pytest.mark.cpu_level

SIZES = {
    "small": {"input_size": 3, "hidden_size": 5},
    "layers": {"input_size": 4, "hidden_size": 9, "num_layers": 3},
    "projected": {"input_size": 6, "hidden_size": 20, "num_layers": 2, "proj_size": 7},
    "no bias": {"input_size": 2, "hidden_size": 8, "bias": False},
    "batch first": {"input_size": 3, "hidden_size": 5, "num_layers": 2, "batch_first": True},
    "batch first of one layer": {"input_size": 2, "hidden_size": 16, "batch_first": True},
    "one feature": {"input_size": 1, "hidden_size": 40},
    "long": {"input_size": 70, "hidden_size": 130},
}
every_size = pytest.mark.parametrize("name", SIZES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def model(name="layers", dtype=np.float32, **flags):
    return numlstm.LSTM(**SIZES[name], dtype=dtype, seed=1, **flags).eval()


def steps(lstm, count, rows, seed=0):
    """(steps, rows, features), whatever the LSTM's layout."""
    return np.random.default_rng(seed).standard_normal((count, rows, lstm.input_size)).astype(lstm.dtype)


def whole(lstm, x, hx=None):
    """One forward call over (steps, rows, features)."""
    if not lstm.batch_first:
        return lstm(x, hx)
    output, states = lstm(np.ascontiguousarray(x.swapaxes(0, 1)), hx)
    return output.swapaxes(0, 1), states


# ------------------------------------------------------------ results


@every_size
@every_dtype
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_steps_and_chunks_have_the_bits_of_one_call(way, name, dtype, rows):
    lstm = model(name, dtype)
    x = steps(lstm, 12, rows)
    want, states = whole(lstm, x)
    swap = (lambda a: a.swapaxes(0, 1)) if lstm.batch_first else (lambda a: a)
    stream = lstm.stream(rows)
    assert type(stream.step) is (types.FunctionType if way == "ctypes" else types.BuiltinFunctionType)
    if name != "long":
        assert (stream._record[StreamSlots.HELD_STEPS] > 0) == (way == "built-in")
    got = [stream(x[0])[None]]
    stream.input[...] = x[1]
    assert stream.step() is None
    got.append(stream.output[None].copy())
    got.append(swap(stream(swap(x[2:3]))))  # a chunk of one step
    got.append(swap(stream(swap(x[3:9]))))
    for k in range(9, 12):
        stream.input[...] = x[k]
        stream.step()
        got.append(stream.output[None].copy())
    assert same_bits(np.concatenate(got), want)
    assert equal(stream.state, states)
    assert not same_bits(flip_one_bit(np.concatenate(got)), want)


@every_dtype
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("batch_first", [False, True])
def test_which_inputs_machine_code_takes(dtype, rows, batch_first):
    """Steps that follow each other in memory, and not too many: the rest goes to the engine, with the same bits."""
    lstm = numlstm.LSTM(3, 5, 2, batch_first=batch_first, dtype=dtype, seed=0).eval()
    most = int(lstm.stream(rows)._record[StreamSlots.MOST_STEPS])
    assert most > 16 * lstm.stream(rows)._record[StreamSlots.HELD_STEPS] - 16 > 0
    x = steps(lstm, most + 1, rows)
    want, _ = whole(lstm, x)
    swap = (lambda a: a.swapaxes(0, 1)) if batch_first else (lambda a: a)
    laid = np.ascontiguousarray(swap(x))
    part = np.ascontiguousarray(swap(x[:most]))
    some = np.ascontiguousarray(swap(x[:7]))
    chunks = not batch_first or rows == 1
    cases = {
        "most": (part, chunks),
        "too many": (laid, False),
        "one": (np.ascontiguousarray(swap(x[:1])), True),
        "some": (some, chunks),
        "some in Fortran's order": (np.asfortranarray(some), False),
        "every second": (np.repeat(some, 2, axis=1 if rows == 1 and batch_first else 0), None),
        "of another dtype": (some.astype(np.longdouble), False),
        "of another byte order": (some.astype(some.dtype.newbyteorder()), False),
        "a subclass": (some.view(np.recarray), False),
    }
    if rows == 1:
        cases["without the batch"] = (x[:7, 0].copy(), True)
        cases["a step alone"] = (x[0, 0].copy(), True)
    every = cases.pop("every second")[0]
    cases["every second"] = (every[:, ::2] if rows == 1 and batch_first else every[::2], False)
    for name, (given, taken) in cases.items():
        stream = lstm.stream(rows)
        got = stream._call(given)
        assert (got is not None) == taken, name
        if not taken:
            assert not any(state.any() for state in stream.state), name
            got = stream(given)
        flat = got.reshape(-1, rows, 5) if got.ndim < 3 else swap(got)
        assert same_bits(flat, want[: len(flat)]), name
        assert len(flat) >= 1 and flat.size == given.size // 3 * 5
    refused = [x[:0], x[:, :0], x[..., :2], x[None], 3, None, (x,), "x"]
    for given in refused:
        stream = lstm.stream(rows)
        assert stream._call(given) is None
        assert not any(state.any() for state in stream.state)


@every_dtype
def test_every_reference_that_is_taken_is_given_back(dtype):
    lstm = model("small", dtype)
    for rows, busy in ((1, False), (2, False), (2, True)):
        stream = lstm.stream(rows)
        stream._record[StreamSlots.BUSY] = busy
        x = steps(lstm, 2, rows)
        held = counted(x, stream.step, stream._call, stream._record, None, np.dtype(dtype), np.ndarray, RuntimeError)

        def many(stream=stream, x=x):
            for _ in range(1000):
                with suppress(RuntimeError):
                    stream.step(), stream(x[0]), stream(x), stream._call(3)
                with suppress(RuntimeError):
                    stream._call(x)

        many()
        before, blocks = [sys.getrefcount(one) for one in held], sys.getallocatedblocks()
        many()
        after = [sys.getrefcount(one) for one in held]
        assert all(abs(a - b) < 100 for a, b in zip(after, before, strict=True)), (before, after)
        assert sys.getallocatedblocks() - blocks < 100


@every_dtype
def test_the_values_are_those_of_the_reference(dtype):
    lstm = model("projected", dtype)
    x = steps(lstm, 30, 2)
    stream = lstm.stream(2)
    got = np.stack([stream(step) for step in x])
    want, _ = exact(lstm, x)
    assert np.abs(got - want).max() < 20 * np.finfo(dtype).eps
    assert np.abs(got[1:] - want[:-1]).max() > 1e-3  # a stream that is a step behind would be seen


def test_a_loop_through_the_lstm_itself_has_the_same_bits():
    lstm = model("layers")
    x = steps(lstm, 10, 3)
    stream, states = lstm.stream(3), None
    for k in range(10):
        y, states = lstm(x[k : k + 1], states)
        assert same_bits(stream(x[k]), y[0])
    assert equal(stream.state, states)


def test_what_one_row_may_leave_out():
    """The batch; a 2-D input is steps, and a single one of them a step either way."""
    lstm = model("small")
    x = steps(lstm, 8, 1)
    want, states = lstm(x)
    stream = lstm.stream()
    assert same_bits(stream(x[0, 0]), want[0, 0])
    assert same_bits(stream(x[1:4, 0]), want[1:4, 0])
    assert same_bits(stream(x[4]), want[4])
    assert same_bits(stream(x[5:7]), want[5:7])
    assert same_bits(stream(x[7:8]), want[7:8])
    assert equal(stream.state, states)
    stream.state = states[0][:, 0] * 2, states[1][:, 0]
    assert equal(stream.state, (states[0] * 2, states[1]))


@pytest.mark.parametrize(
    "given", ["f2", "f8", ">f4", "i1", "u8", "list", "longdouble", "fortran", "reversed", "read-only", "unaligned"]
)
@pytest.mark.parametrize("count", [1, 5])
def test_any_real_input_is_taken_and_left_alone(given, count):
    lstm = model("small")
    x = np.random.default_rng(0).integers(-3, 4, (count, 4, 3)).clip(0).astype(np.float32)
    want, _ = lstm(x)
    if given == "list":
        other = x.tolist()
    elif given == "fortran":
        other = np.asfortranarray(x)
    elif given == "reversed":
        other = x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1]
    elif given == "read-only":
        other = x.copy()
        other.flags.writeable = False
    elif given == "unaligned":
        other = np.frombuffer(b"-" + x.tobytes(), np.float32, offset=1).reshape(x.shape)
    else:
        other = x.astype(given)
    before = copy.deepcopy(other)
    stream = lstm.stream(4)
    got = stream(other if count > 1 else other[0])
    assert same_bits(got, want if count > 1 else want[0])
    assert np.array_equal(before, other)


def test_results_are_fresh():
    lstm = model("small")
    stream = lstm.stream(2)
    held = [stream.input, stream.output, *stream.state]
    for x in (stream.input, steps(lstm, 1, 2), steps(lstm, 5, 2), [[1, 2, 3]] * 2):
        y = stream(x)
        assert type(y) is np.ndarray and y.flags.owndata and y.flags.carray and y.dtype is np.dtype(np.float32)
        assert not any(np.shares_memory(y, other) for other in (*held, x))
        held.append(y)
    assert not any(np.shares_memory(state, stream._states) for state in stream.state)


def test_an_output_may_be_the_next_input():
    lstm = numlstm.LSTM(6, 6, 2, seed=0).eval()
    x, states = np.full((1, 1, 6), 0.5, np.float32), None
    ahead, live = lstm.stream(), lstm.stream()
    live.input[:] = 0.5
    ahead(x)
    live.step()
    for _ in range(5):
        x, states = lstm(x, states)
        assert same_bits(live.output, x[0])
        live.input[:] = live.output
        live.step()
        ahead.output[:] = x[0]
        y = ahead(ahead.output)
        assert same_bits(y, live.output)


def test_large_calls_go_to_threads_and_have_the_same_bits():
    """A chunk, and a step, that more than one thread may share: both through the engine."""
    lstm = numlstm.LSTM(256, 512, 2, seed=0).eval()
    x = np.random.default_rng(0).standard_normal((40, 4, 256)).astype(np.float32)
    want, states = lstm(x)
    for threads in (1, 2):
        with numlstm.num_threads(threads):
            stream = lstm.stream(4)
            got = np.concatenate([stream(x[:30]), stream(x[30])[None], stream(x[31:])])
            assert stream._call is streams._declines
            assert same_bits(got, want) and equal(stream.state, states)


@pytest.mark.parametrize("hidden", [3, 16])
def test_tiny_states_that_are_set_are_flushed(hidden):
    """A step takes its own states as they are, but not those that were set: they are read as a call reads them."""
    lstm = numlstm.LSTM(2, hidden, bias=False, seed=0).eval()
    stream = lstm.stream()
    stream.input[:] = 0
    states = tuple(np.full((1, 1, hidden), number, np.float32) for number in (1e-33, 1e-39))
    want, (_, c) = lstm(np.zeros((1, 1, 2), np.float32), states)
    assert not want.any() and not c.any()
    for _ in range(2):
        stream.step()
        stream.state = states
        stream.step()
        assert same_bits(stream.output, want[0]) and not any(state.any() for state in stream.state)
    stream.state = states
    stream._record[StreamSlots.LENGTH + Header.H_0] = KEPT  # as if the step before had left them
    stream.step()
    assert stream.state[1].any()


def test_nothing_is_left_of_a_loud_signal():
    """1e5 steps of zeros after it: the states pass through the smallest numbers, as in the reference, to a rest."""
    lstm = numlstm.LSTM(2, 8, seed=3).eval()
    lstm.load_state_dict({name: array * (0 if "bias" in name else 0.3) for name, array in lstm.state_dict().items()})
    stream = lstm.stream()
    loud = 30 * np.ones((50, 2), np.float32)
    stream(loud)
    zeros = np.zeros((100_000, 2), np.float32)
    x = np.concatenate([loud, zeros])
    stream.input[:] = 0
    seen = []
    for k in range(100_000):
        stream.step()
        if k < 300:
            seen.append(stream.output[0].copy())
    want, (h, c) = exact(lstm, x[: 50 + 300], dtype=np.float64)
    got = np.stack(seen)
    faintest = np.finfo(np.float32).tiny * 2**26
    assert 0 < np.abs(got[np.abs(got) > 0]).min() < 1e4 * faintest  # the smallest numbers were passed
    np.testing.assert_allclose(got, want[50:], rtol=1e-3, atol=2 * faintest)
    assert not np.any((got != 0) & (np.abs(got) < faintest))
    assert not h.any() and not c.any() and not got[-1].any()
    assert not stream.output.any() and not any(state.any() for state in stream.state)
    assert equal(stream.state, lstm(x[:, None])[1])


# ------------------------------------------------------------ the state


def test_the_state_is_copies_and_may_be_set():
    lstm = model("projected")
    x = steps(lstm, 9, 3)
    _, states = lstm(x)
    stream = lstm.stream(3)
    h, c = stream.state
    assert not h.any() and not c.any() and h.shape == (2, 3, 7) and c.shape == (2, 3, 20)
    h[:] = 5
    assert not stream.state[0].any()
    stream.state = states
    assert equal(stream.state, states) and not np.shares_memory(stream.state[0], states[0])
    stream.state = states[0].astype(np.float64), states[1].tolist()
    assert equal(stream.state, states)
    want, _ = lstm(x, states)
    assert same_bits(stream(x), want)


def test_reset_clears_the_rows_that_are_asked_for():
    lstm = model("layers")
    stream = lstm.stream(5)
    for rows in (None, 2, -1, [0, 3], (4,), [], slice(1, 4), np.array([True, False, False, True, False]), np.int64(1)):
        stream(steps(lstm, 3, 5))
        h, c = stream.state
        stream.reset() if rows is None else stream.reset(rows=rows)
        if rows is None:
            h[:], c[:] = 0, 0
        elif rows not in ([],) if isinstance(rows, list) else True:
            h[:, rows], c[:, rows] = 0, 0
        assert equal(stream.state, (h, c)), rows


def test_nan_stays_in_its_row_until_it_is_reset():
    lstm = model("layers")
    x = steps(lstm, 6, 3)
    x[1, 1, 0] = np.nan
    x[2, 2, 1] = np.inf
    stream = lstm.stream(3)
    got = np.stack([stream(step) for step in x])
    want, _ = lstm(x)
    alone = lstm.stream()
    assert np.isnan(got[2:, 1]).any(axis=1).all() and np.isfinite(got[:, 0]).all()
    assert same_bits(got[:, 0], np.stack([alone(step)[0] for step in x[:, :1]]))
    assert same_bits(got[:, 0], want[:, 0])
    stream.reset(rows=[1])
    after = stream(x[3])
    assert np.isfinite(after[1]).all()
    assert same_bits(after[1], lstm.stream()(x[3, 1]))


def test_a_snapshot_goes_on_elsewhere(tmp_path):
    lstm = model("projected", np.float64)
    x = steps(lstm, 9, 2)
    stream = lstm.stream(2)
    stream(x[:4])
    snapshot = stream.snapshot()
    want = stream(x[4:])
    with open(tmp_path / "state.npz", "wb") as file:
        np.savez(file, **snapshot)
    swapped = snapshot | {name: snapshot[name].astype(snapshot[name].dtype.newbyteorder()) for name in "hc"}
    for given in (snapshot, pickle.loads(pickle.dumps(snapshot)), np.load(tmp_path / "state.npz"), swapped):
        other = pickle.loads(pickle.dumps(lstm)).stream(2)
        other.restore(given)
        assert same_bits(other(x[4:]), want)
    assert not any(np.shares_memory(snapshot[name], stream._states) for name in "hc")


WRONG = {
    "no mapping": (lambda s: (s["h"], s["c"]), TypeError, "a snapshot must be a mapping"),
    "a state": (lambda s: s["h"], TypeError, "a snapshot must be a mapping"),
    "no c": (lambda s: {k: v for k, v in s.items() if k != "c"}, ValueError, "lacks c"),
    "no sizes": (lambda s: {k: s[k] for k in "hc"}, ValueError, "lacks input_size, hidden_size"),
    "other hidden_size": (lambda s: s | {"hidden_size": 8}, ValueError, "hidden_size of the snapshot is 8, and that"),
    "other input_size": (lambda s: s | {"input_size": 5}, ValueError, "input_size of the snapshot is 5"),
    "several sizes": (lambda s: s | {"num_layers": [3]}, ValueError, "num_layers of the snapshot"),
    "other batch": (lambda s: s | {"batch_size": 1}, ValueError, "batch_size of the snapshot is 1"),
    "other dtype": (lambda s: s | {"dtype": "float64"}, ValueError, "dtype of the snapshot is 'float64'"),
    "h in float64": (lambda s: s | {"h": s["h"].astype("f8")}, ValueError, "h of the snapshot must be float32"),
    "c of integers": (lambda s: s | {"c": s["c"].astype("i4")}, ValueError, "c of the snapshot must be float32"),
    "c of bools": (lambda s: s | {"c": s["c"] > 0}, TypeError, "c of the snapshot must hold real numbers"),
    "short h": (lambda s: s | {"h": s["h"][:2]}, ValueError, r"h of the snapshot must be float32 of shape \(3, 2, 9\)"),
    "c of text": (lambda s: s | {"c": "none"}, TypeError, "c of the snapshot must hold real numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_snapshot_changes_nothing(case):
    change, error, says = WRONG[case]
    lstm = model("layers")
    stream = lstm.stream(2)
    stream(steps(lstm, 3, 2))
    snapshot = stream.snapshot()
    stream(steps(lstm, 3, 2))
    before = stream.state
    with pytest.raises(error, match=says):
        stream.restore(change(snapshot))
    assert equal(stream.state, before)
    stream.restore(snapshot)
    assert not equal(stream.state, before)


def test_a_fork_is_independent():
    lstm = model("layers")
    x = steps(lstm, 9, 2)
    want, states = lstm(x)
    stream = lstm.stream(2)
    stream(x[:5])
    stream.input[:], stream.output[:] = 3, 4
    for fork in (stream.fork(), copy.copy(stream), copy.deepcopy(stream)):
        assert (fork.input == 3).all() and (fork.output == 4).all() and fork.address != stream.address
        assert same_bits(fork(x[5:]), want[5:])
        fork.reset()
    assert same_bits(stream(x[5:]), want[5:]) and equal(stream.state, states)


def test_weights_are_those_of_the_beginning_until_refresh():
    lstm = model("layers")
    x = steps(lstm, 12, 2)
    old = copy.deepcopy(lstm)
    stream = lstm.stream(2)
    first = stream(x[:4])
    new = {name: array * 0.5 for name, array in lstm.state_dict().items()}
    lstm.load_state_dict(new)
    gc.collect()
    second = stream(x[4:8])
    fork = stream.fork()
    assert same_bits(np.concatenate([first, second]), old(x[:8])[0])
    state = stream.state
    stream.refresh()
    assert same_bits(stream(x[8:]), lstm(x[8:], state)[0])
    assert same_bits(fork(x[8:]), old(x[8:], state)[0])
    fork.refresh()
    fork.state = state
    assert same_bits(fork(x[8:]), lstm(x[8:], state)[0])
    lstm.double()
    state = stream.state
    with pytest.raises(RuntimeError, match="the LSTM has become float64, and the stream is float32"):
        stream.refresh()
    assert equal(stream.state, state) and stream.dtype == np.float32
    lstm.float()
    lstm.reset_parameters()  # panels of other kin
    stream.refresh()
    assert same_bits(stream(x[:2]), lstm(x[:2], state)[0])


def test_what_a_step_touches_lives_as_long_as_the_step_can_be_called():
    lstm = numlstm.LSTM(40, 60, seed=0).eval()
    want, _ = lstm(np.ones((1, 1, 40), np.float32))
    stream = lstm.stream()
    step, call, x, y = stream.step, stream._call, stream.input, stream.output
    panels = stream._panels
    del lstm, stream
    gc.collect()
    assert sys.getrefcount(panels) == 3  # this name, the count's own, and the record's
    del panels
    noise = [np.full(4 * 60 * 100 + n, np.nan, np.float32) for n in range(50)]  # what is freed would be overwritten
    x[:] = 1
    step()
    assert same_bits(y, want[0])
    assert np.isfinite(call(x)).all()
    del noise


def test_a_stream_that_is_let_go_is_gone_at_once(way):
    """Without the collector: it is in no cycle, and four thousand of them leave nothing behind."""
    lstm = numlstm.LSTM(3, 5, seed=0)
    stream = lstm.stream(500)
    seen = weakref.ref(stream), weakref.ref(stream._record)
    gc.disable()
    try:
        del stream
        assert [ref() for ref in seen] == [None, None]
        for _ in range(100):
            lstm.stream(500).fork().step()
        objects, resident = len(gc.get_objects()), memory._status("VmRSS")
        for _ in range(2000):  # of 50 KB each
            lstm.stream(500).fork().step()
        assert len(gc.get_objects()) - objects < 100
        assert memory._status("VmRSS") - resident < 20e6
    finally:
        gc.enable()


def test_dropout_does_not_act():
    lstm = numlstm.LSTM(3, 4, 2, dropout=0.9, seed=0).train()
    x = steps(lstm, 5, 1)
    got = lstm.stream()(x)
    assert same_bits(got, lstm.eval()(x)[0])


# ------------------------------------------------------------ errors


def wrong_inputs(lstm, rows):
    n = lstm.input_size
    every = {
        "0-D": (np.float32(1), ValueError, f"Expected input of a stream to be {'1D, ' if rows == 1 else ''}2D or 3D"),
        "4-D": (np.ones((1, 1, rows, n), "f4"), ValueError, "got 4D instead"),
        "features": (np.ones((rows, n + 1), "f4"), RuntimeError, "input.size.-1. must be equal to input_size"),
        "features of a chunk": (np.ones((4, rows, n - 1), "f4"), RuntimeError, f"Expected {n}, got {n - 1}"),
        "no steps": (np.ones((0, rows, n), "f4"), RuntimeError, "Expected sequence length to be larger than 0"),
        "rows of a chunk": (
            np.ones((4, rows + 2, n), "f4"),
            RuntimeError,
            f"input has {rows + 2} rows, but",
        ),
        "complex": (np.ones((rows, n), complex), TypeError, "must hold real numbers"),
        "bool": (np.ones((rows, n), bool), TypeError, "must hold real numbers"),
        "text": ("abc", TypeError, "must hold real numbers"),
        "None": (None, TypeError, "must hold real numbers"),
        "ragged": ([[1] * n, [1]], ValueError, "could not be read"),
    }
    if rows > 1:
        every["1-D"] = (np.ones(n, "f4"), ValueError, "Expected input of a stream to be 2D or 3D, got 1D instead")
        every["rows"] = (np.ones((rows + 1, n), "f4"), RuntimeError, f"input has {rows + 1} rows, but the stream has")
    return every


@pytest.mark.parametrize("rows", [1, 3])
def test_wrong_input_changes_nothing(way, rows):
    lstm = model("small")
    stream = lstm.stream(rows)
    stream(steps(lstm, 3, rows))
    before = stream.state
    cases = wrong_inputs(lstm, rows)
    assert len(cases) >= 11
    for name, (x, error, says) in cases.items():
        with pytest.raises(error, match=says) as raised:
            stream(x)
        assert equal(stream.state, before), name
        if "received" not in str(raised.value):
            assert error is TypeError or name == "ragged", raised.value
    y = stream(steps(lstm, 1, rows)[0])
    assert same_bits(y, lstm(steps(lstm, 1, rows), before)[0][0])


def test_what_cannot_be_made_says_why():
    with pytest.raises(ValueError, match="bidirectional LSTM cannot run as a stream: its reverse direction begins"):
        numlstm.LSTM(3, 4, bidirectional=True).stream()
    lstm = model("small")
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.0, TypeError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="batch_size must be"):
            lstm.stream(wrong)
    assert lstm.stream(np.int64(2)).input.shape == (2, 3)
    with pytest.raises(TypeError, match=r"cannot be pickled.*\n.*stream.snapshot\(\)"):
        pickle.dumps(lstm.stream())
    with pytest.raises(TypeError, match="takes no arguments"):
        lstm.stream().step(np.ones(3, "f4"))
    assert repr(model("projected").stream(2)) == "Stream(6, 20, proj_size=7, num_layers=2, batch_size=2)"

    class Packed:
        batch_sizes = (1,)

    with pytest.raises(TypeError, match="input of a stream must be an array, not a Packed"):
        lstm.stream()(Packed())


def test_wrong_states_and_rows_change_nothing():
    lstm = model("layers")
    stream = lstm.stream(2)
    stream(steps(lstm, 3, 2))
    h, c = before = stream.state
    for wrong, error, says in (
        ((h,), IndexError, "must be .h_0, c_0."),
        ((h, c, c), RuntimeError, "expects two hidden states"),
        ((h[:, 0], c[:, 0]), RuntimeError, "should also be 3-D"),
        ((h, c[:, :1]), RuntimeError, r"Expected hidden\[1\] size"),
        ((h, None), TypeError, "c_0 must hold real numbers"),
        (h, TypeError, "must be a tuple"),
        ((h * 2, c.astype(complex)), TypeError, "c_0 must hold real numbers"),
    ):
        with pytest.raises(error, match=says):
            stream.state = wrong
        assert equal(stream.state, before)
    for wrong in (2, -3, [0, 2], 1.5, "a", [True], np.ones((2, 2), bool), {}, slice("a", None)):
        with pytest.raises(IndexError, match="rows must pick from the 2 rows of the stream"):
            stream.reset(wrong)
        assert equal(stream.state, before)


@every_dtype
def test_no_memory_for_the_result_is_an_error_and_no_step(monkeypatch, dtype):
    """The function that makes arrays is replaced by one that sets the error and gives nothing."""

    no_memory = ctypes.cast(ctypes.pythonapi.PyErr_NoMemory, ctypes.c_void_p).value
    functions = object_layout.functions._replace(new_array=no_memory)
    lstm = model("small", dtype)
    x = steps(lstm, 1, 2)[0]
    with monkeypatch.context() as patch:
        patch.setattr(object_layout, "functions", functions)
        stream = lstm.stream(2)
    for _ in range(3):
        with pytest.raises(MemoryError):
            stream(x)
    assert not any(state.any() for state in stream.state) and stream._record[StreamSlots.BUSY] == 0
    stream.step()


def test_what_a_stream_has_is_not_replaced():
    """``stream.input = x`` would leave ``step`` with the buffer that it knows."""
    lstm = numlstm.LSTM(3, 4, seed=0).eval()
    stream = lstm.stream()
    x = np.ones((1, 3), np.float32)
    for name, value, says in (
        ("input", x, r"stream\.input\[\.\.\.\] = values"),
        ("output", np.ones((1, 4)), r"stream\.output\[\.\.\.\] = values"),
        ("step", print, "Make a new stream"),
        ("address", 0, "Make a new stream"),
        ("batch_size", 2, "Make a new stream"),
    ):
        before = getattr(stream, name)
        with pytest.raises(AttributeError, match=f"(?s){name} of a stream is not to be replaced.*{says}"):
            setattr(stream, name, value)
        assert getattr(stream, name) is before
    stream.input[:] = x
    stream.step()
    assert same_bits(stream.output, lstm(x)[0])


@pytest.mark.parametrize("rows", [10**12, 2**62])
def test_a_stream_that_no_memory_holds(rows):
    with pytest.raises(MemoryError, match=rf"no memory for a stream of batch_size={rows}.*\nTake fewer rows"):
        numlstm.LSTM(3, 4, seed=0).stream(rows)
