"""numlstm.jax: results and gradients under jit, grad and vmap, against JAX's own formula."""

import numpy as np
import pytest
from needs import need

import numlstm

jax = need("jax")
import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

from numlstm.jax import host_calls, lstm  # noqa: E402


def made(dtype="float32", **flags):
    """An LSTM, its parameters, an input and states."""
    own = numlstm.LSTM(3, 4, dtype=dtype, seed=0, **flags).eval()
    random = np.random.default_rng(1)
    cells = own.num_layers * (2 if own.bidirectional else 1)
    states = tuple(random.standard_normal((cells, 2, n)).astype(dtype) for n in (own.proj_size or 4, 4))
    x = random.standard_normal((5, 2, 3)).astype(dtype)
    return own, {name: jnp.asarray(array) for name, array in own.state_dict().items()}, x, states


def by_scan(parameters, x):
    """One layer, as JAX has it."""

    def step(state, x):
        h, c = state
        sums = x @ parameters["weight_ih_l0"].T + h @ parameters["weight_hh_l0"].T
        i, f, g, o = jnp.split(sums + parameters["bias_ih_l0"] + parameters["bias_hh_l0"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[1], 4), x.dtype)
    return jax.lax.scan(step, (zeros, zeros), x)[1]


def test_gradients_are_those_of_jaxs_own_formula():
    _, parameters, x, _ = made()
    for transform in (lambda f: f, jax.jit):
        ours = transform(jax.grad(lambda p, x: (lstm(p, x)[0] ** 2).sum(), (0, 1)))(parameters, x)
        theirs = jax.grad(lambda p, x: (by_scan(p, x) ** 2).sum(), (0, 1))(parameters, x)
        for mine, want in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
            np.testing.assert_allclose(mine, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["batch_first", "unbatched", "batch"])
def test_results_and_gradients_have_numlstms_bits(layout):
    own, parameters, x, hx = made(num_layers=2, bidirectional=True, proj_size=2)
    first = layout == "batch_first"
    if layout == "unbatched":
        x, hx = x[:, 0], tuple(state[:, 0] for state in hx)
    elif first:
        x = x.swapaxes(0, 1).copy()
        own.batch_first = True
    d_output = np.random.default_rng(2).standard_normal((*x.shape[:-1], 4)).astype("float32")

    @jax.jit
    def loss(parameters, x, hx):
        return (lstm(parameters, x, hx, batch_first=first)[0] * d_output).sum()

    (output, states), backward = own.vjp(x, hx)
    got, of_states = jax.jit(lambda *given: lstm(*given, batch_first=first))(parameters, x, hx)
    for mine, want in zip((got, *of_states), (output, *states), strict=True):
        np.testing.assert_array_equal(mine, want)
    want = backward(d_output)
    of_parameters, of_x, of_hx = jax.grad(loss, (0, 1, 2))(parameters, x, hx)
    for name, array in of_parameters.items():
        np.testing.assert_array_equal(array, want.parameters[name])
    for mine, theirs in zip((of_x, *of_hx), (want.input, *want.hx), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_vmap_of_calls_and_of_gradients():
    _, parameters, x, _ = made()
    many = jnp.stack([x, 2 * x, -x])
    np.testing.assert_array_equal(
        jax.vmap(lambda x: lstm(parameters, x)[0])(many), jnp.stack([lstm(parameters, x)[0] for x in many])
    )
    grad = jax.grad(lambda p, x: lstm(p, x)[0].sum())
    per_sample = jax.vmap(grad, (None, 0))(parameters, many)
    for name, arrays in per_sample.items():
        np.testing.assert_array_equal(arrays, jnp.stack([grad(parameters, x)[name] for x in many]))


def test_gradients_of_float64_are_those_of_differences():
    with jax.enable_x64(True):
        _, parameters, x, hx = made("float64", num_layers=2)
        check_grads(lstm, (parameters, x, hx), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_other_derivatives_are_errors():
    _, parameters, x, _ = made()

    def loss(x):
        return (lstm(parameters, x)[0] ** 2).sum()

    with pytest.raises(NotImplementedError, match="second derivatives"):
        jax.grad(lambda x: (jax.grad(loss)(x) ** 2).sum())(x)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (x,), (x,))


def test_what_does_not_fit_is_an_error():
    _, parameters, x, hx = made()
    with pytest.raises(RuntimeError, match=r"input\.size\(-1\) must be equal to input_size"):
        jax.jit(lstm)(parameters, x[..., :2])
    with pytest.raises(RuntimeError, match=r"Expected hidden\[1\] size"):
        jax.jit(lstm)(parameters, x, (hx[0], hx[1][:, :1]))
    with pytest.raises(ValueError, match="weight_hh_l0 must have shape"):
        lstm(parameters | {"weight_hh_l0": jnp.zeros((16, 5))}, x)
    with pytest.raises(TypeError, match="float16"):
        lstm({name: array.astype("float16") for name, array in parameters.items()}, x)


def both_ways(monkeypatch):
    """Calls through XLA's interface, then through callbacks."""
    assert host_calls.has_handlers()
    yield "handlers"
    jax.clear_caches()
    monkeypatch.setattr(host_calls, "has_handlers", lambda: False)
    yield "callbacks"
    jax.clear_caches()


@pytest.mark.parametrize("lengths", [[5, 2], [1, 3], [0, 4], [0, 0]], ids=str)
def test_lengths_are_those_of_numlstm(lengths, monkeypatch):
    own, parameters, x, hx = made(num_layers=2, bidirectional=True)
    d_output = np.random.default_rng(2).standard_normal((5, 2, 8)).astype("float32")
    d_hx = tuple(np.ones_like(state) for state in hx)
    (output, states), backward = own.vjp(x, hx, lengths=lengths)
    want = backward(d_output, d_hx)
    padded = x.copy()
    for row, length in enumerate(lengths):
        padded[length:, row] = np.nan  # not read

    def loss(parameters, x, hx, lengths):
        output, states = lstm(parameters, x, hx, lengths=lengths)
        return (output * d_output).sum() + sum(state.sum() for state in states)

    for _ in both_ways(monkeypatch):
        got, of_states = jax.jit(lambda p, x, hx, n: lstm(p, x, hx, lengths=n))(
            parameters, padded, hx, jnp.array(lengths)
        )
        for mine, theirs in zip((got, *of_states), (output, *states), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        of_parameters, of_x, of_hx = jax.jit(jax.grad(loss, (0, 1, 2)))(parameters, padded, hx, jnp.array(lengths))
        for mine, theirs in zip((of_x, *of_hx), (want.input, *want.hx), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for name, array in of_parameters.items():
            np.testing.assert_array_equal(array, want.parameters[name])
        first = lstm(parameters, padded.swapaxes(0, 1), hx, lengths=lengths, batch_first=True)[0]
        np.testing.assert_array_equal(first, output.swapaxes(0, 1))


def test_vmap_of_lengths():
    _, parameters, x, _ = made()
    lengths = jnp.array([[5, 2], [1, 4]])
    got = jax.vmap(lambda n: lstm(parameters, x, lengths=n)[0])(lengths)
    for mine, each in zip(got, lengths, strict=True):
        np.testing.assert_array_equal(mine, lstm(parameters, x, lengths=each)[0])


@pytest.mark.parametrize("lengths", [None, [5, 2]], ids=str)
def test_dropout_is_drawn_from_a_key(lengths):
    _, parameters, x, _ = made(num_layers=2)
    lower = {name: array for name, array in parameters.items() if "_l0" in name}
    upper = {name.replace("_l1", "_l0"): array for name, array in parameters.items() if "_l1" in name}
    key = jax.random.key(3)

    @jax.jit
    def loss(parameters, x, key):
        return (lstm(parameters, x, lengths=lengths, dropout=0.5, key=key)[0] ** 2).sum()

    def by_layers(parameters, x):
        mask = jax.random.bernoulli(key, 0.5, (1, 5, 2, 4))[0] / 0.5
        of_lower, of_upper = ({n: parameters[n if k == 0 else n.replace("_l0", "_l1")] for n in part}
                              for k, part in enumerate((lower, upper)))  # fmt: skip
        below = lstm(of_lower, x, lengths=lengths)[0] * mask
        return (lstm(of_upper, below, lengths=lengths)[0] ** 2).sum()

    want = jax.value_and_grad(by_layers, (0, 1))(parameters, x)
    got = jax.value_and_grad(loss, (0, 1))(parameters, x, key)
    for mine, theirs in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    assert loss(parameters, x, key) != loss(parameters, x, jax.random.key(4))
    without = lstm(parameters, x, dropout=0.5, key=key)[0]  # in a forward pass alone too
    assert not np.array_equal(without, lstm(parameters, x)[0])
    one_layer = lstm(lower, x, dropout=0.5)[0]
    np.testing.assert_array_equal(one_layer, lstm(lower, x)[0])


def test_what_lengths_and_dropout_refuse():
    _, parameters, x, _ = made(num_layers=2)
    with pytest.raises(RuntimeError, match="at most 5, the number of steps"):
        lstm(parameters, x, lengths=[6, 1])
    with pytest.raises(jax.errors.JaxRuntimeError, match="at most 5, the number of steps, but found 6"):
        jax.jit(lambda n: lstm(parameters, x, lengths=n)[0])(jnp.array([6, 1])).block_until_ready()
    with pytest.raises(RuntimeError, match=r"equal to batch_size, but got 3 \(batch_size=2\)"):
        jax.jit(lambda n: lstm(parameters, x, lengths=n)[0])(jnp.array([1, 1, 1]))
    with pytest.raises(TypeError, match="whole numbers"):
        jax.jit(lambda n: lstm(parameters, x, lengths=n)[0])(jnp.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="the input is unbatched"):
        lstm(parameters, x[:, 0], lengths=[5])
    with pytest.raises(ValueError, match=r"drawn from a key\nPass key="):
        lstm(parameters, x, dropout=0.5)
    with pytest.raises(ValueError, match=r"in range \[0, 1\]"):
        lstm(parameters, x, dropout=1.5, key=jax.random.key(0))


def test_a_handler_that_does_not_work_is_not_used(monkeypatch):
    """As with an XLA whose frames are laid out in another way: the probe sees it, and callbacks serve."""
    _, parameters, x, _ = made()
    want = lstm(parameters, x)[0]
    for faulty in ({11: np.dtype(np.int16), 12: np.dtype(np.int16)}, {}):  # wrong numbers; an error
        with monkeypatch.context() as changed:
            changed.setattr(host_calls, "NUMBERS", faulty)
            host_calls.has_handlers.cache_clear()
            jax.clear_caches()
            assert not host_calls.has_handlers()
            np.testing.assert_array_equal(lstm(parameters, x)[0], want)
    host_calls.has_handlers.cache_clear()
    jax.clear_caches()
    assert host_calls.has_handlers()
