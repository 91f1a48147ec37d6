"""What holds for every LSTM: it is near the reference, and its bits depend on the row and the sequence alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from judge import DTYPES, UNIT, error, exact, flat, flip_one_bit, need_longdouble, same_bits
from random_cases import cases

import numlstm

pytestmark = pytest.mark.cpu_level

many = cases(80)

BOTH = st.booleans()
SIZES = st.one_of(st.integers(1, 9), st.integers(10, 40), st.sampled_from([63, 64, 65, 72, 129]))

# A layout is a way to hold the same numbers in memory; none may change a bit of the result.
LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "reversed": lambda x: np.flip(np.flip(x).copy()),
    "every second": lambda x: np.repeat(np.repeat(x, 2, axis=-1), 3, axis=0)[::3, ..., ::2],
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "unaligned": lambda x: np.frombuffer(b"-" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "longdouble": lambda x: x.astype(np.longdouble),
}


@dataclass
class Call:
    """An LSTM, and an input (T, B, features) with states for it, all drawn from one seed."""

    net: Any
    x: np.ndarray
    hx: tuple[np.ndarray, np.ndarray] | None

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    def laid_out(self, x):
        """As the LSTM expects it: batch first where that is so."""
        return x.swapaxes(0, 1) if self.net.batch_first and x.ndim == 3 else x

    def run(self, x, hx):
        """Call with (T, B, features) and get (T, B, features) back."""
        output, states = self.net(self.laid_out(x), hx)
        return self.laid_out(output), states

    def states(self, pick):
        return None if self.hx is None else (self.hx[0][pick], self.hx[1][pick])


@st.composite
def calls(draw, *, one_direction=False, least_steps=1, least_batch=1, states=BOTH):
    hidden = draw(SIZES)
    flags = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": not one_direction and draw(st.booleans()),
        "proj_size": draw(st.integers(0, hidden - 1)) if draw(st.integers(0, 3)) == 0 else 0,
        "dtype": draw(st.sampled_from(DTYPES)),
    }
    steps, batch = draw(st.integers(least_steps, 9)), draw(st.integers(least_batch, 8))
    seed = draw(st.integers(0, 2**32 - 1))
    net = numlstm.LSTM(draw(SIZES), hidden, seed=seed, **flags)
    net.eval()
    rng, cells = np.random.default_rng(seed), flags["num_layers"] * (1 + flags["bidirectional"])
    scale = 10.0 ** draw(st.integers(-3, 1))
    x = (rng.standard_normal((steps, batch, net.input_size)) * scale).astype(flags["dtype"])
    out = flags["proj_size"] or hidden
    hx = tuple(rng.standard_normal((cells, batch, n)).astype(flags["dtype"]) for n in (out, hidden))
    return Call(net, x, hx if draw(states) else None)


def bound(call):
    """16 roundings of 1.0, and 8 of the largest sum of sizes that a gate of the lowest layer can see."""
    weights, (h_0, c_0) = call.net.state_dict(), call.hx or (np.zeros((1, 1)), np.zeros((1, 1)))
    sums = [np.abs(weights["weight_ih_l0"]).sum(1).max() * np.abs(call.x).max(initial=0)]
    sums += [np.abs(weights["weight_hh_l0"]).sum(1).max() * np.abs(h_0).max(initial=0), np.abs(c_0).max(initial=0)]
    return float(16 + 8 * sum(sums)) * UNIT[call.dtype]


def all_same(got, want):
    return all(same_bits(a, b) for a, b in zip(flat(got), flat(want), strict=True))


@many
@given(call=calls(least_batch=0), unbatched=st.booleans(), layout=st.sampled_from(sorted(LAYOUTS)))
def test_near_the_reference_whatever_the_layout(call, unbatched, layout):
    if call.dtype == np.float64:
        need_longdouble()
    x, hx = call.laid_out(call.x), call.hx
    if unbatched and call.x.shape[1]:
        x, hx = call.x[:, 0], call.states((slice(None), 0))
    held = LAYOUTS[layout](x)
    held_hx = None if hx is None else tuple(LAYOUTS[layout](state) for state in hx)
    before = held.tobytes(), [state.tobytes() for state in held_hx or ()]
    got, want = call.net(held, held_hx), exact(call.net, x, hx)
    assert (held.tobytes(), [state.tobytes() for state in held_hx or ()]) == before
    for a, b in zip(flat(got), flat(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, call.dtype)
        assert not any(np.shares_memory(a, given) for given in (held, *(held_hx or ())))
    assert error(got, want) <= bound(call)
    assert all_same(got, call.net(x, hx))


@many
@given(call=calls(one_direction=True, least_steps=2), data=st.data())
def test_a_sequence_cut_anywhere_and_continued_is_one_call(call, data):
    steps = len(call.x)
    cuts = data.draw(st.lists(st.integers(1, steps - 1), min_size=1, max_size=4, unique=True).map(sorted), label="cuts")
    whole = call.run(call.x, call.hx)
    outputs, state = [], call.hx
    for start, end in zip([0, *cuts], [*cuts, steps], strict=True):
        output, state = call.run(call.x[start:end], state)
        outputs.append(output)
    pieces = np.concatenate(outputs), state
    assert all_same(pieces, whole)
    # planted: one bit of any result; no state handed on
    for at in range(3):
        arrays = list(flat(pieces))
        arrays[at] = flip_one_bit(arrays[at])
        assert not all_same((arrays[0], (arrays[1], arrays[2])), whole)
    lost = call.run(call.x[cuts[0] :], None)
    assert not same_bits(lost[1][1], whole[1][1])


@many
@given(call=calls(), data=st.data())
def test_a_row_is_the_same_alone_and_in_any_batch(call, data):
    batch = call.x.shape[1]
    whole = call.run(call.x, call.hx)
    rows = data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=9), label="rows")
    pick = (slice(None), rows)
    part = call.run(call.x[pick], call.states(pick))
    expected = whole[0][pick], (whole[1][0][pick], whole[1][1][pick])
    assert all_same(part, expected)
    for row in {0, batch - 1}:
        one = (slice(None), slice(row, row + 1))
        alone = call.run(call.x[one], call.states(one))
        assert all_same(alone, (whole[0][one], (whole[1][0][one], whole[1][1][one])))
        flat_row = (slice(None), row)
        unbatched = call.run(call.x[flat_row], call.states(flat_row))
        assert all_same(unbatched, (whole[0][flat_row], (whole[1][0][flat_row], whole[1][1][flat_row])))
    # planted: one bit of any result, and a row that reads its neighbour's input
    for at in range(3):
        arrays = list(flat(part))
        arrays[at] = flip_one_bit(arrays[at])
        assert not all_same((arrays[0], (arrays[1], arrays[2])), expected)
    assert not all_same(call.run(call.x[pick] + 1, call.states(pick)), expected)


@many
@given(call=calls(least_batch=2))
def test_what_other_rows_hold_changes_no_bit(call):
    whole = call.run(call.x, call.hx)
    other = call.x.copy()
    other[:, 1:] = np.nan
    hx = None
    if call.hx is not None:
        hx = tuple(state.copy() for state in call.hx)
        hx[0][:, 1:], hx[1][:, 1:] = np.inf, -np.inf
    first = (slice(None), slice(0, 1))
    changed = call.run(other, hx)
    assert all_same(
        (changed[0][first], (changed[1][0][first], changed[1][1][first])),
        (whole[0][first], (whole[1][0][first], whole[1][1][first])),
    )
    assert np.isnan(changed[0][:, 1:]).any()
    assert not all_same(changed, whole)  # planted: the rows that did change are seen to


@many
@given(call=calls())
def test_the_same_call_gives_the_same_bits_in_memory_of_its_own(call):
    first = call.run(call.x, call.hx)
    kept = [a.copy() for a in flat(first)]
    second = call.run(call.x, call.hx)
    assert all_same(second, first)
    for a in flat(second):
        a.fill(np.nan)
    assert all(same_bits(a, b) for a, b in zip(flat(first), kept, strict=True))
    assert not all_same(second, first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_comparison_of_bits_sees_one_bit(dtype):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(dtype)
    assert same_bits(x, x.copy())
    assert same_bits(x.T.copy().T, x)
    assert not same_bits(flip_one_bit(x), x)
    assert np.abs(flip_one_bit(x) - x).max() < 2 * np.finfo(dtype).eps
    assert not same_bits(np.array([0.0], dtype), np.array([-0.0], dtype))
    assert same_bits(np.array([np.nan], dtype), np.array([np.nan], dtype))
    assert not same_bits(x, x[:2])
    assert not same_bits(x, x.astype(np.float16).astype(dtype))


@many
@given(call=calls(states=st.just(True)))
def test_the_bound_would_see_a_fault(call):
    """Planted: c_0 of one row in one cell is lost."""
    assume(call.hx is not None)
    if call.dtype == np.float64:
        need_longdouble()
    lost = call.hx[0], call.hx[1].copy()
    lost[1][0, -1] = 0
    x = call.laid_out(call.x[:1])  # one step: later ones forget
    want = exact(call.net, x, call.hx)
    assume(error(exact(call.net, x, lost), want) > 2 * bound(call))  # a gate may be shut before it
    assert error(call.net(x, call.hx), want) <= bound(call)
    assert error(call.net(x, lost), want) > bound(call)
