"""Numbers against the reference in longdouble: ordinary, tiny, saturated, huge, infinite, NaN and vanishing ones."""

import numpy as np
import pytest
from judge import DTYPES, EDGE, UNIT, drive, driven, error, exact, flat, flip_one_bit, need_longdouble, same_bits

import numlstm
from numlstm import reference

pytestmark = pytest.mark.cpu_level

UNITS = 5  # of a driven LSTM: no multiple of any register
STEEP = 16.8  # roundings; 1e-6 in float32


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request):
    if request.param is np.float64:
        need_longdouble()
    return np.dtype(request.param)


def sigmoid(x, dtype):
    return reference.sigmoid(np.asarray(x).astype(np.longdouble), dtype)


def faintest(dtype):
    """The smallest h that is not made 0."""
    return np.dtype(dtype).type(np.finfo(dtype).tiny * 2**26)


def relative(got, want, smallest):
    """The largest relative error among the values that are not below the smallest."""
    normal = np.abs(want) >= smallest
    assert normal.any()
    return float((np.abs(got - want)[normal] / np.abs(want)[normal]).max())


# Ordinary numbers.


@pytest.mark.parametrize(
    "sizes, flags",
    [
        ((6, 4, 5, 1), {"num_layers": 2}),
        ((1, 1, 7, 3), {}),
        ((1, 40, 200, 1), {}),
        ((5, 13, 6, 7), {"num_layers": 3, "bidirectional": True}),
        ((17, 31, 8, 4), {"bias": False, "batch_first": True}),
        ((12, 37, 6, 5), {"proj_size": 11, "num_layers": 2, "bidirectional": True}),
        ((100, 130, 4, 11), {"bidirectional": True}),
        ((3, 256, 12, 2), {}),
    ],
)
def test_ordinary_numbers(sizes, flags, dtype):
    inputs, hidden, steps, batch = sizes
    net = numlstm.LSTM(inputs, hidden, dtype=dtype, seed=3, **flags)
    net.eval()
    rng = np.random.default_rng(4)
    x = rng.standard_normal((batch, steps, inputs) if flags.get("batch_first") else (steps, batch, inputs))
    x = x.astype(dtype)
    zero_h, zero_c = (np.zeros(state.shape, dtype) for state in net(x)[1])
    for hx in (
        None,
        (rng.standard_normal(zero_h.shape).astype(dtype), rng.standard_normal(zero_c.shape).astype(dtype)),
    ):
        got, want = net(x, hx), exact(net, x, hx)
        assert all(a.dtype == dtype for a in flat(got))
        assert error(got, want) < 8 * UNIT[dtype]
        np.testing.assert_array_equal(got[0].shape, want[0].shape)
    weights = net.state_dict()
    last = next(reversed(weights))
    net.load_state_dict({**weights, last: weights[last] * (1 + UNIT[dtype] ** 0.5)})
    assert error(net(x, hx), want) > 8 * UNIT[dtype]  # planted: half the digits of one parameter are lost


# Small numbers keep their digits.


def test_tanh_of_a_millionth_is_a_millionth(dtype):
    h, c = drive(driven(1, dtype), (100.0, 100.0, 1e-6, 100.0), 0.0)
    millionth = np.longdouble(dtype.type(1e-6))
    assert relative(c, np.tanh(millionth), 0) < 6 * UNIT[dtype]
    assert relative(h, np.tanh(np.tanh(millionth)), 0) < 12 * UNIT[dtype]


def test_a_small_gate_keeps_its_digits(dtype):
    rng = np.random.default_rng(5)
    bottom = np.log10(float(np.finfo(dtype).tiny)) + 1
    small = (rng.choice([-1, 1], 20000) * 10.0 ** rng.uniform(bottom, 0.5, 20000)).astype(dtype)
    other = rng.uniform(-3, 3, (3, 20000)).astype(dtype)
    exactly = small.astype(np.longdouble)
    h, c = drive(driven(UNITS, dtype), (other[0], 0.0, small, other[1]), 0.0)
    c_want = sigmoid(other[0], dtype) * np.tanh(exactly)
    smallest, audible = 4 * np.finfo(dtype).tiny, 2 * faintest(dtype)
    assert relative(c, c_want, smallest) < 6 * UNIT[dtype]
    assert relative(h, sigmoid(other[1], dtype) * np.tanh(c_want), audible) < 12 * UNIT[dtype]
    # the same through the state: i is 0
    h, c = drive(driven(UNITS, dtype), (-np.inf, other[2], 1.0, other[1]), small)
    c_want = sigmoid(other[2], dtype) * exactly
    assert relative(c, c_want, smallest) < 6 * UNIT[dtype]
    assert relative(h, sigmoid(other[1], dtype) * np.tanh(c_want), audible) < 12 * UNIT[dtype]
    # the guard sees a tanh that is good to the absolute error only
    assert relative((c_want + UNIT[dtype]).astype(dtype), c_want, smallest) > 1


@pytest.mark.parametrize("where", ["input", "weights", "both"])
@pytest.mark.parametrize("flags", [{}, {"num_layers": 2}, {"bidirectional": True}, {"proj_size": 7}])
def test_a_small_signal_stays_one(flags, where, dtype):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4, 3, 20)).astype(dtype)
    net = numlstm.LSTM(20, 19, bias=False, dtype=dtype, seed=7, **flags)
    net.eval()
    initial = net.state_dict()
    deepest = -25 if dtype == np.float32 else -285
    for exponent in (-2, -6, deepest // 2, deepest):
        scale = 10.0 ** (exponent / 2 if where == "both" else exponent)
        first = {"weight_ih_l0": scale, "weight_ih_l0_reverse": scale} if where != "input" else {}
        net.load_state_dict({name: (w * first.get(name, 1)).astype(dtype) for name, w in initial.items()})
        small = (x * (scale if where != "weights" else 1)).astype(dtype)
        got, want = net(small), exact(net, small)
        for a, b in zip(flat(got), flat(want), strict=True):
            size = np.abs(b).max(axis=-1)
            assert (size > 0).all()
            assert (size < 100 * 10.0**exponent).all()
            assert (np.abs(a - b).max(axis=-1) / size).max() < 32 * UNIT[dtype]


# Saturated gates and huge states.


def test_the_forget_gate_over_its_whole_range(dtype):
    """f in [-87, 100] with |c| up to 1e37, and what that is in float64."""
    rng = np.random.default_rng(8)
    n, (low, high, top) = 60000, (-87, 100, 37) if dtype == np.float32 else (-708, 800, 307)
    f = rng.uniform(low, high, n).astype(dtype)
    f[:2] = low, high
    c_0 = (rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-top, top, n)).astype(dtype)
    _, c = drive(driven(UNITS, dtype), (-np.inf, f, 0.0, 0.0), c_0)
    want = sigmoid(f, dtype) * c_0.astype(np.longdouble)
    assert relative(c, want, np.finfo(dtype).tiny * (1 + 1e-6)) < STEEP * UNIT[dtype]
    assert (c[np.abs(want) < np.finfo(dtype).tiny * (1 - 1e-6)] == 0).all()
    assert (c == 0).sum() > 1000  # both sides of the edge were taken
    assert (np.abs(want) > 1).sum() > 1000


@pytest.mark.parametrize("gate", ["input", "output"])
def test_a_gate_that_is_nearly_shut_lets_its_share_through(gate, dtype):
    """sigmoid(i) tanh(g) and sigmoid(o) tanh(c) over the whole range of either, saturated or not."""
    rng = np.random.default_rng(9)
    n, (low, high, top) = 60000, (-87, 100, 37) if dtype == np.float32 else (-708, 800, 307)
    shut = rng.uniform(low, high, n).astype(dtype)
    shut[:2] = low, high
    signal = (rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-top, top, n)).astype(dtype)
    signal[-4:] = 9.0, 19.0, -30.0, 88.0
    shut[-4:] = low + 1, low, low + 0.5, low
    if gate == "input":
        _, got = drive(driven(UNITS, dtype), (shut, 0.0, signal, 0.0), 0.0)
    else:
        got, _ = drive(driven(UNITS, dtype), (-np.inf, np.inf, 0.0, shut), signal)
    want = sigmoid(shut, dtype) * np.tanh(signal.astype(np.longdouble))
    least = np.finfo(dtype).tiny if gate == "input" else faintest(dtype)
    assert relative(got, want, least * (1 + 1e-6)) < STEEP * UNIT[dtype]
    assert (got[np.abs(want) < least * (1 - 1e-6)] == 0).all()


def test_saturated_gates_in_a_sequence(dtype):
    """Large weights on a grid that makes the sums exact: gates are wide open or shut, and c counts."""
    rng = np.random.default_rng(10)
    net = numlstm.LSTM(8, 21, num_layers=2, dtype=dtype)
    net.eval()
    net.load_state_dict({name: rng.integers(-8, 9, w.shape).astype(dtype) for name, w in net.state_dict().items()})
    x = rng.integers(-40, 41, (30, 5, 8)).astype(dtype)
    got, want = net(x), exact(net, x)
    size = np.maximum(1, np.abs(want[1][1][:1]))
    assert (np.abs(got[1][1][:1] - want[1][1][:1]) / size).max() < 64 * UNIT[dtype]
    assert np.abs(want[1][1][0]).max() > 2


# What IEEE arithmetic gives.

SHUT = {"i": 1, "f": 2, "g": 4, "o": 8}


def ieee(gates, c, dtype):
    """One step in longdouble, whose range no gate and no c of the dtype leaves."""
    i, f, g, o, c = (np.asarray(a).astype(np.longdouble) for a in (*gates, c))
    tiny = np.finfo(dtype).tiny
    c = np.where(np.abs(c) < tiny, 0, c)
    with np.errstate(all="ignore"):
        kept, added = sigmoid(f, dtype) * c, sigmoid(i, dtype) * np.tanh(g)
        c_1 = np.where(np.abs(kept + added) < tiny, 0, kept + added)
        h = sigmoid(o, dtype) * np.tanh(c_1)
        size = np.abs(kept) + np.abs(added)
        h_size = sigmoid(o, dtype) * np.minimum(1, size)
    return (np.where(np.abs(h) < faintest(dtype), 0, h), h_size), (c_1, size)


def disagreements(got, want, size, dtype, tiny):
    """Where a result is no number, not finite, of another sign, or off by more than 1e-6 of its terms.

    What is smaller than ``tiny`` must be 0.
    """
    with np.errstate(invalid="ignore"):
        near = np.abs(got - want) <= STEEP * UNIT[dtype] * size + tiny
    same = np.where(np.isfinite(want), near, (got == want) | (np.isnan(got) & np.isnan(want)))
    subnormal = (np.abs(got) < tiny) & (got != 0)
    return ~same | subnormal


def test_20000_combinations_of_infinite_huge_and_ordinary_gates_and_states(dtype):
    rng = np.random.default_rng(11)
    edge, limits = EDGE[dtype], np.finfo(dtype)
    below = np.nextafter(dtype.type(edge), dtype.type(-np.inf))
    sizes = [
        0.0,
        limits.smallest_subnormal,
        limits.tiny,
        1e-6,
        0.3,
        1.0,
        20.0,
        -edge,
        -below,
        89.0,
        2 - edge,
        1e30,
        limits.max,
    ]
    gates = np.array([*sizes, *np.negative(sizes), np.inf, -np.inf, 2.5, -2.5], dtype)
    states = np.array(
        [0, 1, 1e-3, 7, limits.tiny, limits.tiny / 2, 1e10, 1e37, limits.max, np.inf, np.nan], dtype
    )  # fmt: skip
    states = np.concatenate([states, -states])
    done = 0
    for lost in range(16):  # which gates are NaN: through the bias, which reaches every row and only that gate
        n = 12500 if lost == 0 else 500
        i, f, g, o = (rng.choice(gates, n) for _ in range(4))
        c = rng.choice(states, n)
        net = driven(UNITS, dtype)
        if lost:
            weights = net.state_dict()
            net = numlstm.LSTM(8 * UNITS, UNITS, dtype=dtype)
            bias = np.zeros((4, UNITS), dtype)
            bias[[bool(lost & bit) for bit in SHUT.values()]] = np.nan
            zero = np.zeros(4 * UNITS, dtype)
            net.load_state_dict({**weights, "bias_ih_l0": bias.reshape(-1), "bias_hh_l0": zero})
        got = drive(net, (i, f, g, o), c)
        i, f, g, o = (
            np.full(n, np.nan) if lost & bit else gate for gate, bit in zip((i, f, g, o), SHUT.values(), strict=True)
        )
        least = faintest(dtype), np.finfo(dtype).tiny
        for name, result, (want, size), tiny in zip("hc", got, ieee((i, f, g, o), c, dtype), least, strict=True):
            wrong = np.flatnonzero(disagreements(result, want, size, dtype, tiny))
            first = wrong[:5]
            assert not wrong.size, (
                f"{name} differs in {wrong.size} of {n}: "
                f"{[tuple(float(a[k]) for a in (i, f, g, o, c, result, want)) for k in first]}"
            )
        done += n
    assert done == 20000


def test_the_comparison_with_ieee_sees_each_fault(dtype):
    tiny = np.finfo(dtype).tiny
    for want, got in [
        (0.5, 0.5 + 32 * UNIT[dtype]), (0.5, np.nan), (np.nan, 0.5), (np.inf, -np.inf), (np.inf, 1e30), (0.0, np.inf),
        (np.nan, np.inf), (0.0, tiny / 2), (tiny, tiny / 2),
    ]:  # fmt: skip
        wrong = disagreements(np.array([got], dtype), np.longdouble(want), np.longdouble(1), dtype, tiny)
        assert wrong.all(), (want, got)
        right = disagreements(np.array([want], dtype), np.longdouble(want), np.longdouble(1), dtype, tiny)
        assert not right.any()


# NaN and infinities stay in their row.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["input", "h_0", "c_0"])
@pytest.mark.parametrize("flags", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 6}])
def test_what_is_no_number_stays_in_its_row(flags, where, value, dtype):
    rng = np.random.default_rng(12)
    net = numlstm.LSTM(6, 11, dtype=dtype, seed=13, **flags)
    net.eval()
    for batch in (1, 2, 3, 4, 7):
        x = rng.standard_normal((5, batch, 6)).astype(dtype)
        h_0, c_0 = (rng.standard_normal(state.shape).astype(dtype) for state in net(x)[1])
        clean = net(x, (h_0, c_0))
        for row in range(batch):
            given = {"input": x.copy(), "h_0": h_0.copy(), "c_0": c_0.copy()}
            step = row % len(given[where])
            given[where][step, row, -1] = value
            hx = given["h_0"], given["c_0"]
            got, want = net(given["input"], hx), exact(net, given["input"], hx)
            others = np.arange(batch) != row
            changed = 0
            for a, b, expected in zip(flat(got), flat(clean), flat(want), strict=True):
                assert same_bits(a[:, others], b[:, others])
                np.testing.assert_array_equal(np.isnan(a), np.isnan(expected))
                np.testing.assert_array_equal(np.isinf(a), np.isinf(expected))
                finite = np.isfinite(expected)
                assert (np.abs(a[finite] - expected[finite]) < 16 * UNIT[dtype]).all()
                changed += not same_bits(a, b)
            assert changed  # the value arrived
            assert not same_bits(flip_one_bit(clean[0]), clean[0])


# States that decay to nothing.


@pytest.mark.parametrize("proj_size", [0, 2])
def test_a_decayed_state_becomes_zero_and_stays(proj_size, dtype):
    """Nothing comes in, f forgets: c shrinks to the smallest normal number, then is exactly 0, and h before it."""
    hidden, tiny = 7, np.finfo(dtype).tiny
    net = numlstm.LSTM(1, hidden, proj_size=proj_size, dtype=dtype)
    weights = {name: np.zeros_like(w) for name, w in net.state_dict().items()}
    weights["bias_ih_l0"][:hidden] = -2000  # i is 0
    weights["bias_hh_l0"][hidden : 2 * hidden] = np.linspace(-1.0, -3.0, hidden)
    if proj_size:
        weights["weight_hr_l0"][:] = 0.5
    net.load_state_dict(weights)
    steps = 140 if dtype == np.float32 else 900
    c_0 = np.full((1, 3, hidden), 2.0, dtype) * np.array([1, -1, 100], dtype)[:, None]
    h, c, zeros = np.zeros((1, 3, proj_size or hidden), dtype), c_0, []
    for _ in range(steps):
        before = c
        _, (h, c) = net(np.zeros((1, 3, 1), dtype), (h, c))
        for state, least in ((h, faintest(dtype)), (c, tiny)):
            assert not ((state != 0) & (np.abs(state) < least)).any()
        assert (c[before == 0] == 0).all()
        zeros.append(int((c == 0).sum()))
        _, (_, want) = exact(net, np.zeros((1, 3, 1), dtype), (h * 0, before))
        away = np.abs(np.abs(want) / tiny - 1) > 1e-5
        np.testing.assert_array_equal((c == 0)[away], (want == 0)[away])
    assert zeros[0] == 0
    assert zeros[-1] == c.size
    assert len(set(zeros)) > 3
    assert (h == 0).all()
    whole, (h_n, c_n) = net(np.zeros((steps, 3, 1), dtype), (np.zeros_like(h), c_0))
    assert same_bits(h_n, h)
    assert same_bits(c_n, c)
    assert not ((whole != 0) & (np.abs(whole) < faintest(dtype))).any()


def test_states_that_are_too_small_are_read_as_zero(dtype):
    tiny, faint = np.finfo(dtype).tiny, faintest(dtype)
    net = numlstm.LSTM(1, 3, bias=False, dtype=dtype)
    weights = {name: np.zeros_like(w) for name, w in net.state_dict().items()}
    weights["weight_hh_l0"][6:9] = np.eye(3) * (1 / faint / 4)  # g = h / faint / 4
    net.load_state_dict(weights)
    x = np.zeros((1, 1, 1), dtype)
    subnormal = np.finfo(dtype).smallest_subnormal
    for factor, kept in ((1, True), (1 - UNIT[dtype], False), (UNIT[dtype] - 1, False), (None, False)):
        h_0, c_0 = (
            np.full((1, 1, 3), subnormal if factor is None else dtype.type(factor) * least, dtype)
            for least in (faint, tiny)
        )
        for h, c in ((h_0, c_0 * 0), (h_0 * 0, c_0 * 4)):
            output, (h_n, c_n) = net(x, (h, c))
            want = exact(net, x, (h, c))
            np.testing.assert_array_equal(c_n != 0, want[1][1] != 0)
            assert error((output, (h_n, c_n)), want) < UNIT[dtype]
        assert bool((net(x, (h_0, c_0 * 0))[1][1] != 0).all()) == kept
