"""Promise 2, against PyTorch itself: at most its own error plus a rounding of 1.0; near zero at most twice its own.

Both are compared with the reference in higher precision: float64 for float32, whose 2**-53 is nothing beside 2**-24
and whose matrix products are fast; longdouble for float64. Longdouble has no fast products (about 0.25e9
multiply-adds a second), so sequences are cut short there: to MOST multiply-adds a line of the grid,
FEW a random configuration. Fewer would be luck: of a few hundred numbers the largest error moves by half on either side
(at 10e6, on a CPU where PyTorch's products are other ones, 3 of 400 were over by up to 7 %; the same ones stay below
0.6 of what is allowed with five times as many numbers).
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from judge import DTYPES, UNIT, drive, driven, error, exact, flat, need_longdouble
from needs import need

import numlstm

torch = need("torch")
torch.set_num_threads(1)  # its idle threads would spin beside NumPy's

MOST = 200e6
FEW = {np.dtype(np.float32): 100e6, np.dtype(np.float64): 40e6}
JUDGE = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}

GRID = {  # input_size, hidden_size, num_layers, directions, T, B
    "seed": (6, 4, 2, 1, 5, 1),
    "amp_step": (1, 40, 1, 1, 1, 1),
    "amp_block": (1, 40, 1, 1, 2048, 1),
    "vad_step": (128, 128, 1, 1, 1, 1),
    "forecast": (8, 64, 2, 1, 168, 64),
    "tagger": (100, 256, 1, 2, 50, 1),
    "voice": (40, 256, 3, 1, 160, 8),
    "speech": (80, 512, 3, 2, 200, 1),
    "lm": (1024, 1024, 2, 1, 64, 16),
    "lm_step": (1024, 1024, 2, 1, 1, 1),
}


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request):
    if request.param is np.float64:
        need_longdouble()
    return np.dtype(request.param)


@dataclass
class Pair:
    """The same LSTM in both libraries, with an input and states for it."""

    name: str
    ours: Any
    theirs: Any
    x: np.ndarray
    hx: tuple[np.ndarray, np.ndarray] | None

    def results(self, x=None):
        """Ours, torch's, and in higher precision."""
        x = self.x if x is None else x
        with torch.inference_mode():
            tensors = None if self.hx is None else tuple(torch.from_numpy(state) for state in self.hx)
            output, (h_n, c_n) = self.theirs(torch.from_numpy(x), tensors)
            theirs = output.numpy(), (h_n.numpy(), c_n.numpy())
        return self.ours(x, self.hx), theirs, exact(self.ours, x, self.hx, JUDGE[self.x.dtype])


@dataclass
class Line:
    """Two errors of one configuration, and what ours may be."""

    name: str
    ours: float
    theirs: float
    allowed: float

    @property
    def ratio(self):
        if self.ours == self.allowed == 0:
            return 0.0
        return self.ours / self.allowed if self.allowed else np.inf

    def __str__(self):
        return f"{self.ratio:5.2f} of what is allowed: {self.ours:.2e}, torch's {self.theirs:.2e}: {self.name}"


def pair(name, sizes, dtype, seed, *, states=True, scale=1.0, **flags):
    inputs, hidden, steps, batch = sizes
    torch.manual_seed(seed)
    theirs = torch.nn.LSTM(inputs, hidden, dtype=getattr(torch, dtype.name), **flags).eval()
    ours = numlstm.LSTM(inputs, hidden, dtype=dtype, **flags)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    ours.eval()
    rng = np.random.default_rng(seed)
    x = (scale * rng.standard_normal((steps, batch, inputs))).astype(dtype)
    x = np.ascontiguousarray(x.swapaxes(0, 1)) if flags.get("batch_first") else x
    cells = flags.get("num_layers", 1) * (1 + flags.get("bidirectional", False))
    widths = flags.get("proj_size") or hidden, hidden
    h_0, c_0 = (rng.standard_normal((cells, batch, width)) for width in widths)
    hx = np.tanh(h_0).astype(dtype), c_0.astype(dtype)
    return Pair(name, ours, theirs, x, hx if states else None)


def products(inputs, hidden, layers, directions, proj=0):
    """Multiply-adds of one row in one step."""
    out, count = proj or hidden, 0
    for layer in range(layers):
        count += directions * (4 * hidden * ((directions * out if layer else inputs) + out) + proj * hidden)
    return count


def absolute(one):
    """Our largest error and torch's, and the promise."""
    ours, theirs, want = one.results()
    worst = error(theirs, want)
    return Line(one.name, error(ours, want), worst, worst + UNIT[one.x.dtype])


def near_zero(one):
    """The largest error at any step (of any cell, for the states), as a fraction of the largest value there."""
    ours, theirs, want = one.results()

    def worst(got):
        fractions = [
            (np.abs(a - b).max(axis=(1, 2)) / np.abs(b).max(axis=(1, 2))).max()
            for a, b in zip(flat(got), flat(want), strict=True)
        ]
        return float(max(fractions))

    return Line(one.name, worst(ours), worst(theirs), 2 * worst(theirs))


def report(title, lines):
    """Print the worst of the lines (pytest -s or -rP shows it) and fail where one allows less than it has."""
    worst = sorted(lines, key=lambda line: -line.ratio)
    print(f"\n{title}: {len(lines)} lines, the worst:", *worst[:5], sep="\n  ")
    over = [str(line) for line in worst if not line.ratio <= 1]
    assert not over, "\n".join([f"{title}: {len(over)} of {len(lines)} are over", *over[:20]])


@pytest.mark.slow
def test_the_grid(dtype):
    lines = []
    for name, (inputs, hidden, layers, directions, steps, batch) in GRID.items():
        per_step = batch * products(inputs, hidden, layers, directions)
        kept = steps if dtype == np.float32 else max(1, min(steps, int(MOST // per_step)))
        flags = {"num_layers": layers, "bidirectional": directions == 2}
        said = f"{name}, {kept} of {steps} steps"
        lines.append(absolute(pair(said, (inputs, hidden, kept, batch), dtype, 1, states=False, **flags)))
    assert len(lines) == 10
    report(f"the grid in {dtype}", lines)


def random_configuration(seed, few):
    """Sizes and flags; hidden_size up to 300, one in ten up to 1024; as many steps as FEW multiply-adds allow."""
    rng = np.random.default_rng([seed, 20])
    big = seed % 10 == 0
    hidden = int(rng.integers(301, 1025) if big else rng.integers(1, 301))
    inputs = int(rng.integers(1, 301))
    flags = {
        "num_layers": 1 if big else int(rng.integers(1, 4)),
        "bias": bool(rng.integers(0, 4)),
        "batch_first": bool(rng.integers(0, 2)),
        "bidirectional": bool(rng.integers(0, 2)) and not big,
        "proj_size": int(rng.integers(1, hidden)) if hidden > 1 and rng.integers(0, 4) == 0 else 0,
    }
    count = products(inputs, hidden, flags["num_layers"], 1 + flags["bidirectional"], flags["proj_size"])
    # as many rows as few allows: a maximum over few numbers is luck on either side
    steps = int(min(rng.integers(1, 40), max(1, few // count)))
    batch = int(min(4096, max(1, few // (count * steps))))
    return (inputs, hidden, steps, batch), flags, bool(rng.integers(0, 2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_200_random_configurations(dtype):
    lines, seen = [], []
    for seed in range(200):
        sizes, flags, states = random_configuration(seed, FEW[dtype])
        lines.append(absolute(pair(f"{sizes}, {flags}, seed {seed}", sizes, dtype, seed, states=states, **flags)))
        seen.append((sizes[1], *flags.values()))
    hidden = [sizes[0] for sizes in seen]
    assert min(hidden) < 10
    assert 900 < max(hidden) <= 1024
    assert {flags[1:5] for flags in seen} >= {
        (n, bias, first, False) for n in (1, 2) for bias in (0, 1) for first in (0, 1)
    }
    assert sum(flags[5] > 0 for flags in seen) > 20
    report(f"200 random configurations in {dtype}", lines)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_near_zero_in_whole_networks(dtype):
    deepest = -25 if dtype == np.float32 else -290
    lines = []
    for exponent in (-2, -6, deepest // 2, deepest):
        for seed in range(8):
            sizes = (3 + 7 * seed, 5 + 12 * seed, 6, 32)
            flags = {"num_layers": 1 + seed % 2, "bidirectional": seed % 4 > 1, "proj_size": 3 * (seed % 3 == 2)}
            name = f"1e{exponent}, {sizes}, {flags}"
            scale = 10.0**exponent
            lines.append(near_zero(pair(name, sizes, dtype, seed, states=False, scale=scale, bias=False, **flags)))
    report(f"near zero in {dtype}", lines)


def drive_torch(units, dtype, gates, c):
    """As `drive`, in torch."""
    theirs = torch.nn.LSTM(8 * units, units, bias=False, dtype=getattr(torch, dtype.name)).eval()
    weights = driven(units, dtype).state_dict()
    theirs.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})

    class Net:
        hidden_size, dtype = units, theirs.weight_ih_l0.detach().numpy().dtype

        def __call__(self, x, hx):
            with torch.inference_mode():
                _, (h, c) = theirs(torch.from_numpy(x), tuple(torch.from_numpy(state) for state in hx))
            return None, (h.numpy(), c.numpy())

    return drive(Net(), gates, c)


def test_near_zero_number_by_number(dtype):
    """Gates and states driven one by one: a small, a saturated or a nearly shut one; both results, relatively."""
    rng = np.random.default_rng(3)
    n, tiny = 40000, np.finfo(dtype).tiny
    bottom = np.log10(float(tiny)) + 1
    small = rng.choice([-1, 1], n) * 10.0 ** rng.uniform(bottom, 0, n)
    slight = rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-8, 0.5, n)
    shut = rng.uniform(-87 if dtype == np.float32 else -708, 20, n)
    wide, other = rng.uniform(-40, 40, n), rng.uniform(-3, 3, (3, n))
    lines = []
    for name, gates, c in [
        ("small g", (other[0], other[1], small, other[2]), 0.0),
        ("slight g", (other[0], other[1], slight, other[2]), 0.0),
        ("small c", (-np.inf, other[1], 0.0, other[2]), small),
        ("nearly shut i", (shut, 0.0, wide, other[2]), 0.0),
        ("nearly shut o", (other[0], -np.inf, wide, shut), 0.0),
        ("nearly shut o, large c", (-np.inf, np.inf, 0.0, shut), wide),
    ]:
        want_i, want_f, want_g, want_o, c_0 = (
            np.broadcast_to(a, n).astype(dtype).astype(np.longdouble) for a in (*gates, c)
        )

        def sigmoid(x):
            return 1 / (1 + np.exp(-x))

        with np.errstate(over="ignore"):
            c_1 = sigmoid(want_f) * c_0 + sigmoid(want_i) * np.tanh(want_g)
            want = sigmoid(want_o) * np.tanh(c_1), c_1
        ours, theirs = drive(driven(5, dtype), gates, c), drive_torch(5, dtype, gates, c)
        for what, a, b, exactly in zip("hc", ours, theirs, want, strict=True):
            normal = np.abs(exactly) > 2 * tiny * (2**26 if what == "h" else 1)  # h below that is made 0
            assert normal.sum() > n / 4
            worst = [float((np.abs(got - exactly)[normal] / np.abs(exactly)[normal]).max()) for got in (a, b)]
            lines.append(Line(f"{what} for {name}", worst[0], worst[1], 2 * worst[1]))
    report(f"near zero, number by number, in {dtype}", lines)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_nan_and_infinity_are_where_torch_has_them(dtype):
    lost = infinite = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, 4])
        sizes = tuple(int(rng.integers(1, most)) for most in (9, 20, 6, 8))
        flags = {"num_layers": int(rng.integers(1, 3)), "bidirectional": bool(seed % 2), "bias": bool(seed % 3)}
        one = pair(f"seed {seed}", sizes, dtype, seed, **flags)
        for array in (one.x, *one.hx):
            for _ in range(rng.integers(0, 3)):
                array.flat[rng.integers(0, array.size)] = rng.choice([np.nan, np.inf, -np.inf])
        ours, theirs, _ = one.results()
        for a, b in zip(flat(ours), flat(theirs), strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
            infinities = np.isinf(b)
            np.testing.assert_array_equal(a[infinities], b[infinities])
            np.testing.assert_array_equal(np.isinf(a), infinities)
            finite = np.isfinite(b)
            np.testing.assert_allclose(a[finite], b[finite], rtol=0, atol=32 * UNIT[dtype])
            lost, infinite = lost + int(np.isnan(b).sum()), infinite + int(infinities.sum())
    assert lost > 1000
    assert infinite > 5


def test_the_judge_would_see_a_fault(dtype):
    """Planted: one number is off by four roundings; a gate's products are rounded to half the digits; one is NaN."""
    one = pair("planted", (20, 30, 5, 3), dtype, 1)
    report("as it is", [absolute(one)])
    honest = one.ours

    class Faulty:
        batch_first, state_dict = False, honest.state_dict
        dtype = honest.dtype

        def __init__(self, change):
            self.change = change

        def __call__(self, x, hx):
            output, states = honest(x, hx)
            self.change(output)
            return output, states

    def off(output):
        output[2, 1, 7] += 8 * UNIT[one.x.dtype]

    def lost(output):
        output[0, 0, 0] = np.nan

    def half(output):
        output[:] = output.astype(np.float16)

    for change in (off, lost, half):
        with pytest.raises(AssertionError, match="1 of 1 are over"):
            report("planted", [absolute(Pair("planted", Faulty(change), one.theirs, one.x, one.hx))])
    small = pair("planted", (20, 30, 5, 3), dtype, 1, states=False, scale=1e-6, bias=False)
    report("as it is", [near_zero(small)])
    honest = small.ours

    def half_roundings(output):
        output += UNIT[one.x.dtype] / 4

    faulty = Faulty(half_roundings)
    faulty.state_dict = honest.state_dict
    with pytest.raises(AssertionError, match="1 of 1 are over"):
        report("planted", [near_zero(Pair("planted", faulty, small.theirs, small.x, None))])


if os.environ.get("NUMLSTM_CI") == "1":
    assert torch.__version__.partition("+")[0] == "2.13.0", "promises are measured against torch 2.13.0"
