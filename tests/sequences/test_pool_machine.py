"""Random operations on a pool of sessions, compared bit by bit with an LSTM for each session.

Each fault that is planted in the pool makes the same machine fail, and what it did is counted.
"""

import copy
from collections import Counter

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from judge import DTYPES, same_bits
from random_cases import must_fail, run

import numlstm
from numlstm.runtime.executor import Executor
from numlstm.sequences.pool import Pool

pytestmark = pytest.mark.cpu_level

STEPS = 40
done = Counter()


class Solo:
    """A session, and the state that it must have."""

    def __init__(self, session, state):
        self.session, self.state = session, state

    def step(self, lstm, x):
        """A step or a chunk by a call of its own."""
        output, self.state = lstm(np.atleast_2d(x)[:, None], self.state)
        return output[0, 0] if x.ndim == 1 else output[:, 0]


PRESENT = st.tuples(st.integers(1, 40), st.integers(0, 2**32 - 1))  # how many at most, and which


class Sessions(RuleBasedStateMachine):
    """``lstm`` has the newest weights, ``adopted`` those that the pool is to compute with."""

    @initialize(
        sizes=st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 16, 17, 37])),
        layers=st.integers(1, 3),
        proj=st.booleans(),
        dtype=st.sampled_from(DTYPES),
        capacity=st.sampled_from([None, None, 1, 5, 20]),
        seed=st.integers(0, 2**32 - 1),
    )
    def start(self, sizes, layers, proj, dtype, capacity, seed):
        inputs, hidden = sizes
        self.rng = np.random.default_rng(seed)
        flags = {"num_layers": layers, "proj_size": hidden // 2 if proj else 0, "dtype": dtype}
        self.lstm = numlstm.LSTM(inputs, hidden, seed=seed, **flags).eval()
        self.adopted = copy.deepcopy(self.lstm)
        self.pool = self.make_pool(capacity)
        self.bound = capacity or 40
        self.solos, self.closed, self.snapshots = [], [], []
        self.open(5)

    def make_pool(self, capacity):
        return self.lstm.pool(capacity)

    def zeros(self):
        layers, size = self.lstm.num_layers, self.lstm.proj_size or self.lstm.hidden_size
        return tuple(np.zeros((layers, 1, n), self.lstm.dtype) for n in (size, self.lstm.hidden_size))

    def draw(self, *shape):
        return (self.rng.standard_normal(shape) * 2).astype(self.lstm.dtype)

    def some(self, present):
        """Some of the open sessions: in any order, or those of slots without a gap between them."""
        count, seed = present
        rng = np.random.default_rng(seed)
        count = min(count, len(self.solos))
        if seed % 2:
            return [self.solos[k] for k in rng.permutation(len(self.solos))[:count]]
        by_slot = sorted(self.solos, key=lambda solo: solo.session.slot)
        first = int(rng.integers(len(by_slot) - count + 1))
        order = rng.permutation(count) if seed % 4 else range(count)
        return [by_slot[first + k] for k in order]

    # -------------------------------------------------------- rules

    @rule(count=st.integers(1, 12))
    def open(self, count):
        for _ in range(count):
            if len(self.solos) == self.bound:
                return
            before = self.pool.capacity
            session = self.pool.open()
            done["grown"] += self.pool.capacity > before
            done["slot used again"] += any(session.slot == other._slot for other in self.closed)
            self.solos.append(Solo(session, self.zeros()))

    @precondition(lambda self: self.pool._bound is not None and len(self.solos) == self.bound)
    @rule()
    def open_too_many(self):
        done["full"] += 1
        with pytest.raises(RuntimeError, match=f"its capacity is {self.bound}"):
            self.pool.open()

    @precondition(lambda self: self.solos)
    @rule(present=PRESENT, steps=st.sampled_from([0, 0, 0, 1, 3]))
    def step_dict(self, present, steps):
        present = self.some(present)
        inputs = {solo.session: self.draw(*[steps] * (steps > 0), self.lstm.input_size) for solo in present}
        outputs = self.pool.step(inputs)
        done["dict"] += 1
        assert outputs.keys() == inputs.keys()
        for solo in present:
            assert same_bits(outputs[solo.session], solo.step(self.adopted, inputs[solo.session]))

    @precondition(lambda self: self.solos)
    @rule(present=PRESENT, steps=st.sampled_from([0, 0, 0, 1, 3]))
    def step_slots(self, present, steps):
        present = self.some(present)
        slots = np.array([solo.session.slot for solo in present])
        x = self.draw(*[steps] * (steps > 0), len(present), self.lstm.input_size)
        outputs = self.pool.step(slots, x)
        gap, rising = np.ptp(slots) >= slots.size, bool((np.diff(slots) > 0).all())
        done["slots, " + ("with gaps" if gap else "in order" if rising else "in another order")] += 1
        for n, solo in enumerate(present):
            assert same_bits(outputs[..., n, :], solo.step(self.adopted, x[..., n, :]))

    @precondition(lambda self: self.solos)
    @rule(data=st.data())
    def close(self, data):
        solo = self.solos.pop(data.draw(st.integers(0, len(self.solos) - 1)))
        solo.session.close()
        done["closed"] += 1
        self.closed.append(solo.session)

    @precondition(lambda self: self.closed)
    @rule(data=st.data())
    def use_a_closed_one(self, data):
        session = data.draw(st.sampled_from(self.closed))
        for use in (
            lambda: session.state,
            session.reset,
            session.snapshot,
            lambda: self.pool.step({session: self.draw(self.lstm.input_size)}),
        ):
            with pytest.raises(ValueError, match="the session is closed"):
                use()
        session.close()

    @precondition(lambda self: self.solos)
    @rule(data=st.data())
    def snapshot(self, data):
        solo = data.draw(st.sampled_from(self.solos))
        self.snapshots.append((solo.session.snapshot(), solo.state))

    @precondition(lambda self: self.solos and self.snapshots)
    @rule(data=st.data())
    def restore(self, data):
        solo, (snapshot, state) = data.draw(st.sampled_from(self.solos)), data.draw(st.sampled_from(self.snapshots))
        solo.session.restore(snapshot)
        done["restored"] += 1
        solo.state = state

    @precondition(lambda self: self.solos)
    @rule(data=st.data())
    def reset(self, data):
        solo = data.draw(st.sampled_from(self.solos))
        solo.session.reset()
        solo.state = self.zeros()

    @precondition(lambda self: self.solos)
    @rule(refresh=st.booleans())
    def new_weights(self, refresh):
        self.lstm.weight_hh_l0 = self.draw(*self.lstm.weight_hh_l0.shape)
        if refresh:
            self.pool.refresh()
            self.adopted = copy.deepcopy(self.lstm)
        done["refreshed" if refresh else "assigned"] += 1

    @precondition(lambda self: self.solos)
    @rule(present=PRESENT, way=st.integers(0, 2))
    def a_step_that_is_refused(self, present, way):
        slots = [solo.session.slot for solo in self.some(present)]
        x = self.draw(len(slots), self.lstm.input_size)
        wrong = (slots[-1], -1, self.pool.capacity)[way]
        with pytest.raises((ValueError, IndexError), match=r"comes 2 times|no slot"):
            self.pool.step([*slots, wrong], np.concatenate([x, x[:1]]))

    # -------------------------------------------------------- what always holds

    @invariant()
    def every_state_is_that_of_the_solo(self):
        if not hasattr(self, "pool"):
            return
        assert len(self.pool) == len(self.solos)
        assert sorted(solo.session.slot for solo in self.solos) == self.pool.slots.tolist()
        for solo in self.solos:
            h, c = solo.session.state
            assert same_bits(h, solo.state[0]) and same_bits(c, solo.state[1])


def test_a_pool_is_many_solos():
    run(Sessions, 10, STEPS)


@pytest.mark.slow
def test_a_pool_is_many_solos_in_every_way():
    done.clear()
    run(Sessions, 250, STEPS)
    ways = {"slots, with gaps", "slots, in order", "slots, in another order", "dict"}
    others = {"grown", "full", "closed", "slot used again", "restored", "assigned", "refreshed"}
    assert {name for name, count in done.items() if count > 0} >= ways | others, done


class Ahead(Pool):
    """Planted: states are scattered to the slots that stand one further, around the end."""

    def _scatter(self, slots, h, c):
        super()._scatter((slots + 1) % self.capacity if isinstance(slots, np.ndarray) else slots, h, c)


class NotZeroed(Pool):
    """Planted: a slot that is used again has the state of the last one."""

    def _open(self):
        kept = self._h.copy(), self._c.copy()
        session = super()._open()
        used = self.__dict__.setdefault("used", set())  # a new slot's memory is arbitrary
        if session.slot in used:
            self._h[:, session.slot], self._c[:, session.slot] = (states[:, session.slot] for states in kept)
        used.add(session.slot)
        return session


class GrownEmpty(Pool):
    """Planted: growing loses c."""

    def _grow(self, capacity):
        super()._grow(capacity)
        self._c[:] = 0


class TwiceAllowed(Pool):
    """Planted: a slot may come twice."""

    def _check_slots(self, slots):
        if slots.min() < 0 or slots.max() >= self.capacity:
            raise IndexError("there is no slot")


class NotInOrder(Pool):
    """Planted: outputs are left in the order of slots."""

    def _step_slots(self, slots, x):
        return super()._step_slots(np.sort(slots), x)


class AdoptsAtOnce(Pool):
    """Planted: new weights are used without refresh."""

    def _advance(self, slots, x):
        self._panels = self._current_panels()
        return super()._advance(slots, x)


class KeptStale(Pool):
    """Planted: refresh does nothing."""

    def refresh(self):
        pass


class CellsInOne(Pool):
    """Planted: a layer's states are looked for where they were before the pool grew."""

    def _advance(self, slots, x):
        capacity, run = self.capacity, Executor.run
        try:
            Executor.run = lambda executor, call: run(executor, call._replace(state_rows=max(1, capacity // 2)))
            return super()._advance(slots, x)
        finally:
            Executor.run = run


FAULTS = [Ahead, NotZeroed, GrownEmpty, TwiceAllowed, NotInOrder, AdoptsAtOnce, KeptStale, CellsInOne]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(fault):
    class Planted(Sessions):
        def make_pool(self, capacity):
            lstm = self.lstm
            return fault(lstm._config, lstm._panels, capacity, lambda: lstm._panels)

    must_fail(Planted, 250, STEPS)
