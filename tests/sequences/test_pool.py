"""Pools: what a step computes, refuses and leaves unchanged; threads, interruptions, forks.

Bits are compared with calls of the LSTM on each sequence alone. Limits on time are limits against a hang.
"""

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from callers import at_once
from judge import DTYPES, same_bits
from needs import leave_out
from runtime.test_threads import Gathered, within
from samples import make

import numlstm
from numlstm.kernels.plan_layout import Header, Partition
from numlstm.runtime import planner, workers
from numlstm.runtime.call import batch_size
from numlstm.runtime.executor import Executor
from numlstm.runtime.schedule import Overrides
from numlstm.runtime.workspace import Workspace
from numlstm.sequences.pool import Pool, Session

pytestmark = pytest.mark.cpu_level

FOR_EVER = 60.0  # seconds


@pytest.fixture(autouse=True)
def as_before():
    """The number of threads."""
    before = numlstm.get_num_threads()
    yield
    numlstm.set_num_threads(before)


def draw(lstm, *shape, seed=0):
    return np.random.default_rng(seed).standard_normal((*shape, lstm.input_size)).astype(lstm.dtype)


def opened(lstm, count, capacity=None, steps=1):
    """A pool with so many sessions, and the states that they have after their first steps."""
    pool = lstm.pool(capacity)
    sessions = [pool.open() for _ in range(count)]
    x = draw(lstm, steps, count, seed=99)
    x = x.swapaxes(0, 1) if lstm.batch_first else x
    pool.step(np.arange(count), x)
    return pool, sessions, [solo(lstm, x[k] if lstm.batch_first else x[:, k])[1] for k in range(count)]


def solo(lstm, x, state=None):
    """Output and state of a sequence (steps, input_size) alone; the state as sessions show it."""
    state = None if state is None else tuple(part[:, 0] for part in state)
    output, (h, c) = lstm(x, state)
    return output, (h[:, None], c[:, None])


def states(sessions):
    return [session.state for session in sessions]


def equal_states(got, want):
    return all(same_bits(a, b) for one, other in zip(got, want, strict=True) for a, b in zip(one, other, strict=True))


PRESENT = {
    "all": np.arange(11),
    "one": np.array([4]),
    "without a gap": np.arange(3, 9),
    "all, in another order": np.array([5, 3, 10, 1, 0, 2, 4, 9, 6, 8, 7]),
    "without a gap, in another order": np.array([6, 4, 5, 7]),
    "with gaps": np.array([0, 2, 3, 9]),
    "with gaps, in another order": np.array([9, 0, 3, 2]),
}
COPIES = {  # inputs put in order; states gathered and scattered
    "all": (0, 0),
    "one": (0, 0),
    "without a gap": (0, 0),
    "all, in another order": (1, 0),
    "without a gap, in another order": (1, 0),
    "with gaps": (0, 1),
    "with gaps, in another order": (0, 1),
}


@pytest.fixture
def looked_at(monkeypatch):
    """How often a step put its input in order, and how often it scattered states."""
    count = {"ordered": 0, "scattered": 0, "given": None}
    put, run = Pool._scatter, Executor.run

    def putting(pool, slots, h, c):
        count["scattered"] += isinstance(slots, np.ndarray)
        put(pool, slots, h, c)

    def running(executor, call):
        count["ordered"] += not np.shares_memory(call.x, count["given"])
        run(executor, call)

    monkeypatch.setattr(Pool, "_scatter", putting)
    monkeypatch.setattr(Executor, "run", running)
    return count


class TestBits:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("flags", [{}, {"num_layers": 3}, {"proj_size": 5}, {"num_layers": 2, "proj_size": 20}])
    @pytest.mark.parametrize("way", PRESENT)
    def test_each_way_to_the_states(self, way, flags, dtype, looked_at):
        lstm = make(dtype=dtype, **flags)
        looked_at["given"] = np.empty(0)
        pool, sessions, want = opened(lstm, 11)
        slots = PRESENT[way]
        x = looked_at["given"] = draw(lstm, slots.size)
        looked_at["ordered"] = looked_at["scattered"] = 0
        output = pool.step(slots, x)
        assert (looked_at["ordered"], looked_at["scattered"]) == COPIES[way]
        for row, slot in enumerate(slots):
            one, want[slot] = solo(lstm, x[row : row + 1], want[slot])
            assert same_bits(output[row], one[0])
        assert equal_states(states(sessions), want)
        chunk = draw(lstm, 3, slots.size, seed=1)
        output = pool.step(slots.tolist(), chunk)
        for row, slot in enumerate(slots):
            many, want[slot] = solo(lstm, chunk[:, row], want[slot])
            assert same_bits(output[:, row], many)
        assert equal_states(states(sessions), want)
        by_session = pool.step({sessions[slot]: x[row] for row, slot in enumerate(slots)})
        for row, slot in enumerate(slots):
            one, want[slot] = solo(lstm, x[row : row + 1], want[slot])
            assert same_bits(by_session[sessions[slot]], one[0])
        chunks = pool.step({sessions[slot]: chunk[:, row] for row, slot in enumerate(slots)})
        for row, slot in enumerate(slots):
            many, want[slot] = solo(lstm, chunk[:, row], want[slot])
            assert same_bits(chunks[sessions[slot]], many)
        assert equal_states(states(sessions), want)

    @pytest.mark.parametrize("forced", [{}, {"hoist": True}, {"hoist": False}, {"group": 3}, {"mr": 1}])
    def test_any_number_present(self, forced):
        """Of 70 sessions, each number of them in turn; plans are for some of these numbers only."""
        lstm = make(hidden=16, num_layers=2)
        with planner.override(**forced):
            pool, sessions, want = opened(lstm, 70)
            before = pool._executor.plans.copy()
            for count in range(1, 71):
                x = draw(lstm, count, seed=count)
                slots = np.random.default_rng(count).permutation(70)[:count]
                output = pool.step(slots, x)
                for row, slot in enumerate(slots):
                    one, want[slot] = solo(lstm, x[row : row + 1], want[slot])
                    assert same_bits(output[row], one[0])
            assert equal_states(states(sessions), want)
            assert before.keys() <= pool._executor.plans.keys()
            assert len(pool._executor.plans) == len({batch_size(n) for n in range(1, 71)}) == 21

    def test_batch_first(self):
        lstm = make(batch_first=True, num_layers=2)
        pool, sessions, want = opened(lstm, 4, steps=3)
        for slots in ([0, 1, 2, 3], [2, 0], [1, 0]):
            x = draw(lstm, len(slots), 6)
            output = pool.step(slots, x)
            assert output.shape == (len(slots), 6, 37)
            for row, slot in enumerate(slots):
                many, want[slot] = solo(lstm, x[row], want[slot])
                assert same_bits(output[row], many)
        assert equal_states(states(sessions), want)

    @pytest.mark.parametrize("dtype", ["i1", "i8", ">i2", "f2", "f8", ">f4", "longdouble"])
    def test_any_real_input_is_converted(self, dtype):
        lstm = make()
        x = np.random.default_rng(0).integers(-9, 9, (2, 3, 5)).astype(dtype)
        want = x.astype(np.float32)
        pool, sessions, _ = opened(lstm, 3)
        other, twins, _ = opened(lstm, 3)
        kept = x.copy()
        assert same_bits(pool.step([0, 1, 2], x[0]), other.step([0, 1, 2], want[0]))
        assert same_bits(pool.step([2, 0], x[:, ::2]), other.step([2, 0], want[:, ::2]))
        outputs = pool.step({sessions[0]: x[0, 0], sessions[1]: want[0, 1], sessions[2]: x[0, 2].tolist()})
        wanted = other.step(dict(zip(twins, want[0], strict=True)))
        assert all(same_bits(a, b) for a, b in zip(outputs.values(), wanted.values(), strict=True))
        np.testing.assert_array_equal(x, kept)

    def test_an_integer_beside_floats_is_rounded_once(self):
        """2**53 + 2**29 + 1 is rounded up to float32 from the integer, and down by way of float64."""
        lstm, number = numlstm.LSTM(1, 3, seed=0).eval(), 2**53 + 2**29 + 1
        assert np.float32(np.float64(number)) != np.int64(number).astype(np.float32)
        lstm.weight_ih_l0 = lstm.weight_ih_l0 * 2**-53
        pool = lstm.pool()
        sessions = [pool.open(), pool.open()]
        outputs = pool.step({sessions[0]: np.array([number]), sessions[1]: np.array([0.5])})
        assert same_bits(outputs[sessions[0]], lstm(np.array([[number]]))[0][0])

    def test_nan_stays_with_its_session(self):
        lstm = make()
        pool, sessions, want = opened(lstm, 6)
        x = draw(lstm, 6)
        x[2, 1] = np.nan
        output = pool.step(np.arange(6), x)
        for slot in (0, 1, 3, 4, 5):
            one, want[slot] = solo(lstm, x[slot : slot + 1], want[slot])
            assert same_bits(output[slot], one[0])
        assert np.isnan(output[2]).all()
        sessions[2].reset()
        assert same_bits(pool.step([2], x[:1])[0], lstm(x[:1])[0][0])

    def test_nobody_present(self):
        pool, sessions, want = opened(make(), 3)
        assert pool.step({}) == {}
        assert pool.step([], np.empty((0, 5))).shape == (0, 37)
        assert pool.step([], np.empty((4, 0, 5))).shape == (4, 0, 37)
        assert equal_states(states(sessions), want)

    def test_results_share_memory_with_nothing(self):
        lstm = make()
        pool, sessions, _ = opened(lstm, 4)
        x = draw(lstm, 4)
        for slots in PRESENT["all"][:4], np.array([3, 1, 2, 0]), np.array([0, 3]):
            first = pool.step(slots, x[: slots.size])
            kept = first.copy()
            second = pool.step(slots, x[: slots.size])
            assert same_bits(first, kept) and not same_bits(first, second)
            for other in (x, pool._h, pool._batch_h, second):
                assert not np.shares_memory(first, other)
        h, c = sessions[0].state
        h[:], c[:] = 7, 7
        assert not (sessions[0].state[0] == 7).any()

    def test_dropout_does_not_act(self):
        lstm = numlstm.LSTM(5, 7, num_layers=2, dropout=0.5, seed=0)
        pool = lstm.pool()
        x = draw(lstm, 1)
        assert lstm.training
        assert same_bits(pool.step({pool.open(): x[0]}).popitem()[1], lstm.eval()(x)[0][0])


def gathered_pool(monkeypatch, count, **settings):
    """Threads that are all there before a step begins, and what they do is counted."""
    Gathered(monkeypatch)
    numlstm.set_num_threads(count)
    return planner.override(**settings)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("way", [Partition.ROWS, Partition.BLOCKS])
@pytest.mark.parametrize("flags", [{"num_layers": 2}, {"num_layers": 2, "proj_size": 20}])
def test_threads_share_a_step(monkeypatch, way, count, flags):
    """Each number of sessions, in a pool of more: workers know of no rows beyond those that are present."""
    lstm, taken, company = make(**flags), [], Executor._run_on_team

    def counting(executor, team, team_plan, call):
        taken.append((team_plan.schedule.partition, len(team.workers)))
        company(executor, team, team_plan, call)

    with gathered_pool(monkeypatch, count, schedule=Overrides(way)):
        monkeypatch.setattr(Executor, "_run_on_team", counting)
        pool, sessions, want = opened(lstm, 33)
        for present in (33, 9, 10, 17, 18, 25, 31, 32):
            for slots in (np.arange(present), np.arange(33 - present, 33), np.arange(0, present, 2)):
                x = draw(lstm, slots.size, seed=present)
                output = pool.step(slots, x)
                with numlstm.num_threads(1):
                    for row, slot in enumerate(slots):
                        one, want[slot] = solo(lstm, x[row : row + 1], want[slot])
                        assert same_bits(output[row], one[0])
        assert equal_states(states(sessions), want)
    assert len(taken) > 20 and set(taken) == {(way, count - 1)}


@pytest.mark.parametrize("count", [2, 3])
def test_more_sessions_after_fewer_of_the_same_plan(monkeypatch, count):
    """Tickets are as large as the rows of this step ask for, not those of the one before."""
    lstm = make(num_layers=2)
    with gathered_pool(monkeypatch, count, schedule=Overrides(Partition.ROWS)):
        pool, sessions, want = opened(lstm, 40)
        for present in (33, 40, 37, 39, 36, 40):
            x = draw(lstm, present, seed=present)
            output = pool.step(np.arange(present), x)
            with numlstm.num_threads(1):
                for row in range(present):
                    one, want[row] = solo(lstm, x[row : row + 1], want[row])
                    assert same_bits(output[row], one[0]), (present, row)
            assert equal_states(states(sessions), want)


def test_a_planted_worker_that_does_not_know_how_many_are_present_is_noticed(monkeypatch):
    """It leaves out the last one, whose step nobody else does."""
    lstm, run, left_out = make(), Executor._run_worker, 0

    def ignorant(executor, workspace, held):
        workspace.words[Header.ROWS_TO] -= 1
        run(executor, workspace, held)

    monkeypatch.setattr(Executor, "_run_worker", ignorant)
    with gathered_pool(monkeypatch, 2, schedule=Overrides(Partition.ROWS)):
        for _ in range(50):
            pool, sessions, want = opened(lstm, 12)
            x = draw(lstm, 9)
            pool.step(np.arange(9), x)
            want[8] = solo(lstm, x[8:], want[8])[1]
            left_out += not equal_states([sessions[8].state], [want[8]])
    assert left_out > 0


class TestRefused:
    """Every refusal is of its kind, says what is wrong, and leaves the states as they were."""

    @pytest.fixture
    def there(self):
        lstm = make()
        pool, sessions, want = opened(lstm, 4)
        closed = pool.open()
        closed.close()
        other = lstm.pool().open()
        return pool, sessions, want, closed, other

    @pytest.mark.parametrize(
        "step, kind, says",
        [
            (lambda p, s, c, o: p.step({s[0]: [0] * 5, c: [0] * 5}), ValueError, "the session is closed"),
            (lambda p, s, c, o: p.step({s[0]: [0] * 5, o: [0] * 5}), ValueError, "is of another pool"),
            (lambda p, s, c, o: p.step({0: [0] * 5}), TypeError, "sessions of pool.open.., or for slots.*not for 0"),
            (lambda p, s, c, o: p.step({s[0]: [0] * 4}), RuntimeError, r"Expected 5, got 4\n.*Session\(0\) has shape"),
            (lambda p, s, c, o: p.step({s[0]: [0] * 5, s[1]: 3}), ValueError, "1D or 2D, got 0D"),
            (lambda p, s, c, o: p.step({s[0]: [0] * 5, s[1]: [[0] * 5]}), ValueError, r"\(1, 5\), and that of.*\(5,\)"),
            (lambda p, s, c, o: p.step({s[0]: np.empty((0, 5))}), RuntimeError, "sequence length to be larger than 0"),
            (lambda p, s, c, o: p.step({s[0]: ["a"] * 5}), TypeError, r"input of Session\(0\) must hold real numbers"),
            (lambda p, s, c, o: p.step({s[0]: np.full(5, 1j)}), TypeError, "not complex128"),
            (lambda p, s, c, o: p.step({s[0]: [0] * 5}, [0] * 5), TypeError, "not both"),
            (lambda p, s, c, o: p.step([0, 1]), TypeError, "received a list alone"),
            (lambda p, s, c, o: p.step([0, c._slot], np.zeros((2, 5))), ValueError, "slot 4 is closed"),
            (lambda p, s, c, o: p.step([0, 1, 0], np.zeros((3, 5))), ValueError, "slot 0 comes 2 times"),
            (lambda p, s, c, o: p.step([3, 3], np.zeros((2, 5))), ValueError, "slot 3 comes 2 times"),
            (lambda p, s, c, o: p.step([0, 16], np.zeros((2, 5))), IndexError, "no slot 16: .* from 0 to 15"),
            (lambda p, s, c, o: p.step([0, -1], np.zeros((2, 5))), IndexError, "no slot -1"),
            (lambda p, s, c, o: p.step([0.0, 1.0], np.zeros((2, 5))), TypeError, "slots must be integers, not float64"),
            (lambda p, s, c, o: p.step([True, False], np.zeros((2, 5))), TypeError, "not bool"),
            (lambda p, s, c, o: p.step([s[0], s[1]], np.zeros((2, 5))), TypeError, "be integers, not object"),
            (lambda p, s, c, o: p.step([[0, 1]], np.zeros((2, 5))), ValueError, r"shape \(n,\), not \(1, 2\)"),
            (lambda p, s, c, o: p.step(0, np.zeros((1, 5))), ValueError, r"shape \(n,\), not \(\)"),
            (lambda p, s, c, o: p.step([0, 1], np.zeros((3, 5))), ValueError, r"for 2 slots; received \(3, 5\)"),
            (lambda p, s, c, o: p.step([0, 1], np.zeros((5,))), ValueError, r"for 2 slots; received \(5,\)"),
            (lambda p, s, c, o: p.step([0, 1], np.zeros((2, 4))), RuntimeError, "Expected 5, got 4"),
            (lambda p, s, c, o: p.step([0, 1], np.zeros((0, 2, 5))), RuntimeError, "length to be larger than 0"),
            (lambda p, s, c, o: p.step([0, 1], np.zeros((2, 5), "M8[s]")), TypeError, "input must hold real numbers"),
            (lambda p, s, c, o: s[0].restore(7), TypeError, "a snapshot must be a mapping, not 7"),
            (lambda p, s, c, o: s[0].restore({"h": 0}), ValueError, "lacks input_size"),
            (lambda p, s, c, o: s[0].restore(s[1].snapshot() | {"hidden_size": 3}), ValueError, "hidden_size of the"),
            (lambda p, s, c, o: s[0].restore(s[1].snapshot() | {"dtype": "float64"}), ValueError, "dtype of the"),
            (lambda p, s, c, o: s[0].restore(s[1].snapshot() | {"c": np.zeros(3)}), ValueError, "c of the snapshot"),
            (lambda p, s, c, o: setattr(s[0], "state", (np.zeros((2, 1, 37)),) * 2), RuntimeError, "hidden.0. size"),
            (lambda p, s, c, o: setattr(s[0], "state", (np.zeros((1, 37)), "no")), TypeError, "c_0"),
            (lambda p, s, c, o: c.restore(s[1].snapshot()), ValueError, "the session is closed"),
            (lambda p, s, c, o: setattr(c, "state", s[0].state), ValueError, "the session is closed"),
            (lambda p, s, c, o: c.slot, ValueError, r"closed \(it had slot 4\)"),
            (lambda p, s, c, o: c.__enter__(), ValueError, "the session is closed"),
        ],
    )  # fmt: skip
    def test_it(self, there, step, kind, says):
        pool, sessions, want, closed, other = there
        with pytest.raises(kind, match=says):
            step(pool, sessions, closed, other)
        assert equal_states(states(sessions), want)
        assert equal_states([other.state], [(np.zeros((1, 1, 37), np.float32),) * 2])
        assert len(pool) == 4
        pool.step([0, 1], np.zeros((2, 5)))  # and it goes on

    @pytest.mark.parametrize(
        "capacity, kind, says",
        [
            (0, ValueError, "at least 1"),
            (-3, ValueError, "it is -3"),
            (2.0, TypeError, "must be None or an int, not 2.0, a float"),
            (True, TypeError, "not True"),
            ("many", TypeError, "not 'many'"),
            (1 << 60, MemoryError, "no memory for the states of 1152921504606846976 sessions"),
            (1 << 70, MemoryError, "no memory for the states"),
        ],
    )
    def test_capacity(self, capacity, kind, says):
        with pytest.raises(kind, match=says):
            make().pool(capacity)

    def test_both_directions(self):
        with pytest.raises(ValueError, match="reverse direction begins at the last step"):
            make(bidirectional=True).pool()


class TestSessions:
    def test_a_slot_that_is_used_again_begins_with_zeros_and_its_last_session_stays_closed(self):
        lstm = make()
        pool, sessions, _ = opened(lstm, 5)
        for k in (3, 1):
            sessions[k].close()
        first, second = pool.open(), pool.open()
        assert (first.slot, second.slot) == (1, 3)  # the lowest one first
        assert not first.state[0].any() and not first.state[1].any()
        x = draw(lstm, 1)[0]
        with pytest.raises(ValueError, match="closed"):
            pool.step({sessions[1]: x, first: x})
        sessions[1].close()  # once more: it is not the new one that ends
        assert not first.closed and len(pool) == 5
        assert same_bits(pool.step({first: x})[first], lstm(x[None])[0][0])
        assert repr(sessions[1]) == "Session(1, closed)" and repr(first) == "Session(1)"

    def test_as_a_context(self):
        pool = make().pool()
        with pytest.raises(ZeroDivisionError), pool.open() as session:
            assert len(pool) == 1 and session.pool is pool
            raise ZeroDivisionError
        assert session.closed and len(pool) == 0 and pool

    def test_capacity_is_a_bound(self):
        pool = make().pool(np.int64(3))
        sessions = [pool.open() for _ in range(3)]
        assert pool.capacity == 3 and pool.slots.tolist() == [0, 1, 2]
        with pytest.raises(RuntimeError, match="the pool is full: its capacity is 3 sessions"):
            pool.open()
        sessions[1].close()
        assert pool.slots.tolist() == [0, 2]
        assert pool.open().slot == 1

    def test_growing_keeps_the_states(self):
        lstm = make(num_layers=2)
        pool, sessions, want = opened(lstm, 16)
        assert pool.capacity == 16
        sessions.append(pool.open())
        assert pool.capacity == 32
        assert equal_states(states(sessions[:16]), want)

    def test_no_memory_to_grow(self, monkeypatch):
        lstm = make()
        pool, sessions, want = opened(lstm, 16)
        from numlstm.sequences import pool as module

        def none_left(count, dtype):
            raise MemoryError("planted")

        with monkeypatch.context() as patch:
            patch.setattr(module, "aligned_empty", none_left)
            with pytest.raises(MemoryError, match="no memory for the states of 32 sessions: planted"):
                pool.open()
        assert equal_states(states(sessions), want) and pool.capacity == len(pool) == 16
        pool.step(np.arange(16), draw(lstm, 16))
        assert pool.open().slot == 16

    def test_state_may_be_set(self):
        lstm = make(num_layers=2, proj_size=4)
        _, sessions, want = opened(lstm, 3)
        h, c = sessions[2].state
        assert (h.shape, c.shape) == ((2, 1, 4), (2, 1, 37))
        sessions[0].state = h, c
        sessions[1].state = h[:, 0].astype("f8"), c[:, 0].tolist()
        assert equal_states(states(sessions), [want[2]] * 3)
        sessions[0].state = np.full((2, 1, 4), 1e300), c  # beyond float32: infinite, as everywhere
        assert np.isinf(sessions[0].state[0]).all()

    def test_snapshots_go_anywhere(self, tmp_path):
        lstm = make(num_layers=2, proj_size=4)
        pool, sessions, want = opened(lstm, 3)
        snapshot = sessions[1].snapshot()
        assert {name: value for name, value in snapshot.items() if name not in "hc"} == {
            "input_size": 5, "hidden_size": 37, "num_layers": 2, "proj_size": 4, "batch_size": 1, "dtype": "float32",
        }  # fmt: skip
        pool.step([1], draw(lstm, 1))  # it is a copy
        np.savez(tmp_path / "s.npz", **snapshot)
        other = lstm.pool(1).open()
        with np.load(tmp_path / "s.npz", allow_pickle=False) as stored:
            for form in (snapshot, pickle.loads(pickle.dumps(snapshot)), stored):
                other.reset()
                other.restore(form)
                assert equal_states([other.state], [want[1]])

    def test_a_stream_of_one_row_is_another_home(self):
        """The state goes to and fro, by snapshots and by pairs, with a step in each place."""
        lstm = make(num_layers=2, proj_size=4)
        x = draw(lstm, 6)
        want, _ = lstm(x)
        pool, stream = lstm.pool(), lstm.stream()
        session, outputs = pool.open(), [stream(x[0])]
        session.restore(stream.snapshot())
        outputs.append(pool.step({session: x[1]})[session])
        stream.restore(session.snapshot())
        outputs.append(stream(x[2]))
        session.state = stream.state
        outputs.append(pool.step({session: x[3]})[session])
        stream.state = session.state
        outputs += [stream(x[4]), stream(x[5])]
        assert same_bits(np.stack(outputs), want)
        with pytest.raises(ValueError, match="batch_size of the snapshot is 2"):
            session.restore(lstm.stream(2).snapshot())

    def test_neither_is_copied_or_pickled(self):
        pool = make().pool()
        session = pool.open()
        for thing in (pool, session):
            for way in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="cannot be copied or pickled"):
                    way(thing)

    def test_repr(self):
        pool = numlstm.LSTM(5, 37, num_layers=2, proj_size=4).pool()
        pool.open()
        assert repr(pool) == "Pool(5, 37, proj_size=4, num_layers=2, open=1)"


class TestRefresh:
    def test_new_weights_are_adopted_when_asked_for(self):
        lstm = make()
        pool, sessions, want = opened(lstm, 2)
        old = copy.deepcopy(lstm)
        lstm.weight_hh_l0 = -lstm.weight_hh_l0
        x = draw(lstm, 2)
        output = pool.step([0, 1], x)
        for k in range(2):
            one, want[k] = solo(old, x[k : k + 1], want[k])
            assert same_bits(output[k], one[0])
        pool.refresh()
        assert equal_states(states(sessions), want)
        output = pool.step([0, 1], x)
        for k in range(2):
            assert same_bits(output[k], solo(lstm, x[k : k + 1], want[k])[0][0])
            assert not same_bits(output[k], solo(old, x[k : k + 1], want[k])[0][0])

    def test_another_dtype_is_refused(self):
        lstm = make()
        pool, _, _ = opened(lstm, 2)
        lstm.to("float64")
        with pytest.raises(RuntimeError, match="the LSTM has become float64, and the pool is float32"):
            pool.refresh()
        pool.step([0, 1], np.zeros((2, 5)))


class Paused:
    """Steps that stop inside, until they are let go."""

    def __init__(self, monkeypatch):
        self.inside, self.go_on = threading.Event(), threading.Event()
        forward = Executor.run

        def pausing(*arguments):
            self.inside.set()
            assert self.go_on.wait(FOR_EVER)
            forward(*arguments)

        monkeypatch.setattr(Executor, "run", pausing)

    def during(self, step, work):
        """What `work` gives while another thread is in the step; and then lets it end."""
        thread = threading.Thread(target=step)
        thread.start()
        try:
            assert self.inside.wait(FOR_EVER)
            return work()
        finally:
            self.go_on.set()
            thread.join(FOR_EVER)


class TestThreads:
    def test_two_steps_at_once(self, monkeypatch):
        lstm = make()
        pool, sessions, want = opened(lstm, 2)
        x = draw(lstm, 2)

        def refused():
            with pytest.raises(RuntimeError, match="in use by another thread, and nothing was done"):
                pool.step([0], x[:1])
            with pytest.raises(RuntimeError, match="in use by another thread"):
                pool.step({sessions[1]: x[1]})
            return True

        with monkeypatch.context() as patch:
            assert Paused(patch).during(lambda: pool.step([0, 1], x), refused)
        assert equal_states(states(sessions), [solo(lstm, x[k : k + 1], want[k])[1] for k in range(2)])
        pool.step([0, 1], x)

    def test_others_wait_for_a_step(self, monkeypatch):
        """Who opens makes the pool grow; the step's own arrays are not taken from under it."""
        lstm = make(num_layers=2)
        pool, sessions, want = opened(lstm, 16)
        x, new, after = draw(lstm, 16), [], []

        def come_and_go():
            threads = [
                threading.Thread(target=lambda: new.append(pool.open())),
                threading.Thread(target=sessions[3].close),
                threading.Thread(target=lambda: after.append(sessions[5].state)),
            ]
            for thread in threads:
                thread.start()
            time.sleep(0.05)
            assert all(thread.is_alive() for thread in threads) and not new
            return threads

        with monkeypatch.context() as patch:
            others = Paused(patch).during(lambda: pool.step(np.arange(16), x), come_and_go)
        for thread in others:
            thread.join(FOR_EVER)
        want = [solo(lstm, x[k : k + 1], want[k])[1] for k in range(16)]
        assert sessions[3].closed and new[0].slot in (3, 16)
        left = [k for k in range(16) if k != 3]
        assert equal_states([sessions[k].state for k in left] + after, [want[k] for k in left] + [want[5]])

    def test_steps_of_many_threads_are_one_after_the_other(self):
        """As many as were not refused, in one order: the state is that of so many steps.

        They go on until two have met: where others hold the cores, four threads may well run one after the other.
        """
        lstm = make()
        pool, (session, *_), _ = opened(lstm, 1)
        x, tried, done, refused = draw(lstm, 1), [0] * 4, [0] * 4, [0] * 4
        ready, deadline = threading.Barrier(4), time.monotonic() + FOR_EVER / 2

        def steps(n):
            ready.wait()
            while tried[n] < 300 or (not any(refused) and time.monotonic() < deadline):
                tried[n] += 1
                try:
                    pool.step([0], x)
                    done[n] += 1
                except RuntimeError:
                    refused[n] += 1

        before = session.state
        at_once(steps, 4)
        assert sum(done) + sum(refused) == sum(tried) >= 1200 and sum(done) > 0 and sum(refused) > 0
        for _ in range(sum(done)):
            _, before = solo(lstm, x, before)
        assert equal_states([session.state], [before])

    def test_sessions_come_and_go_while_others_step(self):
        """The pool grows under the steps, and slots are used again; whoever stays is as if alone."""
        lstm = make(num_layers=2)
        pool, staying, want = opened(lstm, 4)
        x, over, failures = draw(lstm, 4), threading.Event(), []

        def come_and_go(seed):
            rng, mine = np.random.default_rng(seed), []
            try:
                while not over.is_set():
                    if len(mine) < 60 and rng.random() < 0.6:
                        mine.append(pool.open())
                        assert not mine[-1].state[0].any()
                    elif mine:
                        mine.pop(int(rng.integers(len(mine)))).close()
            except BaseException as error:
                failures.append(error)

        visitors = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(3)]
        for visitor in visitors:
            visitor.start()
        steps = 0
        deadline = time.monotonic() + FOR_EVER
        while (steps < 200 or pool.capacity < 64) and time.monotonic() < deadline and not failures:
            if steps % 2:
                pool.step({session: x[k] for k, session in enumerate(staying)})
            else:
                pool.step([session.slot for session in staying], x)
            steps += 1
        over.set()
        for visitor in visitors:
            visitor.join(FOR_EVER)
        assert not failures and pool.capacity >= 64
        for k in range(4):
            for _ in range(steps):
                _, want[k] = solo(lstm, x[k : k + 1], want[k])
        assert equal_states(states(staying), want)

    def test_eight_pools_on_one_lstm_while_weights_are_assigned(self):
        lstm = make()
        x, failures = draw(lstm, 40, 3), []
        fixed = copy.deepcopy(lstm)
        pools = [lstm.pool() for _ in range(8)]

        def run(pool):
            try:
                sessions = [pool.open() for _ in range(3)]
                for step in x:
                    pool.step(dict(zip(sessions, step, strict=True)))
                for k, session in enumerate(sessions):
                    assert equal_states([session.state], [solo(fixed, x[:, k])[1]])
            except BaseException as error:
                failures.append(error)

        users = [threading.Thread(target=run, args=(pool,)) for pool in pools]
        for user in users:
            user.start()
        while any(user.is_alive() for user in users):
            lstm.weight_hh_l0 = -lstm.weight_hh_l0
        assert not failures


class TestInterrupted:
    def test_by_what_wants_the_pool_itself(self, monkeypatch):
        """A signal handler, say: it is refused, and waits for nobody."""
        lstm = make()
        pool, sessions, want = opened(lstm, 2)
        forward, refused = Executor.run, []

        def meddled_with(*arguments):
            for use in (pool.open, sessions[0].close, sessions[0].reset, lambda: sessions[0].state, pool.refresh):
                with pytest.raises(RuntimeError, match="in use by this very thread"):
                    use()
                refused.append(use)
            with pytest.raises(RuntimeError, match="in use"):
                pool.step([0], arguments[1].x[0, :1])
            forward(*arguments)

        x = draw(lstm, 2)
        with monkeypatch.context() as patch:
            patch.setattr(Executor, "run", meddled_with)
            assert within(FOR_EVER, lambda: pool.step([0, 1], x))
        assert len(refused) == 5
        assert equal_states(states(sessions), [solo(lstm, x[k : k + 1], want[k])[1] for k in range(2)])

    @pytest.mark.parametrize("after", [0, 1, 2, 3])
    def test_between_the_arrays_of_a_state(self, after):
        """Planted: an exception comes as the n-th array of four is written."""

        class Interrupting(np.ndarray):
            writes = 0

            def __setitem__(self, at, value):
                Interrupting.writes += 1
                if Interrupting.writes == after + 1:
                    raise KeyboardInterrupt
                super().__setitem__(at, value)

        lstm = make(num_layers=2)
        pool, sessions, want = opened(lstm, 4)
        x = draw(lstm, 2)
        pool._h, pool._c = pool._h.view(Interrupting), pool._c.view(Interrupting)
        with pytest.raises(KeyboardInterrupt):
            pool.step([0, 2], x)
        pool._h, pool._c = pool._h.view(np.ndarray), pool._c.view(np.ndarray)
        for row, slot in enumerate((0, 2)):
            _, want[slot] = solo(lstm, x[row : row + 1], want[slot])
        assert equal_states(states(sessions), want)
        pool.step([0, 2], x)

    @pytest.mark.parametrize("way", [Partition.ROWS, Partition.BLOCKS])
    def test_before_workers_have_begun_and_after(self, monkeypatch, way):
        """States that are replaced where they are: what some threads have begun is done by the caller."""
        lstm = make(num_layers=2)
        numlstm.set_num_threads(3)
        start, run = workers.Team.start, Workspace.run
        for when in ("before", "after"):
            pool, sessions, want = opened(lstm, 24)
            x, runs = draw(lstm, 24), []

            def starting(team, tasks, *rest, when=when):
                start(team, tasks, *rest)
                if when == "before":
                    raise KeyboardInterrupt

            def running(workspace, *rest, when=when, runs=runs):
                run(workspace, *rest)
                if workspace.words[Header.THREAD_INDEX] == 0:
                    runs.append(1)
                    if when == "after" and len(runs) == 1:
                        raise KeyboardInterrupt

            with planner.override(schedule=Overrides(way)), monkeypatch.context() as patch:
                patch.setattr(workers.Team, "start", starting)
                patch.setattr(Workspace, "run", running)
                with pytest.raises(KeyboardInterrupt):
                    pool.step(np.arange(24), x)
            assert len(runs) == {"before": 1, "after": 2}[when]
            assert equal_states(states(sessions), [solo(lstm, x[k : k + 1], want[k])[1] for k in range(24)])

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")
    def test_by_signals_at_any_moment(self):
        """Sessions stay in step with each other: each has done as many steps as the next, the pool goes on."""
        lstm = numlstm.LSTM(16, 48, num_layers=2, seed=0).eval()
        numlstm.set_num_threads(2)

        def interrupt(number, frame):
            raise KeyboardInterrupt

        interrupted = 0
        before = signal.signal(signal.SIGALRM, interrupt)
        x = draw(lstm, 1)
        want, state = {}, None
        for k in range(400):
            _, state = solo(lstm, x, state)
            want[state[1].tobytes()] = k
        rows = np.repeat(x, 40, axis=0)
        try:
            with planner.override(schedule=Overrides(Partition.ROWS)):
                for n in range(150):
                    pool = lstm.pool(50)
                    for _ in range(50):
                        pool.open()
                    slots = np.arange(40) if n % 2 else np.arange(0, 50)[np.arange(50) % 5 > 0]
                    try:
                        signal.setitimer(signal.ITIMER_REAL, 1e-4 + 2e-5 * n)
                        for _ in range(400):
                            pool.step(slots, rows)
                    except KeyboardInterrupt:
                        interrupted += 1
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    every = {pool._c[:, slot : slot + 1].tobytes() for slot in slots}
                    assert len(every) == 1
                    done = every.pop()
                    assert done in want or not np.frombuffer(done, np.float32).any()
                    pool.step(slots, rows)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert interrupted > 50
        assert workers._pool.busy == 0


def test_a_forked_child_has_whole_states():
    """Forked while another thread is in a step: the fork waits for its end, and the child's pool is free."""
    if not hasattr(os, "fork"):
        leave_out("this system has no fork")
    code = """
import os, threading, warnings
import numpy as np
import numlstm
warnings.simplefilter("ignore")
lstm = numlstm.LSTM(8, 64, seed=0).eval()
pool = lstm.pool()
sessions = [pool.open() for _ in range(64)]
x = np.ones((64, 8), np.float32)
over = threading.Event()
def steps():
    while not over.is_set():
        pool.step(np.arange(0, 64, 2), x[:32])
thread = threading.Thread(target=steps)
thread.start()
try:
    for _ in range(20):
        child = os.fork()
        if child == 0:
            states = {sessions[slot].state[1].tobytes() for slot in range(0, 64, 2)}
            good = len(states) == 1 and not pool._stepping.locked()
            pool.step(np.arange(64), x)
            pool.open()
            os._exit(0 if good else 7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
finally:
    over.set()
    thread.join()
pool.step(np.arange(64), x)
print("whole")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=FOR_EVER, check=False)
    assert done.stdout == "whole\n", done.stderr


def test_a_pool_that_is_dropped_is_gone():
    from numlstm.sequences import pool as module

    count = len(module._pools)
    pool = make().pool()
    assert len(module._pools) == count + 1
    del pool
    assert len(module._pools) == count


def test_types_are_what_users_import():
    pool = make().pool()
    assert type(pool) is Pool is numlstm.Pool and type(pool.open()) is Session is numlstm.Session


@pytest.mark.parametrize("slot", [1 << 63, (1 << 64) - 1])
def test_a_slot_beyond_what_an_index_may_be_is_told_as_it_is(slot):
    pool = make().pool()
    pool.open()
    for slots in ([slot], np.array([slot], np.uint64)):
        with pytest.raises(IndexError, match=f"there is no slot {slot}"):
            pool.step(slots, np.zeros((1, pool._config.input_size)))
