"""The judge is judged: against a scalar loop in decimal arithmetic, and by what an LSTM must obey."""

import warnings
from decimal import Decimal, localcontext

import numpy as np
import pytest

from numlstm import reference

PRECISIONS = (np.float32, np.float64, np.longdouble)


def weights(rng, inputs, hidden, *, layers=1, directions=1, bias=True, proj=0):
    out, k, parameters = proj or hidden, hidden**-0.5, {}
    for layer in range(layers):
        for suffix in ("", "_reverse")[:directions]:
            shapes = {"weight_ih": (4 * hidden, inputs), "weight_hh": (4 * hidden, out)}
            shapes |= {"bias_ih": (4 * hidden,), "bias_hh": (4 * hidden,)} if bias else {}
            shapes |= {"weight_hr": (proj, hidden)} if proj else {}
            parameters |= {f"{n}_l{layer}{suffix}": rng.uniform(-k, k, s) for n, s in shapes.items()}
        inputs = directions * out
    return parameters


def rounded(decimals, dtype):
    """Decimals as an array; through float64 alone a longdouble would lose its last digits."""
    if isinstance(decimals, Decimal):
        high = float(decimals)
        return dtype(high) + dtype(float(decimals - Decimal(high)))
    return np.array([rounded(d, dtype) for d in decimals], dtype)


def by_hand(parameters, x, h, c):
    """One row of an LSTM of one layer, number by number in decimals of 50 digits."""

    def d(array):
        return [d(a) for a in array] if np.ndim(array) else Decimal(float(array))

    def dot(a, b):
        return sum((x * y for x, y in zip(a, b, strict=True)), Decimal(0))

    def sigmoid(v):
        return 1 / (1 + (-v).exp())

    def tanh(v):
        return 1 - 2 / ((2 * v).exp() + 1)

    with localcontext() as context:
        context.prec = 50
        w = {name.removesuffix("_l0"): d(value) for name, value in parameters.items()}
        hidden = len(w["weight_ih"]) // 4
        zero = [Decimal(0)] * (4 * hidden)
        x, h, c, output = d(x), d(h), d(c), []
        for step in x:
            gate = [
                dot(w["weight_ih"][k], step) + dot(w["weight_hh"][k], h)
                + w.get("bias_ih", zero)[k] + w.get("bias_hh", zero)[k]
                for k in range(4 * hidden)
            ]  # fmt: skip
            i, f, g, o = (gate[n * hidden : (n + 1) * hidden] for n in range(4))
            c = [sigmoid(f[u]) * c[u] + sigmoid(i[u]) * tanh(g[u]) for u in range(hidden)]
            h = [sigmoid(o[u]) * tanh(c[u]) for u in range(hidden)]
            if "weight_hr" in w:
                h = [dot(row, h) for row in w["weight_hr"]]
            output.append(h)
    return output, h, c


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("proj", [0, 2])
def test_equals_a_scalar_loop_in_decimals(bias, proj):
    rng = np.random.default_rng(1)
    parameters = weights(rng, 3, 4, bias=bias, proj=proj)
    x, h, c = rng.standard_normal((5, 3)), rng.standard_normal((1, proj or 4)), rng.standard_normal((1, 4))
    want = by_hand(parameters, x, h[0], c[0])
    for dtype in (np.float64, np.longdouble):
        output, (h_n, c_n) = reference.lstm(parameters, x, (h, c), dtype=dtype)
        assert output.dtype == h_n.dtype == c_n.dtype == dtype
        for got, exact in zip((output, h_n[0], c_n[0]), want, strict=True):
            assert np.abs(got - rounded(exact, dtype)).max() < 16 * np.finfo(dtype).eps
        swapped = {
            name: np.roll(value, 4, 0) if name == "weight_ih_l0" else value for name, value in parameters.items()
        }
        assert np.abs(reference.lstm(swapped, x, (h, c), dtype=dtype)[0] - output).max() > 1e-3  # gate order is seen


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_activations_keep_their_digits_at_every_size(dtype):
    sizes = 10.0 ** np.arange(-30, 2.01, 0.25)
    x = np.concatenate([-sizes[sizes < 80], [0.0], sizes]).astype(np.float32).astype(dtype)
    with localcontext() as context:
        context.prec = 100
        exactly = [Decimal(float(v)) for v in x]
        sigmoids = [1 / (1 + (-v).exp()) for v in exactly]
        tanhs = [((2 * v).exp() - 1) / ((2 * v).exp() + 1) for v in exactly]
        for got, exact in ((reference.sigmoid(x), sigmoids), (np.tanh(x), tanhs)):
            want = rounded(exact, np.longdouble)
            assert got.dtype == dtype
            assert (np.abs(got - want) <= 4 * np.finfo(dtype).eps * np.abs(want)).all()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_no_number_overflows_warns_or_is_lost(dtype):
    big = np.finfo(dtype).max
    x = np.array([-np.inf, -big, -12000, -800, 800, 12000, big, np.inf, np.nan], dtype)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        gate = reference.sigmoid(x)
        assert gate[[0, 1]].tolist() == [0, 0] and gate[4:8].tolist() == [1, 1, 1, 1] and np.isnan(gate[8])
        parameters = {"weight_ih": np.full((4, 1), big, dtype), "weight_hh": np.zeros((4, 1), dtype)}
        h, c = reference.cell(parameters, x[:, None], dtype=dtype, flush=np.float32)
    assert c[4:8].tolist() == [[1]] * 4 and np.isnan(h[8]) and (h[:4] == 0).all()


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("proj", [0, 2])
def test_layouts_rows_and_layers(dtype, directions, proj):
    """Unbatched, batch_first and no state are one computation; two layers are one on the other."""
    rng, out = np.random.default_rng(2), proj or 3
    both = weights(rng, 4, 3, layers=2, directions=directions, proj=proj)
    x = rng.standard_normal((6, 2, 4))
    hx = rng.standard_normal((2 * directions, 2, out)), rng.standard_normal((2 * directions, 2, 3))
    output, (h_n, c_n) = reference.lstm(both, x, hx, dtype=dtype)
    assert (output.shape, h_n.shape, c_n.shape) == ((6, 2, directions * out), hx[0].shape, hx[1].shape)
    near = {"rtol": 0, "atol": 8 * np.finfo(dtype).eps}

    swapped, states = reference.lstm(both, x.swapaxes(0, 1), hx, dtype=dtype, batch_first=True)
    for got, want in zip((swapped.swapaxes(0, 1), *states), (output, h_n, c_n), strict=True):
        np.testing.assert_array_equal(got, want)

    row, (h_row, c_row) = reference.lstm(both, x[:, 1], (hx[0][:, 1], hx[1][:, 1]), dtype=dtype, batch_first=True)
    for got, want in zip((row, h_row, c_row), (output[:, 1], h_n[:, 1], c_n[:, 1]), strict=True):
        np.testing.assert_allclose(got, want, **near)

    zeros = np.zeros_like(hx[0]), np.zeros_like(hx[1])
    np.testing.assert_array_equal(
        reference.lstm(both, x, dtype=dtype)[0], reference.lstm(both, x, zeros, dtype=dtype)[0]
    )

    lower = {name: value for name, value in both.items() if "_l0" in name}
    upper = {name.replace("_l1", "_l0"): value for name, value in both.items() if "_l1" in name}
    states = [(hx[0][at : at + directions], hx[1][at : at + directions]) for at in (0, directions)]
    middle, _ = reference.lstm(lower, x, states[0], dtype=dtype)
    np.testing.assert_array_equal(reference.lstm(upper, middle, states[1], dtype=dtype)[0], output)


def test_the_reverse_direction_is_the_forward_one_from_the_other_end():
    rng = np.random.default_rng(3)
    p = weights(rng, 2, 3, directions=2)
    x = rng.standard_normal((5, 1, 2))
    output, (h_n, c_n) = reference.lstm(p, x)
    alone = {name.replace("_reverse", ""): value for name, value in p.items() if "_reverse" in name}
    back, (h_back, c_back) = reference.lstm(alone, x[::-1])
    np.testing.assert_array_equal(output[..., 3:], back[::-1])
    np.testing.assert_array_equal([h_n[1], c_n[1]], [h_back[0], c_back[0]])
    np.testing.assert_array_equal(output[0, :, 3:], h_n[1])
    np.testing.assert_array_equal(output[-1, :, :3], h_n[0])


def test_a_step_is_a_cell_and_no_rows_are_no_rows():
    rng = np.random.default_rng(4)
    p = weights(rng, 2, 3)
    x, h, c = rng.standard_normal((1, 4, 2)), rng.standard_normal((1, 4, 3)), rng.standard_normal((1, 4, 3))
    output, (h_n, c_n) = reference.lstm(p, x, (h, c))
    one = {name.removesuffix("_l0"): value for name, value in p.items()}
    np.testing.assert_array_equal(reference.cell(one, x[0], (h[0], c[0])), (h_n[0], c_n[0]))
    np.testing.assert_array_equal(output, h_n)
    output, (h_n, c_n) = reference.lstm(p, np.zeros((5, 0, 2)))
    assert (output.shape, h_n.shape, c_n.shape) == ((5, 0, 3), (1, 0, 3), (1, 0, 3))


@pytest.mark.parametrize("judged, edge", [(np.float32, -87.0), (np.float64, -708.0)])
def test_what_vanishes(judged, edge):
    """Below the smallest normal number of the dtype judged c is 0, h below 2**26 times it, a gate below its edge."""
    faint = np.longdouble(np.finfo(judged).tiny) * 2**26
    tiny = np.longdouble(np.finfo(judged).tiny)
    below = np.nextafter(np.longdouble(edge), np.longdouble(-np.inf))
    gates = np.array([edge, below, -np.inf, np.nan], np.longdouble)
    assert (reference.sigmoid(gates, judged)[:3] > 0).tolist() == [True, False, False]
    assert np.isnan(reference.sigmoid(gates, judged)[3])
    assert (reference.sigmoid(gates)[:2] >= tiny).all() and reference.sigmoid(np.longdouble(edge - 1)) < tiny
    keep = {"weight_ih": np.zeros((4, 1)), "weight_hh": np.zeros((4, 1))}  # i is 0, f and o are 1: c stays
    keep |= {"bias_ih": np.array([-1e6, 1e6, 0, 1e6]), "bias_hh": np.zeros(4)}
    for before, after in ((tiny, tiny), (tiny * 0.999, 0), (-tiny * 0.999, 0), (-tiny, -tiny), (np.nan, np.nan)):
        state = (np.zeros(1), np.array([before]))
        np.testing.assert_array_equal(reference.cell(keep, [0.0], state, flush=judged)[1], [after])
        np.testing.assert_array_equal(reference.cell(keep, [0.0], state), [[before]] * 2)
    for before, after in ((faint, faint), (faint * 0.999, 0), (-faint * 0.999, 0), (-faint, -faint), (np.nan, np.nan)):
        state = (np.zeros(1), np.array([before]))
        np.testing.assert_array_equal(reference.cell(keep, [0.0], state, flush=judged), [[after], [before]])
    read = {"weight_ih": np.zeros((4, 1)), "weight_hh": np.array([[0], [0], [1e300], [0]])}  # g grows out of h
    assert reference.cell(read, [0.0], ([faint], [0.0]), flush=judged)[1] > 0
    assert reference.cell(read, [0.0], ([faint / 2], [0.0]))[1] > 0
    assert reference.cell(read, [0.0], ([faint / 2], [0.0]), flush=judged)[1] == 0
    projected = {**keep, "weight_hh": np.zeros((4, 1)), "weight_hr": np.array([[0.5]])}
    h, c = reference.cell(projected, [0.0], ([0.0], [faint]), flush=judged)
    assert (h, c) == ([0], [faint])
