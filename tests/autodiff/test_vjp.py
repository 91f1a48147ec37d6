"""Gradients of an LSTM: against the reference for every flag, torch as written down and live, and bit for bit."""

import copy
import gc
import itertools

import numpy as np
import pytest
from golden import make_training
from judge import equal, flip_one_bit, need_longdouble
from needs import need
from samples import data

import numlstm
from numlstm import nn, optim, reference
from numlstm.autodiff import passes, plans
from numlstm.kernels.loading import build, linker, registry
from numlstm.kernels.training import derivatives

pytestmark = pytest.mark.cpu_level

DTYPES = ["float32", "float64"]
# the largest error, as a fraction of the largest number of a gradient
BOUND = {"float32": 1e-5, "float64": 2e-14}
SIZES = [(1, 0), (5, 3), (13, 0), (37, 5), (64, 0), (70, 66)]  # tails of every kind, with and without a projection


def make(hidden, proj, dtype, **flags):
    return numlstm.LSTM(5, hidden, proj_size=proj, dtype=dtype, seed=hidden, **flags).train()


def gradients_for(lstm, steps, batch, seed=1):
    """Gradients of a loss by output, and by h_n and c_n."""
    random = np.random.default_rng(seed)
    _, (h_0, c_0) = data(lstm, steps, batch)
    out = h_0.shape[-1] * (2 if lstm.bidirectional else 1)
    d_output = random.standard_normal((steps, batch, out)).astype(lstm.dtype)
    return d_output, tuple(random.standard_normal(state.shape).astype(lstm.dtype) for state in (h_0, c_0))


def masks_of(lstm, steps, batch, packed=0):
    """The dropout of the next call, as arrays; its generator is left as it was."""
    drop, masks = copy.deepcopy(lstm)._masks(lstm._config), []
    out = (lstm.proj_size or lstm.hidden_size) * (2 if lstm.bidirectional else 1)
    for _ in range(lstm.num_layers - 1):
        mask = np.ones((packed, 1, out) if packed else (steps, batch, out), lstm.dtype)
        drop(mask)
        masks.append(mask)
    return masks


def named(grads):
    """All arrays of gradients by name."""
    found = {"input": grads.input, **grads.parameters}
    return found | ({"h_0": grads.hx[0], "c_0": grads.hx[1]} if grads.hx is not None else {})


def judged(lstm, x, hx, d_output, d_hx, lengths=None, masks=None):
    """The same of the reference."""
    _, backward = reference.vjp(lstm.state_dict(), x, hx, lengths=lengths, masks=masks)
    dx, (dh_0, dc_0), parameters = backward(d_output, d_hx)
    return {"input": dx, **parameters} | ({"h_0": dh_0, "c_0": dc_0} if hx is not None else {})


def far(got, want):
    """The largest difference, as a fraction of the largest number of each gradient."""
    assert got.keys() == want.keys()
    return max(float(np.abs(got[name] - want[name]).max() / max(1e-3, np.abs(want[name]).max())) for name in want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "proj"), SIZES)
def test_gradients_of_every_flag_are_those_of_the_reference(hidden, proj, dtype):
    for layers, directions, bias, kind, with_hx in itertools.product(
        (1, 3), (1, 2), (True, False), ("plain", "lengths", "dropout"), (True, False)
    ):
        if (kind == "dropout" and layers == 1) or (not bias and directions == 2):
            continue
        flags = {"num_layers": layers, "bidirectional": directions == 2, "bias": bias}
        lstm = make(hidden, proj, dtype, dropout=0.4 * (kind == "dropout"), **flags)
        steps, batch = 6, 4
        x, hx = data(lstm, steps, batch)
        hx = hx if with_hx else None
        lengths = [2, 5, 0, 4] if kind == "lengths" else None
        for row, length in enumerate(lengths or ()):
            x[length:, row] = np.nan
        d_output, d_hx = gradients_for(lstm, steps, batch)
        masks = masks_of(lstm, steps, batch) if kind == "dropout" else None
        twin = copy.deepcopy(lstm)
        result, backward = lstm.vjp(x, hx, lengths=lengths)
        assert equal(result, twin(x, hx, lengths=lengths)), (flags, kind)
        got = named(backward(d_output, d_hx))
        assert all(array.dtype == dtype for array in got.values())
        assert far(got, judged(lstm, x, hx, d_output, d_hx, lengths, masks)) < BOUND[dtype], (flags, kind, with_hx)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("hidden", "steps", "batch"), [(8, 1, 1), (40, 150, 1), (12, 33, 3), (16, 3, 130), (20, 200, 9), (33, 2, 257)]
)
def test_sums_over_many_steps_and_rows(hidden, steps, batch, dtype):
    """Runs and chunks that begin and end within the sequence, and steps that are longer than a run."""
    lstm = make(hidden, 0, dtype, num_layers=2)
    x, hx = data(lstm, steps, batch)
    given = gradients_for(lstm, steps, batch)
    _, backward = lstm.vjp(x, hx)
    assert far(named(backward(*given)), judged(lstm, x, hx, *given)) < BOUND[dtype]


@pytest.mark.parametrize("case", [case for case in make_training.LSTMS if case[4] != "dropout"], ids=str)
def test_gradients_are_those_of_autograd_as_written_down(case):
    layers, directions, proj, bias, kind, hx = case
    parameters, arrays = make_training.inputs_of(case)
    lstm = numlstm.LSTM(make_training.INPUTS, make_training.HIDDEN, layers, bias, bidirectional=directions == 2,
                        proj_size=proj, dtype="float64")  # fmt: skip
    lstm.load_state_dict(parameters)
    lengths = make_training.LENGTHS if kind == "lengths" else None
    states = (arrays["h_0"], arrays["c_0"]) if hx else None
    _, backward = lstm.vjp(arrays["x"], states, lengths=lengths)
    got = named(backward(arrays["d_output"], (arrays["d_h_n"], arrays["d_c_n"])))
    prefix, golden = f"lstm {make_training.name_of(case)}/d ", make_training.load()
    names = {"input": "x"}
    assert far(got, {name: golden[prefix + names.get(name, name)] for name in got}) < 1e-13


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "proj"), [(13, 0), (37, 5)])
def test_gradients_of_input_and_states_do_not_see_batch_or_cut(hidden, proj, dtype):
    lstm = make(hidden, proj, dtype, num_layers=2)
    x, (h_0, c_0) = data(lstm, 9, 11)
    d_output, (d_h, d_c) = gradients_for(lstm, 9, 11)
    whole = lstm.vjp(x, (h_0, c_0))[1](d_output, (d_h, d_c))
    for rows in [[4], [0, 10], [3, 1, 2], [*range(2, 9)]]:
        part = lstm.vjp(x[:, rows], (h_0[:, rows], c_0[:, rows]))[1](d_output[:, rows], (d_h[:, rows], d_c[:, rows]))
        assert equal((part.input, *part.hx), (whole.input[:, rows], *(d[:, rows] for d in whole.hx))), rows
    for cut in (1, 4, 8):
        (_, state), first = lstm.vjp(x[:cut], (h_0, c_0))
        _, second = lstm.vjp(x[cut:], state)
        later = second(d_output[cut:], (d_h, d_c))
        sooner = first(d_output[:cut], later.hx)
        assert equal((np.concatenate([sooner.input, later.input]), *sooner.hx), (whole.input, *whole.hx)), cut


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_are_one_computation(dtype):
    """Unbatched, batch_first, packed and padded, and every memory layout and dtype of what is given."""
    lstm = make(37, 5, dtype, num_layers=2, bidirectional=True)
    x, (h_0, c_0) = data(lstm, 6, 4)
    d_output, (d_h, d_c) = gradients_for(lstm, 6, 4)
    want = lstm.vjp(x, (h_0, c_0))[1](d_output, (d_h, d_c))
    lengths = np.full(4, 6)
    assert equal(
        named(lstm.vjp(x, (h_0, c_0), lengths=lengths)[1](d_output, (d_h, d_c))).values(), named(want).values()
    )
    first = copy.deepcopy(lstm)
    first.batch_first = True
    result, backward = first.vjp(x.swapaxes(0, 1), (h_0, c_0))
    assert equal(result, first(x.swapaxes(0, 1), (h_0, c_0)))
    got = backward(d_output.swapaxes(0, 1), (d_h, d_c))
    assert equal(named(got._replace(input=got.input.swapaxes(0, 1))).values(), named(want).values())
    result, backward = lstm.vjp(x[:, 2], (h_0[:, 2], c_0[:, 2]))
    assert equal(result, lstm(x[:, 2], (h_0[:, 2], c_0[:, 2])))
    row = backward(d_output[:, 2], (d_h[:, 2], d_c[:, 2]))
    assert equal((row.input, *row.hx), (want.input[:, 2], *(d[:, 2] for d in want.hx)))
    for other in (
        np.asfortranarray,
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: np.repeat(a, 2, 2)[..., ::2],
    ):
        again = lstm.vjp(other(x), (other(h_0), other(c_0)))[1](other(d_output), (other(d_h), other(d_c)))
        assert equal(named(again).values(), named(want).values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_and_padded_sequences_are_the_same_to_the_bit(dtype):
    lstm = make(13, 0, dtype, num_layers=2, bidirectional=True, dropout=0.3)
    x, hx = data(lstm, 7, 5)
    lengths = [3, 7, 1, 5, 5]
    d_output, d_hx = gradients_for(lstm, 7, 5)
    packed = numlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    d_packed = numlstm.pack_padded_sequence(d_output, lengths, enforce_sorted=False)
    twins = [copy.deepcopy(lstm) for _ in range(3)]
    result, backward = twins[0].vjp(packed, hx)
    want, states = twins[1](packed, hx)
    assert equal((result[0].data, result[1]), (want.data, states))
    got = backward(d_packed, d_hx)
    padded = twins[2].vjp(x, hx, lengths=lengths)[1](d_output, d_hx)
    unpacked, _ = numlstm.pad_packed_sequence(got.input, total_length=7)
    assert equal(named(got._replace(input=unpacked)).values(), named(padded).values())
    for row, length in enumerate(lengths):
        assert not padded.input[length:, row].any()


@pytest.mark.parametrize("with_hx", [True, False])
def test_sequences_without_steps_pass_their_gradients_on(with_hx):
    lstm = make(13, 0, "float32", num_layers=2, bidirectional=True)
    x, hx = data(lstm, 4, 3)
    d_output, d_hx = gradients_for(lstm, 4, 3)
    result, backward = lstm.vjp(x, hx if with_hx else None, lengths=[0, 0, 0])
    assert equal(result, lstm(x, hx if with_hx else None, lengths=[0, 0, 0]))
    grads = backward(d_output, d_hx)
    assert not grads.input.any() and not any(array.any() for array in grads.parameters.values())
    assert equal(grads.hx, d_hx) if with_hx else grads.hx is None


def test_backward_is_pure_and_owns_what_it_needs():
    lstm = make(13, 0, "float32", num_layers=2)
    x, hx = data(lstm, 5, 3)
    d_output, d_hx = gradients_for(lstm, 5, 3)
    (output, states), backward = lstm.vjp(x, hx)
    want = backward(d_output, d_hx)
    kept = copy.deepcopy(want)
    for array in (x, *hx, output, *states):
        array[...] = 9
    optim.SGD(lstm, lr=1).step(want.parameters)
    lstm.vjp(x, hx)
    for array in named(want).values():
        array[...] = 7
    assert equal(named(backward(d_output, d_hx)).values(), named(kept).values())
    lstm.double()
    assert equal(named(backward(d_output, d_hx)).values(), named(kept).values())
    assert backward(d_output, d_hx, input_grad=False).input is None
    nothing = backward()
    assert not any(array.any() for array in named(nothing).values())
    apart = backward(d_output), backward(None, d_hx)
    assert np.abs(apart[0].input + apart[1].input - kept.input).max() < 1e-6


def test_weights_are_those_of_the_call():
    """Through changes of the parameters, in turns, with passes back of both."""
    lstm = make(13, 0, "float64")
    x, hx = data(lstm, 4, 2)
    given, passes_back, wants = gradients_for(lstm, 4, 2), [], []
    for scale in (1, 2, 3):
        lstm.weight_hh_l0 = lstm.weight_hh_l0 * scale
        passes_back.append(lstm.vjp(x, hx)[1])
        wants.append(judged(lstm, x, hx, *given))
    for n in (0, 2, 1, 1, 0):
        assert far(named(passes_back[n](*given)), wants[n]) < BOUND["float64"]


def test_nan_and_infinity_stay_in_their_row():
    lstm = make(13, 3, "float32", num_layers=2)
    x, hx = data(lstm, 5, 6)
    given = gradients_for(lstm, 5, 6)
    clean = lstm.vjp(x, hx)[1](*given)
    x[2, 1], x[3, 4] = np.nan, np.inf
    got = lstm.vjp(x, hx)[1](*given)
    others = [0, 2, 3, 5]
    assert equal(got.input[:, others], clean.input[:, others])
    assert equal([d[:, others] for d in got.hx], [d[:, others] for d in clean.hx])
    assert np.isnan(got.input[:, 1]).any() and np.isnan(got.parameters["weight_ih_l0"]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [12, 17, 25, -25, 60])
def test_saturated_gates_keep_the_digits_of_their_gradients(bias, dtype):
    if dtype == "float64":
        need_longdouble()
    lstm = make(32, 0, dtype)
    biases = np.zeros((4, 32))
    biases[0] = biases[3] = bias
    biases[2] = bias / 2
    lstm.load_state_dict({"bias_ih_l0": biases.ravel(), "bias_hh_l0": np.zeros(128)}, strict=False)
    x, hx = data(lstm, 10, 4)
    given = gradients_for(lstm, 10, 4)
    got, want = named(lstm.vjp(x, hx)[1](*given)), judged(lstm, x, hx, *given)
    for gate in (0, 2, 3):
        part = slice(32 * gate, 32 * (gate + 1))
        exact = want["bias_ih_l0"][part]
        error = np.median(np.abs(got["bias_ih_l0"][part] - exact) / np.abs(exact))
        # the rounding of a sum as large as the bias is an error of e to its power
        assert error < {"float32": 1e-6, "float64": 1e-14}[dtype] + np.finfo(dtype).eps / 2 * abs(bias)


KINDS = [("plain", 1.2, 0.03), ("projected", 2.2, 0.09), ("packed", 1.5, 0.09)]


@pytest.mark.parametrize(("kind", "most", "share"), KINDS)
def test_error_is_that_of_torch_at_most(kind, most, share):
    """In float32: the worse of torch's paths and a rounding of the largest entry; ``most`` times that in a ``share``.

    With a projection, and packed, torch has one path alone.
    """
    torch = need("torch")
    random, errors = np.random.default_rng(4), []
    for _ in range(12):
        hidden, inputs, steps, batch = (int(random.integers(2, most)) for most in (70, 40, 30, 9))
        flags = {"num_layers": int(random.integers(1, 4)), "bidirectional": bool(random.integers(2))}
        flags["proj_size"] = int(random.integers(1, hidden)) if kind == "projected" else 0
        lstm = numlstm.LSTM(inputs, hidden, dtype="float32", seed=hidden, **flags)
        x = random.standard_normal((steps, batch, inputs)).astype(np.float32)
        lengths = random.integers(1, steps + 1, batch) if kind == "packed" else None
        (output, _), backward = lstm.vjp(x, lengths=lengths)
        d_output = random.standard_normal(output.shape).astype(np.float32)
        got, want = named(backward(d_output)), judged(lstm, x, None, d_output, None, lengths)
        theirs = []
        for dtype in (torch.float32,) if kind == "packed" else (torch.float32, None):
            twin = torch.nn.LSTM(inputs, hidden, **flags)
            twin.load_state_dict({name: torch.tensor(array) for name, array in lstm.state_dict().items()})
            given = torch.tensor(x, requires_grad=True)
            with torch.backends.mkldnn.flags(enabled=dtype is not None):
                if lengths is None:
                    y, _ = twin(given)
                else:
                    pack = torch.nn.utils.rnn.pack_padded_sequence(given, torch.tensor(lengths), enforce_sorted=False)
                    y, _ = torch.nn.utils.rnn.pad_packed_sequence(twin(pack)[0], total_length=steps)
                y.backward(torch.tensor(d_output))
            theirs.append({"input": given.grad.numpy()} | {n: p.grad.numpy() for n, p in twin.named_parameters()})
        for name, exact in want.items():
            worst, size = max(np.abs(other[name] - exact).max() for other in theirs), np.abs(exact).max()
            errors.append(np.abs(got[name] - exact).max() / (worst + 2.0**-24 * size))
            assert errors[-1] < most, (flags, name)
    assert np.mean(np.array(errors) > 1) < share


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cell(dtype):
    cell = numlstm.LSTMCell(5, 13, dtype=dtype, seed=0)
    random = np.random.default_rng(0)
    x, h, c, d_h, d_c, d_output = (random.standard_normal((4, n)).astype(dtype) for n in (5, 13, 13, 13, 13, 13))
    result, backward = cell.vjp(x, (h, c))
    assert equal(result, cell(x, (h, c)))
    grads = backward(d_output, (d_h, d_c))
    _, of_judge = reference.vjp({f"{n}_l0": v for n, v in cell.state_dict().items()}, x[None], (h[None], c[None]))
    dx, (dh_0, dc_0), parameters = of_judge(None, (d_h[None] + d_output[None], d_c[None]))
    want = {"input": dx[0], "h_0": dh_0[0], "c_0": dc_0[0], **{n[:-3]: v for n, v in parameters.items()}}
    assert far(named(grads), want) < BOUND[dtype]
    result, backward = cell.vjp(x[1], (h[1], c[1]))
    assert equal(result, cell(x[1], (h[1], c[1])))
    row = backward(d_output[1], (d_h[1], d_c[1]))
    assert equal((row.input, *row.hx), (grads.input[1], *(d[1] for d in grads.hx)))
    assert cell.vjp(x)[1](d_output).hx is None


def test_an_empty_batch_and_a_single_step():
    lstm = make(5, 0, "float32", num_layers=2)
    result, backward = lstm.vjp(np.ones((3, 0, 5)))
    assert equal(result, lstm(np.ones((3, 0, 5), np.float32)))
    grads = backward(np.ones((3, 0, 5)))
    assert grads.input.shape == (3, 0, 5) and grads.hx is None
    assert {n: g.shape for n, g in grads.parameters.items()} == {n: p.shape for n, p in lstm.named_parameters()}
    assert not any(g.any() for g in grads.parameters.values())


def test_buffers_are_used_again_and_given_up():
    lstm = make(16, 0, "float32")
    lstm.vjp(np.ones((4, 2, 5)))
    trainer = passes.trainer(lstm._model.executor, lstm._panels)
    random = np.random.default_rng(0)
    for _ in range(300):
        steps, batch = random.integers(1, 30), random.integers(1, 5)
        (output, _), backward = lstm.vjp(np.ones((steps, batch, 5)))
        backward(output)
    del backward
    gc.collect()
    assert len(trainer.idle) <= 4 and len(trainer.transposed) == 1
    (output, _), backward = lstm.vjp(np.ones((4, 2, 5)))
    held = backward._tape.buffer
    assert not any(buffer is held for buffer in trainer.idle)
    del backward
    assert any(buffer is held for buffer in trainer.idle)


def test_a_closed_pass_gives_its_memory_back_and_says_so():
    lstm = make(16, 0, "float32")
    (output, _), backward = lstm.vjp(np.ones((4, 2, 5)))
    want, held = backward(output), backward._tape.buffer
    trainer = passes.trainer(lstm._model.executor, lstm._panels)
    assert not any(buffer is held for buffer in trainer.idle)
    for _ in range(2):
        backward.close()
        assert any(buffer is held for buffer in trainer.idle)
        with pytest.raises(RuntimeError, match=r"was closed.*\nCall vjp again"):
            backward(output)
    assert equal(named(lstm.vjp(np.ones((4, 2, 5)))[1](output)).values(), named(want).values())


def test_what_belongs_to_another_call_is_refused():
    """Gradients of another LSTM's states and output, and after a conversion: the pass is that of its own call."""
    lstm, other = make(16, 0, "float32"), make(13, 0, "float32", num_layers=2)
    (output, states), backward = lstm.vjp(np.ones((4, 2, 5)))
    (foreign, foreign_states), _ = other.vjp(np.ones((4, 2, 5)))
    want = backward(output, states)
    with pytest.raises(ValueError, match=r"d_output must have .* \(4, 2, 16\)\nIts shape is \(4, 2, 13\)"):
        backward(foreign)
    with pytest.raises(ValueError, match=r"of h_n must have .* \(1, 2, 16\)\nIts shape is \(2, 2, 13\)"):
        backward(None, foreign_states)
    lstm.double()
    assert equal(named(backward(output, states)).values(), named(want).values())


SMALL = make(5, 0, "float32", num_layers=2)
X = np.ones((4, 3, 5), np.float32)


@pytest.mark.parametrize(
    ("d_output", "d_hx", "error", "says"),
    [
        (np.ones((4, 3)), None, ValueError, r"d_output must have .* \(4, 3, 5\)\nIts shape is \(4, 3\)"),
        (np.full((4, 3, 5), np.nan), None, ValueError, r"d_output holds NaN\nThere are 60 in 60"),
        ([["a"]], None, TypeError, "d_output must hold real numbers"),
        (None, np.ones((2, 3, 5)), TypeError, "hx"),
        (None, (np.ones((2, 3, 5)), np.ones((1, 3, 5))), ValueError, r"of c_n must have .* \(2, 3, 5\)"),
        (None, (np.full((2, 3, 5), np.nan), np.ones((2, 3, 5))), ValueError, "of h_n holds NaN"),
        (numlstm.pack_sequence([X[:, 0]]), None, TypeError, "It is packed"),
    ],
)
def test_gradients_that_cannot_be_right_are_refused(d_output, d_hx, error, says):
    _, backward = SMALL.vjp(X)
    with pytest.raises(error, match=says):
        backward(d_output, d_hx)
    backward(np.ones((4, 3, 5)))


def test_what_forward_refuses_is_refused_alike():
    for arguments in [(np.ones((4, 3, 6)),), (np.ones(5),), (X, (X, X)), (np.ones((0, 3, 5)),), (["a"],)]:
        messages = []
        for call in (SMALL, SMALL.vjp):
            with pytest.raises((RuntimeError, ValueError, TypeError)) as caught:
                call(*arguments)
            messages.append((caught.type, str(caught.value)))
        assert messages[0] == messages[1]
    with pytest.raises(ValueError, match="memory must be"):
        SMALL.vjp(X, memory="most")
    packed = numlstm.pack_sequence([X[:, 0], X[:2, 1]])
    _, backward = SMALL.vjp(packed)
    with pytest.raises(TypeError, match="packed as the output is"):
        backward(np.ones((6, 5)))
    with pytest.raises(ValueError, match="batch_sizes"):
        backward(numlstm.pack_sequence([X[:, 0], X[:, 1]]))


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_training_goes_as_in_torch(kind):
    """200 steps with a head, clipping and states carried on: the losses of torch."""
    torch = need("torch")
    random = np.random.default_rng(2)
    x = np.sin(np.cumsum(random.random((61, 4, 1)), axis=0)).astype(np.float32)
    lstm, head = numlstm.LSTM(1, 12, 2, seed=0), nn.Linear(12, 1, seed=0)
    twin, their_head = torch.nn.LSTM(1, 12, 2), torch.nn.Linear(12, 1)
    for ours, theirs in ((lstm, twin), (head, their_head)):
        theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    leaves = [*twin.parameters(), *their_head.parameters()]
    options = {"lr": 0.1, "momentum": 0.9} if kind == "SGD" else {"lr": 0.01}
    ours, theirs = getattr(optim, kind)([lstm, head], **options), getattr(torch.optim, kind)(leaves, **options)
    losses, state, their_state = [], None, None
    for step in range(200):
        part = slice(20 * (step % 3), 20 * (step % 3) + 20)
        if step % 3 == 0:
            state = their_state = None
        (output, state), lstm_back = lstm.vjp(x[:-1][part], state)
        prediction, head_back = head.vjp(output)
        value, d_prediction = nn.mse_loss(prediction, x[1:][part])
        of_head = head_back(d_prediction)
        grads = [lstm_back(of_head.input, input_grad=False).parameters, of_head.parameters]
        optim.clip_grad_norm_(grads, 0.5)
        ours.step(grads)
        theirs.zero_grad()
        y, their_state = twin(torch.tensor(x[:-1][part]), their_state)
        their_state = tuple(s.detach() for s in their_state)
        loss = torch.nn.functional.mse_loss(their_head(y), torch.tensor(x[1:][part]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves, 0.5)
        theirs.step()
        losses.append((value, loss.item()))
    assert losses[-1][0] < losses[0][0] / 4
    assert np.abs(np.diff(losses)).max() < 1e-5


def test_an_lstm_learns_xor():
    random = np.random.default_rng(0)
    bits = random.integers(0, 2, (8, 32, 1))
    wanted = bits.sum(axis=0) % 2
    lstm, head = numlstm.LSTM(1, 8, seed=1), nn.Linear(8, 1, seed=1)
    optimiser = optim.Adam([lstm, head], lr=0.02)
    for _ in range(1500):
        (output, _), lstm_back = lstm.vjp(bits)
        logits, head_back = head.vjp(output[-1])
        value, d_logits = nn.binary_cross_entropy_with_logits(logits, wanted)
        if value < 1e-2:
            break
        of_head = head_back(d_logits)
        d_output = np.zeros_like(output)
        d_output[-1] = of_head.input
        optimiser.step([lstm_back(d_output, input_grad=False).parameters, of_head.parameters])
    assert value < 1e-2


def test_the_comparison_of_bits_sees_one():
    lstm = make(13, 0, "float32")
    x, hx = data(lstm, 5, 3)
    given = gradients_for(lstm, 5, 3)
    grads = lstm.vjp(x, hx)[1](*given)
    assert not equal(grads.input, flip_one_bit(grads.input))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["tanh", "runs"])
def test_a_planted_fault_in_a_kernel_is_noticed(fault, monkeypatch):
    """A kernel whose derivative of tanh(c) is wrong, or whose runs are cut elsewhere, gives other gradients."""
    lstm = make(13, 0, "float32")
    x, hx = data(lstm, 80, 3)
    given = gradients_for(lstm, 80, 3)
    want, exact = named(lstm.vjp(x, hx)[1](*given)), judged(lstm, x, hx, *given)
    if fault == "tanh":
        real = derivatives.activations

        def wrong(simd):
            parts = copy.copy(real(simd))
            parts.exp_and_less_one = _doubled(simd, parts.exp_and_less_one)
            return parts

        monkeypatch.setattr(derivatives, "activations", wrong)
        code = build.object_code("float32-training", registry.level())
        kernel = linker.link(code, registry.level(), "planted", 0.0, True)
        monkeypatch.setitem(registry._loaded, "float32-training", kernel)
    else:
        monkeypatch.setattr(plans, "RUN", 16)
    again = make(13, 0, "float32")
    got = named(again.vjp(x, hx)[1](*given))
    if fault == "tanh":
        assert far(got, exact) > BOUND["float32"]
    else:
        assert far(got, exact) < BOUND["float32"] and not equal(list(got.values()), list(want.values()))


def _doubled(simd, right):
    from numlstm.kernels.compiler import inline

    add = simd.add

    @inline
    def exp_and_less_one(x):
        return right(add(x, x))

    return exp_and_less_one
