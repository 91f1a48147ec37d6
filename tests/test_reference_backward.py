"""The judge of gradients is judged: by finite differences in longdouble, and by torch.autograd as written down."""

import numpy as np
import pytest
from golden import make_training
from judge import need_longdouble
from needs import need

from numlstm import reference

GOLDEN = make_training.load()
RESULTS = ("output", "h_n", "c_n")


def results(case, parameters, arrays, dtype=np.float64):
    """What a case of make_training gives, by the names there; padding holds NaN, which nothing may read."""
    *_, kind, hx = case
    x, lengths = arrays["x"].copy(), None
    if kind == "lengths":
        lengths = make_training.LENGTHS
        for row, length in enumerate(lengths):
            x[length:, row] = np.nan
    states = (arrays["h_0"], arrays["c_0"]) if hx else None
    (output, (h_n, c_n)), backward = reference.vjp(
        parameters, x, states, lengths=lengths, masks=arrays.get("masks"), dtype=dtype
    )
    dx, (dh_0, dc_0), gradients = backward(arrays["d_output"], (arrays["d_h_n"], arrays["d_c_n"]))
    named = {"output": output, "h_n": h_n, "c_n": c_n, "d x": dx}
    named |= {"d h_0": dh_0, "d c_0": dc_0} if hx else {}
    return named | {f"d {name}": gradient for name, gradient in gradients.items()}


def golden(case):
    prefix = f"lstm {make_training.name_of(case)}/"
    return {name.removeprefix(prefix): array for name, array in GOLDEN.items() if name.startswith(prefix)}


def far(got, want):
    """The largest difference, as a fraction of the largest number where that is over 1."""
    assert got.keys() == want.keys()
    return max(float(np.abs(got[name] - want[name]).max() / max(1, np.abs(want[name]).max())) for name in want)


@pytest.mark.parametrize("case", make_training.LSTMS, ids=make_training.name_of)
def test_equals_autograd_as_written_down(case):
    assert far(results(case, *make_training.inputs_of(case)), golden(case)) < 3e-14


@pytest.mark.parametrize("case", make_training.LSTMS[::7], ids=make_training.name_of)
def test_equals_autograd_live(case):
    torch = need("torch")
    assert far(results(case, *make_training.inputs_of(case)), make_training.lstm_gradients(torch, case)) < 3e-14


@pytest.mark.parametrize("fault", ["weight_hh_l1", "d_h_n", "masks", "c_0"])
def test_the_comparison_notices_a_fault(fault):
    case = (2, 2, 2, True, "dropout", True)
    parameters, arrays = make_training.inputs_of(case)
    changed = arrays if fault in arrays else parameters
    changed[fault] = changed[fault] * 1.001
    assert far(results(case, parameters, arrays), golden(case)) > 1e-6


@pytest.mark.parametrize(
    "case",
    [case for case in make_training.LSTMS if case[:4] == (2, 2, 2, True) and case[5]],
    ids=make_training.name_of,
)
def test_equals_finite_differences(case):
    need_longdouble()
    parameters, arrays = make_training.inputs_of(case)
    wide = np.longdouble
    parameters, arrays = ({k: v.astype(wide) for k, v in of.items()} for of in (parameters, arrays))
    found, step = results(case, parameters, arrays, wide), wide(1e-6)

    def loss():
        got = results(case, parameters, arrays, wide)
        return sum((got[name] * arrays[f"d_{name}"]).sum() for name in RESULTS)

    random, looked_at = np.random.default_rng(0), 0
    for name, gradient in found.items():
        if name in RESULTS:
            continue
        array = {**parameters, **arrays}[name.removeprefix("d ")].reshape(-1)
        for k in random.permutation(array.size)[:12]:
            before = array[k]
            array[k] = before + step
            more = loss()
            array[k] = before - step
            less = loss()
            array[k] = before
            assert abs((more - less) / (2 * step) - gradient.reshape(-1)[k]) < 1e-11, (name, k)
            looked_at += 1
    assert looked_at > 100


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_layouts_and_what_is_left_out(dtype):
    """Unbatched and batch_first are one computation; None stands for zeros; the forward pass is that of lstm."""
    case = (2, 2, 2, True, "plain", True)
    parameters, arrays = make_training.inputs_of(case)
    x, hx = arrays["x"], (arrays["h_0"], arrays["c_0"])
    result, backward = reference.vjp(parameters, x, hx, dtype=dtype)
    same = reference.lstm(parameters, x, hx, dtype=dtype)
    for got, want in zip((result[0], *result[1]), (same[0], *same[1]), strict=True):
        assert got.dtype == dtype and np.abs(got - want).max() <= 4 * np.finfo(dtype).eps
    given = arrays["d_output"], (arrays["d_h_n"], arrays["d_c_n"])
    dx, (dh_0, dc_0), gradients = backward(*given)
    assert all(value.dtype == dtype for value in (dx, dh_0, dc_0, *gradients.values()))

    _, backward_first = reference.vjp(parameters, x.swapaxes(0, 1), hx, dtype=dtype, batch_first=True)
    other, *_ = backward_first(given[0].swapaxes(0, 1), given[1])
    assert np.array_equal(other.swapaxes(0, 1), dx)

    _, of_row = reference.vjp(parameters, x[:, 1], [state[:, 1] for state in hx], dtype=dtype)
    row = of_row(given[0][:, 1], [d[:, 1] for d in given[1]])
    for got, want in zip((row[0], *row[1]), (dx[:, 1], dh_0[:, 1], dc_0[:, 1]), strict=True):
        assert got.shape == want.shape and np.abs(got - want).max() < 100 * np.finfo(dtype).eps

    nothing = backward()
    assert not any(np.any(value) for value in (nothing[0], *nothing[1], *nothing[2].values()))
    parts = backward(given[0]), backward(None, given[1])
    assert np.abs(parts[0][0] + parts[1][0] - dx).max() < 100 * np.finfo(dtype).eps


def test_derivatives_of_saturated_gates_keep_their_digits():
    x = np.array([-80.0, -30.0, 0.0, 30.0, 80.0], np.float32)
    wide = np.exp(-np.abs(x.astype(np.longdouble)))
    for derivative, exact in (
        (reference._sigmoid_derivative, wide / (1 + wide) ** 2),
        (reference._tanh_derivative, 4 * wide**2 / (1 + wide**2) ** 2),
    ):
        found = derivative(x)
        normal = exact > np.finfo(np.float32).tiny
        assert (np.abs(found - exact)[normal] <= 4 * np.finfo(np.float32).eps * exact[normal]).all()
