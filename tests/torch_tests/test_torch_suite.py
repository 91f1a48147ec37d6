"""PyTorch's own tests of LSTMs that need gradients, on numlstm.torch: module samples, and cases of its test_nn.py."""

import pytest
from needs import need

torch = need("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import rnn  # noqa: E402
from torch_lstms import assert_near, floats, gradients, pair, ran_here  # noqa: E402

from numlstm.torch import LSTM  # noqa: E402

pytestmark = pytest.mark.cpu_level


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_module_samples(dtype, training):
    """``TestModule.test_grad`` for ``torch.nn.LSTM``, on every sample."""
    need("expecttest")
    from torch.testing._internal.common_modules import module_inputs_torch_nn_LSTM

    samples = module_inputs_torch_nn_LSTM(None, "cpu", dtype, True, training)
    assert len(samples) >= 16
    for sample in samples:
        of_module, of_call = sample.constructor_input, sample.forward_input
        named = of_module.kwargs | {"dtype": dtype}
        theirs, ours = (kind(*of_module.args, **named).train(training) for kind in (nn.LSTM, LSTM))
        ours.load_state_dict(theirs.state_dict())
        results = []
        for module in (ours, theirs):
            torch.manual_seed(1)
            given = [
                tuple(state.detach() for state in part) if isinstance(part, tuple) else part.detach()
                for part in of_call.args
            ]
            results.append(gradients(module, given[0], given[1] if len(given) > 1 else None))
        (got, of_ours), (want, of_theirs) = results
        bound = 2e-5 if dtype is torch.float32 else 2e-13
        assert_near([*got, *of_ours], [*want, *of_theirs], bound)
        if not training:
            call = [part.requires_grad_() for part in floats(tuple(of_call.args))]
            if dtype is torch.float64 and len(call) == 1:
                assert torch.autograd.gradcheck(lambda x: ours(x)[0], call)  # noqa: B023


def test_rnn_input_size_zero():
    ours, theirs = pair(hidden_size=4)
    for module in (ours, theirs):
        x = torch.zeros((5, 0, 3), requires_grad=True)
        output, (h_n, c_n) = module(x)
        assert output.shape == (5, 0, 4) and h_n.shape == c_n.shape == (1, 0, 4)
        output.sum().backward()
        assert x.grad.shape == x.shape
        assert all(not parameter.grad.any() for parameter in module.parameters())


def test_rnn_retain_variables():
    """Three passes back, the first two of which keep the graph."""
    ours, _ = pair(input_size=10, hidden_size=20, num_layers=2)
    x = torch.randn(5, 6, 10, requires_grad=True)
    output, _ = ours(x)
    (output.sum()).backward(retain_graph=True)
    grads = [x.grad.clone(), *(parameter.grad.clone() for parameter in ours.parameters())]
    for _ in range(4):
        ours.zero_grad()
        x.grad = None
        output.sum().backward(retain_graph=True)
        for grad, again in zip(grads, [x.grad, *(p.grad for p in ours.parameters())], strict=True):
            assert torch.equal(grad, again)


@pytest.mark.parametrize("with_hx", [False, True])
def test_variable_sequence(with_hx):
    """A packed batch against each of its sequences alone: outputs, states and all gradients."""
    ours, _ = pair(input_size=3, hidden_size=4, num_layers=2, bidirectional=True, dtype=torch.float64)
    lengths = [10, 10, 6, 2, 2, 1, 1]
    x = torch.randn(10, len(lengths), 3, dtype=torch.float64, requires_grad=True)
    hx = tuple(torch.randn(4, len(lengths), 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    leaves = [x, *(hx if with_hx else ()), *ours.parameters()]
    output, states = ours(rnn.pack_padded_sequence(x, lengths), hx if with_hx else None)
    assert ran_here(output.data)
    padded, _ = rnn.pad_packed_sequence(output)
    each = [
        ours(x[:n, k : k + 1], tuple(state[:, k : k + 1] for state in hx) if with_hx else None)
        for k, n in enumerate(lengths)
    ]
    alone = rnn.pad_sequence([one[0].squeeze(1) for one in each])
    of_each = tuple(torch.cat([one[1][part] for one in each], 1) for part in range(2))
    assert torch.equal(padded, alone) and all(map(torch.equal, states, of_each))
    weights = torch.randn_like(padded)
    got = torch.autograd.grad((padded * weights).sum() + states[1].pow(2).sum(), leaves)
    want = torch.autograd.grad((alone * weights).sum() + of_each[1].pow(2).sum(), leaves)
    assert_near(got, want, 1e-12)


def test_lstm_grad_and_gradgrad():
    """First derivatives pass; the second ones, which PyTorch has, are an error that says so."""
    ours, _ = pair(input_size=4, hidden_size=4, bias=True, dtype=torch.float64)
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ours(x)[0], (x,))
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.gradgradcheck(lambda x: ours(x)[0], (x,))
