"""Layers and losses of numlstm.nn: against torch as written down, by finite differences, and what they refuse."""

import numpy as np
import pytest
from golden import make_training
from needs import need

from numlstm import nn

GOLDEN = make_training.load()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", make_training.losses())
def test_a_loss_and_its_gradient_are_those_of_torch(name, dtype):
    arrays, options = make_training.losses()[name]
    arrays = {key: array.astype(dtype) if array.dtype.kind == "f" else array for key, array in arrays.items()}
    value, gradient = getattr(nn, name.split(maxsplit=1)[0])(**arrays, **options)
    want, by_input = (GOLDEN[f"loss {name}/{what}"] for what in ("value", "gradient"))
    assert type(value) is float and gradient.dtype == dtype and gradient.shape == arrays["input"].shape
    assert abs(value - want) <= 16 * np.finfo(dtype).eps * abs(want)
    assert np.abs(gradient - by_input).max() <= 16 * np.finfo(dtype).eps * np.abs(by_input).max()


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "cross_entropy", "binary_cross_entropy_with_logits"])
def test_a_gradient_is_that_of_the_value(name):
    random, loss = np.random.default_rng(3), getattr(nn, name)
    x = random.standard_normal((4, 3))
    target = random.integers(0, 3, 4) if name == "cross_entropy" else random.random((4, 3))
    _, gradient = loss(x, target)
    for at in np.ndindex(x.shape):
        more, less = x.copy(), x.copy()
        more[at] += 1e-6
        less[at] -= 1e-6
        assert abs((loss(more, target)[0] - loss(less, target)[0]) / 2e-6 - gradient[at]) < 1e-8


def test_large_logits_neither_overflow_nor_lose_their_gradient():
    with np.errstate(all="raise"):
        value, gradient = nn.binary_cross_entropy_with_logits([1000.0, -1000.0, -60.0], [0, 1, 0], reduction="sum")
        assert value == 2000 and gradient[:2].tolist() == [1, -1] and gradient[2] == pytest.approx(np.exp(-60))
        value, gradient = nn.cross_entropy([[1000.0, 0.0], [0.0, -1000.0]], [1, 0], reduction="sum")
    assert value == 1000 and gradient.tolist() == [[1, -1], [0, 0]]


LAYERS = [
    ("Linear", {"in_features": 3, "out_features": 2}, (4, 5, 3)),
    ("Linear", {"in_features": 3, "out_features": 2, "bias": False}, (3,)),
    ("Embedding", {"num_embeddings": 6, "embedding_dim": 3}, (4, 5)),
    ("Embedding", {"num_embeddings": 6, "embedding_dim": 3, "padding_idx": -2}, (7,)),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("kind", "options", "shape"), LAYERS)
def test_a_layer_is_that_of_torch(kind, options, shape, dtype):
    torch = need("torch")
    random, layer = np.random.default_rng(0), getattr(nn, kind)(**options, dtype=dtype, seed=1)
    twin = getattr(torch.nn, kind)(**options, dtype=getattr(torch, dtype))
    twin.load_state_dict({name: torch.tensor(array) for name, array in layer.state_dict().items()})
    x = random.integers(0, 6, shape) if kind == "Embedding" else random.standard_normal(shape).astype(dtype)
    given = torch.tensor(x, requires_grad=kind == "Linear")
    want = twin(given)
    output, backward = layer.vjp(x)
    d_output = random.standard_normal(output.shape)
    want.backward(torch.tensor(d_output.astype(dtype)))
    x[...] = 0  # what the call was given is its own
    grads = backward(d_output)
    eps = 32 * np.finfo(dtype).eps
    assert output.dtype == dtype and np.abs(output - want.detach().numpy()).max() <= eps
    assert list(grads.parameters) == [name for name, _ in twin.named_parameters()]
    for name, parameter in twin.named_parameters():
        assert grads.parameters[name].dtype == dtype
        assert np.abs(grads.parameters[name] - parameter.grad.numpy()).max() <= eps * 8
    if kind == "Linear":
        assert np.abs(grads.input - given.grad.numpy()).max() <= eps
        assert backward(d_output, input_grad=False).input is None
    else:
        assert grads.input is None
    assert grads.hx is None


def test_parameters_are_assigned_loaded_and_kept_by_a_pass():
    head = nn.Linear(2, 1, seed=0)
    with pytest.raises(ValueError, match="read-only"):
        head.weight[0, 0] = 1
    _, backward = head.vjp(np.ones((1, 2)))
    before = head.weight
    head.weight = [[5, 6]]
    assert head.weight.dtype == np.float32 and head([[1, 1]])[0, 0] == 11 + head.bias[0]
    assert (backward([[1.0]]).input == before).all()  # of the weights that the call had
    state = head.state_dict()
    state["weight"][...] = 7
    assert (head.weight == [[5, 6]]).all()
    assert head.load_state_dict(state).missing_keys == [] and (head.weight == 7).all()
    with pytest.raises(RuntimeError, match="size mismatch for bias"):
        head.load_state_dict({"weight": [[1, 2]], "bias": [1, 2]})
    assert (head.weight == 7).all()
    with pytest.raises(AttributeError, match="has no bias"):
        nn.Linear(2, 1, bias=False).bias = [0]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: nn.mse_loss([1.0], [[1.0]]), ValueError, r"same shape\n.*\(1,\) and \(1, 1\)"),
        (lambda: nn.mse_loss([np.nan, 1], [1.0, 1]), ValueError, r"input holds NaN\n.*first at \(0,\)"),
        (lambda: nn.l1_loss([1.0], [np.nan]), ValueError, "target holds NaN"),
        (lambda: nn.mse_loss([1.0], [1.0], reduction="none"), ValueError, "'mean' or 'sum'"),
        (lambda: nn.mse_loss([], []), ValueError, "a mean of nothing"),
        (lambda: nn.mse_loss(["a"], [1.0]), TypeError, "real numbers"),
        (lambda: nn.cross_entropy([[1.0, 2]], [2]), IndexError, "C - 1 = 1\nIt holds 2"),
        (lambda: nn.cross_entropy([[1.0, 2]], [-1]), IndexError, "It holds -1"),
        (lambda: nn.cross_entropy([[1.0, 2]], [[1]]), ValueError, r"the shape \(1,\)"),
        (lambda: nn.cross_entropy([[1.0, 2]], [0.5]), ValueError, "probabilities must have"),
        (lambda: nn.cross_entropy([[1.0, 2]], [-100]), ValueError, "no target counts"),
        (lambda: nn.cross_entropy([[1.0, 2]], [1], weight=[1.0]), ValueError, "a number a class"),
        (lambda: nn.cross_entropy([[1.0, 2]], [1], label_smoothing=2), ValueError, "label_smoothing"),
        (lambda: nn.binary_cross_entropy_with_logits([1.0], [1.0], pos_weight=[1, 2]), ValueError, "broadcasts"),
        (lambda: nn.Linear(3, 2)([[1.0, 2]]), ValueError, r"in_features=3\nIts shape is \(1, 2\)"),
        (lambda: nn.Linear(0, 2), ValueError, "in_features"),
        (lambda: nn.Linear(3, 2).vjp(np.ones(3))[1](np.ones(3)), ValueError, r"d_output must have .* \(2,\)"),
        (lambda: nn.Linear(3, 2).vjp(np.ones(3))[1]([1, np.nan]), ValueError, "d_output holds NaN"),
        (lambda: nn.Embedding(3, 2)([3]), IndexError, "num_embeddings - 1 = 2"),
        (lambda: nn.Embedding(3, 2)([1.0]), TypeError, "whole numbers"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), ValueError, "within num_embeddings=3"),
    ],
)
def test_what_cannot_be_right_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
