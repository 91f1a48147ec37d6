"""numlstm.autograd: gradients of HIPS autograd through an LSTM."""

import numpy as np
import pytest
from needs import need

import numlstm
from numlstm import reference

autograd = need("autograd")
import autograd.numpy as anp  # noqa: E402
from autograd.test_util import check_grads  # noqa: E402

from numlstm.autograd import lstm  # noqa: E402


def made(dtype="float64", **flags):
    """Parameters, input and states."""
    own = numlstm.LSTM(3, 4, dtype=dtype, seed=0, **flags)
    random = np.random.default_rng(1)
    cells = own.num_layers * (2 if own.bidirectional else 1)
    states = [random.standard_normal((cells, 2, n)).astype(dtype) for n in (own.proj_size or 4, 4)]
    return own, dict(own.state_dict()), random.standard_normal((5, 2, 3)).astype(dtype), tuple(states)


@pytest.mark.parametrize(
    "flags", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 2}, {"bias": False}], ids=str
)
def test_gradients_are_those_of_differences(flags):
    _, parameters, x, hx = made(**flags)

    def loss(parameters, x, hx):
        output, (h_n, c_n) = lstm(parameters, x, hx)
        return anp.sum(anp.tanh(output)) + anp.sum(h_n * c_n[..., : h_n.shape[-1]])

    check_grads(loss, modes=["rev"], order=1)(parameters, x, hx)


@pytest.mark.parametrize("layout", ["batch_first", "unbatched", "batch"])
def test_results_have_the_bits_of_a_call_and_gradients_those_of_vjp(layout):
    own, parameters, x, hx = made("float32", num_layers=2)
    first = layout == "batch_first"
    if layout == "unbatched":
        x, hx = x[:, 0], tuple(state[:, 0] for state in hx)
    elif first:
        x = x.swapaxes(0, 1).copy()
        own.batch_first = True
    weights = np.random.default_rng(2).standard_normal((*x.shape[:-1], 4)).astype("float32")

    def loss(parameters, x, hx):
        return anp.sum(lstm(parameters, x, hx, batch_first=first)[0] * weights)

    (output, _), backward = own.vjp(x, hx)
    got, _ = lstm(parameters, x, hx, batch_first=first)
    np.testing.assert_array_equal(got, output)
    want = backward(weights)
    of_parameters, of_x, of_hx = autograd.grad(loss, (0, 1, 2))(parameters, x, hx)
    assert of_parameters.keys() == parameters.keys()
    for name, array in of_parameters.items():
        np.testing.assert_array_equal(array, want.parameters[name])
        assert array.dtype == np.float32
    for mine, theirs in zip((of_x, *of_hx), (want.input, *want.hx), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_gradients_are_right_for_the_reference_too():
    own, parameters, x, _ = made()
    got = autograd.grad(lambda parameters: anp.sum(lstm(parameters, x)[0] ** 2))(parameters)
    (output, _), backward = reference.vjp(own.state_dict(), x)
    for name, array in backward(2 * output)[2].items():
        np.testing.assert_allclose(got[name], array, rtol=1e-12, atol=1e-14)


def test_a_second_derivative_is_an_error():
    _, parameters, x, _ = made()
    with pytest.raises(NotImplementedError, match="second derivatives"):
        autograd.grad(lambda x: anp.sum(autograd.grad(lambda x: anp.sum(lstm(parameters, x)[0] ** 2))(x)))(x)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.pop("bias_hh_l0"), "bias_hh_l0 is missing among the parameters"),
        (lambda p: p.update(bias_ih_l0=np.zeros(15)), r"bias_ih_l0 must have shape \(16,\)"),
        (lambda p: p.update(head=np.zeros(15)), "head is no parameter of an LSTM"),
        (lambda p: p.update(bias_ih_l0=np.zeros(16, np.float32)), "one dtype\nTheirs are float32, float64"),
        (lambda p: p.clear(), "names of a state dict"),
    ],
)
def test_parameters_that_do_not_fit_are_errors(change, says):
    _, parameters, x, _ = made()
    change(parameters)
    with pytest.raises(ValueError, match=says):
        lstm(parameters, x)


def test_an_input_that_does_not_fit_is_an_error():
    _, parameters, x, hx = made()
    with pytest.raises(RuntimeError, match=r"input\.size\(-1\) must be equal to input_size"):
        lstm(parameters, x[..., :2])
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size"):
        autograd.grad(lambda h: anp.sum(lstm(parameters, x, (h, hx[1]))[0]))(hx[0][:, :1])
    with pytest.raises(ValueError, match="the batch must hold a sequence"):
        lstm(parameters, x[:, :0])
