"""Random operations on streams: each row has the bits of an LSTM that runs that row alone.

A random course of steps, chunks, resets, snapshots, forks, new weights and mistakes, beside a reference that keeps for
every stream the states of each row by itself and the parameters that the stream is to have, and calls `lstm(x, state)`.
"""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from judge import DTYPES, same_bits
from random_cases import must_fail, run

import numlstm
from numlstm.kernels.plan_layout import StreamSlots
from numlstm.sequences.stream import Stream

pytestmark = pytest.mark.cpu_level

STEPS = 25
MOST_STREAMS = 5


class Solo:
    """What a stream is to be: an LSTM that nobody changes, and the state of every row by itself."""

    def __init__(self, lstm, rows, states=None):
        self.lstm = copy.deepcopy(lstm)
        self.lstm.batch_first = False
        self.rows = [None] * rows if states is None else [states_of(states, row) for row in range(rows)]

    def run(self, x):
        """(steps, rows, features) in and out, row by row and step by step."""
        output = []
        for row in range(len(self.rows)):
            steps = []
            for t in range(len(x)):
                y, self.rows[row] = self.lstm(x[t : t + 1, row : row + 1], self.rows[row])
                steps.append(y)
            output.append(np.concatenate(steps))
        return np.concatenate(output, axis=1)

    def states(self):
        config, rows = self.lstm, [self.zeros() if state is None else state for state in self.rows]
        assert config.num_layers == rows[0][0].shape[0]
        return tuple(np.concatenate([state[n] for state in rows], axis=1) for n in range(2))

    def zeros(self):
        lstm = self.lstm
        sizes = (lstm.proj_size or lstm.hidden_size, lstm.hidden_size)
        return tuple(np.zeros((lstm.num_layers, 1, size), lstm.dtype) for size in sizes)


def states_of(states, row):
    """Copies of one row's h and c."""
    return tuple(np.array(state[:, row : row + 1]) for state in states)


class Streams(RuleBasedStateMachine):
    """Streams of one LSTM, and of its copies."""

    @initialize(
        sizes=st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 8, 17, 40]), st.integers(1, 3)),
        projected=st.booleans(),
        batch_first=st.booleans(),
        dtype=st.sampled_from(DTYPES),
        rows=st.integers(1, 7),
        seed=st.integers(0, 2**16),
    )
    def begin(self, sizes, projected, batch_first, dtype, rows, seed):
        features, units, layers = sizes
        proj_size = units // 3 if projected else 0
        self.lstm = numlstm.LSTM(
            features, units, layers, proj_size=proj_size, batch_first=batch_first, dtype=dtype, seed=seed
        ).eval()
        self.rng, self.count = np.random.default_rng(seed), rows
        self.streams = [(self.lstm.stream(rows), Solo(self.lstm, rows))]
        self.snapshots = []

    def pick(self, n):
        return self.streams[n % len(self.streams)]

    def drawn(self, steps):
        """Some steps, now and then with a number that poisons its row."""
        x = self.rng.standard_normal((steps, self.count, self.lstm.input_size)) * 10.0 ** self.rng.integers(-3, 3)
        if self.rng.random() < 0.05:
            x[self.rng.integers(steps), self.rng.integers(self.count), 0] = np.nan
        return x.astype(self.lstm.dtype)

    def compare(self, got, want):
        # the payload of a NaN is the CPU's own
        assert got.shape == want.shape and got.dtype == want.dtype
        assert same_bits(np.where(np.isnan(got), 0, got), np.where(np.isnan(want), 0, want))
        assert np.array_equal(np.isnan(got), np.isnan(want))

    @rule(n=st.integers(0), how=st.sampled_from(["live", "call", "unbatched", "chunk of one", "float64", "list"]))
    def step(self, n, how):
        stream, solo = self.pick(n)
        x = self.drawn(1)
        want = solo.run(x)
        if how == "live":
            stream.input[...] = x[0]
            assert stream.step() is None
            got = stream.output.copy()[None]
        elif how == "unbatched" and self.count == 1:
            got = stream(x[0, 0])[None, None]
        elif how == "chunk of one":
            swapped = x.swapaxes(0, 1) if self.lstm.batch_first else x
            got = stream(swapped)
            got = got.swapaxes(0, 1) if self.lstm.batch_first else got
        elif how in ("float64", "list"):
            got = stream(x[0].astype(np.float64) if how == "float64" else x[0].tolist())[None]
        else:
            got = stream(x[0])[None]
        self.compare(got, want)

    @rule(n=st.integers(0), steps=st.integers(1, 12), unbatched=st.booleans(), other=st.booleans())
    def chunk(self, n, steps, unbatched, other):
        stream, solo = self.pick(n)
        x = self.drawn(steps)
        want = solo.run(x)
        given = x.astype(np.longdouble) if other else x
        if unbatched and self.count == 1:
            got = stream(given[:, 0])[:, None]
        elif self.lstm.batch_first:
            got = stream(given.swapaxes(0, 1)).swapaxes(0, 1)
        else:
            got = stream(given)
        self.compare(got, want)

    @rule(n=st.integers(0), rows=st.none() | st.lists(st.integers(0, 6), max_size=3))
    def reset(self, n, rows):
        stream, solo = self.pick(n)
        if rows is not None:
            rows = [row % self.count for row in rows]
        stream.reset(rows)
        for row in range(self.count) if rows is None else rows:
            solo.rows[row] = None

    @rule(n=st.integers(0))
    def snapshot(self, n):
        stream, solo = self.pick(n)
        self.snapshots.append((pickle.dumps(stream.snapshot()), copy.deepcopy(solo.rows)))

    @precondition(lambda self: self.snapshots)
    @rule(n=st.integers(0), k=st.integers(0))
    def restore(self, n, k):
        stream, solo = self.pick(n)
        snapshot, rows = self.snapshots[k % len(self.snapshots)]
        stream.restore(pickle.loads(snapshot))
        solo.rows = copy.deepcopy(rows)

    @rule(n=st.integers(0))
    def fork(self, n):
        stream, solo = self.pick(n)
        twin = Solo(solo.lstm, self.count)
        twin.rows = copy.deepcopy(solo.rows)
        if len(self.streams) == MOST_STREAMS:
            self.streams.pop(0)
        self.streams.append((stream.fork(), twin))

    @rule()
    def another(self):
        if len(self.streams) < MOST_STREAMS:
            self.streams.append((self.lstm.stream(self.count), Solo(self.lstm, self.count)))

    @rule(seed=st.integers(0, 99))
    def new_weights(self, seed):
        other = np.random.default_rng(seed)
        self.lstm.weight_hh_l0 = other.standard_normal(self.lstm.weight_hh_l0.shape)

    @rule(n=st.integers(0))
    def refresh(self, n):
        stream, solo = self.pick(n)
        stream.refresh()
        solo.lstm.load_state_dict(self.lstm.state_dict())

    @rule(n=st.integers(0))
    def set_state(self, n):
        stream, solo = self.pick(n)
        states = tuple(self.rng.standard_normal(state.shape).astype(state.dtype) for state in solo.states())
        stream.state = states
        solo.rows = [states_of(states, row) for row in range(self.count)]

    @rule(n=st.integers(0), what=st.integers(0, 5))
    def mistake(self, n, what):
        stream, _ = self.pick(n)
        x = self.drawn(2)
        wrong = [
            lambda: stream(x[..., :-1]),
            lambda: stream(x[None]),
            lambda: stream(x > 0),
            lambda: stream(np.concatenate([x, x], axis=0 if self.lstm.batch_first else 1)),
            lambda: stream.reset([0, self.count]),
            lambda: stream.restore(stream.snapshot() | {"batch_size": self.count + 1}),
        ][what]
        if what == 3 and self.lstm.batch_first and x.shape[0] * 2 == self.count:
            return  # right by accident
        with pytest.raises((TypeError, ValueError, RuntimeError, IndexError)):
            wrong()

    @invariant()
    def states_agree(self):
        for stream, solo in getattr(self, "streams", ()):
            assert stream._record[StreamSlots.BUSY] == 0
            for got, want in zip(stream.state, solo.states(), strict=True):
                self.compare(got, want)


@pytest.mark.parametrize("courses", [10, pytest.param(150, marks=pytest.mark.slow)])
def test_any_course_of_events(courses):
    run(Streams, courses, STEPS)


def reset_everything(self, rows=None):
    self._states[:] = 0


def restore_h_alone(self, snapshot):
    self._h[...] = snapshot["h"]


def fork_that_shares(self):
    return self


def refresh_nothing(self):
    pass


def chunk_from_zeros(self, input):
    """A chunk forgets where the stream was."""
    if np.ndim(input) == 3 and max(np.shape(input)[:2]) > self.batch_size:
        self._states[:] = 0
    output = self._call(input)
    return self._general_call(input) if output is None else output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attribute", "fault"),
    [
        ("reset", reset_everything),
        ("restore", restore_h_alone),
        ("fork", fork_that_shares),
        ("refresh", refresh_nothing),
        ("__call__", chunk_from_zeros),
    ],
)
def test_a_planted_fault_is_noticed(monkeypatch, attribute, fault):
    monkeypatch.setattr(Stream, attribute, fault)
    must_fail(Streams, 300, STEPS)
