"""numlstm.torch: results, gradients and exceptions of torch.nn.LSTM, and what PyTorch does with a module besides."""

import copy
import io
import itertools

import numpy as np
import pytest
from needs import need

import numlstm

torch = need("torch")
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_sequence  # noqa: E402
from torch_lstms import BOUND, assert_near, floats, given, gradients, pair, ran_here, states  # noqa: E402

from numlstm.torch import LSTM, accelerate  # noqa: E402

pytestmark = pytest.mark.cpu_level


@pytest.mark.parametrize("nth", [11, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("kind", ["batch", "unbatched", "packed"])
def test_results_and_gradients_are_pytorchs(kind, dtype, nth):
    every = itertools.product((1, 2), (False, True), (False, True), (0, 2), (False, True), (False, True))
    for layers, both, bias, proj, batch_first, with_hx in list(every)[::nth]:
        ours, theirs = pair(
            num_layers=layers, bidirectional=both, bias=bias, proj_size=proj, batch_first=batch_first, dtype=dtype
        )
        x, rows = given(ours, kind, dtype)
        hx = states(ours, *rows, dtype=dtype) if with_hx else None
        results, grads = gradients(ours, x, hx)
        want, of_theirs = gradients(theirs, x, hx)
        assert_near([*results, *grads], [*want, *of_theirs], BOUND[dtype])
        assert ran_here(results[0])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_dropout_is_that_of_pytorch_for_the_same_seed(packed, both):
    ours, theirs = pair(num_layers=3, dropout=0.4, bidirectional=both)
    x, rows = given(ours, "packed" if packed else "batch", torch.float32)
    hx = states(ours, *rows)
    torch.manual_seed(3)
    want = gradients(theirs, x, hx)
    torch.manual_seed(3)
    got = gradients(ours, x, hx)
    assert_near(got[0] + list(got[1]), want[0] + list(want[1]), 2e-5)
    with torch.no_grad():
        torch.manual_seed(3)
        np.testing.assert_array_equal(floats(ours(x, hx))[0].numpy(), got[0][0].detach().numpy())
    assert not torch.equal(floats(ours.eval()(x, hx))[0], got[0][0])


def test_without_gradients_the_bits_are_those_with_them_and_numlstms_own():
    ours, _ = pair(num_layers=2, bidirectional=True, batch_first=True)
    alone = numlstm.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    alone.load_state_dict(ours.state_dict())
    for kind in ("batch", "unbatched", "packed"):
        x, rows = given(ours, kind, torch.float32)
        hx = states(ours, *rows)
        kept = floats(ours(x, hx))
        with torch.no_grad():
            quick = floats(ours(x, hx))
        with torch.inference_mode():
            inferred = floats(ours(x, hx))
        output, of_states = alone(x, hx)
        want = [output.data if kind == "packed" else output, *of_states]
        for results in (kept, quick, inferred):
            for mine, theirs in zip(results, want, strict=True):
                np.testing.assert_array_equal(mine.detach().numpy(), theirs)
        assert not quick[0].requires_grad and not inferred[0].requires_grad


def test_only_some_gradients_are_asked_for():
    ours, theirs = pair()
    x, _ = given(ours, "batch", torch.float32)
    for module in (ours, theirs):
        module.weight_hh_l0.requires_grad_(False)
        _, (_, c_n) = module(x)
        c_n.sum().backward()
    assert ours.weight_hh_l0.grad is None
    for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
        assert_near([getattr(ours, name).grad], [getattr(theirs, name).grad], 2e-5)
    for module in (ours, theirs):
        module.requires_grad_(False)
    grads = []
    for module in (ours, theirs):
        leaf = x.clone().requires_grad_()
        module(leaf)[0][-1].pow(2).sum().backward()  # through an expanded and a sliced gradient
        grads.append(leaf.grad)
    assert_near(grads[:1], grads[1:], 2e-5)


# ---------------------------------------------------------------- autograd


@pytest.mark.parametrize("kind", ["unbatched", pytest.param("packed", marks=pytest.mark.slow)])
def test_gradcheck(kind):
    ours, _ = pair(hidden_size=3, num_layers=2, bidirectional=True, proj_size=2, dtype=torch.float64)
    x, rows = given(ours, kind, torch.float64)
    hx = tuple(state.requires_grad_() for state in states(ours, *rows, dtype=torch.float64))

    def run(data, h_0, c_0, *_):
        return tuple(floats(ours(x._replace(data=data) if kind == "packed" else data, (h_0, c_0))))

    data = (x.data if kind == "packed" else x).requires_grad_()
    assert torch.autograd.gradcheck(run, (data, *hx, *ours.parameters()))


def test_a_weight_changed_between_the_passes_is_an_error():
    ours, _ = pair()
    output, _ = ours(torch.randn(6, 4, 3))
    with torch.no_grad():
        ours.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_an_input_or_output_changed_between_the_passes_is_not_used():
    ours, theirs = pair()
    x = torch.randn(6, 4, 3)
    results, want = gradients(theirs, x.clone(), None)
    other = x.clone()
    output, _ = ours(other)
    other.zero_()
    output.data.zero_()
    random = torch.Generator().manual_seed(7)
    grads = torch.autograd.grad(output, list(ours.parameters()), torch.randn(output.shape, generator=random))
    loss = theirs(x)[0]
    random = torch.Generator().manual_seed(7)
    want = torch.autograd.grad(loss, list(theirs.parameters()), torch.randn(loss.shape, generator=random))
    assert_near(grads, want, 2e-5)
    assert len(results) == 3


def write_in_place(module, values):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(values[name])


def write_data(module, values):
    for name, parameter in module.named_parameters():
        parameter.data.copy_(values[name])


def write_numpy(module, values):
    for name, parameter in module.named_parameters():
        parameter.detach().numpy()[...] = values[name]


def replace_data(module, values):
    for name, parameter in module.named_parameters():
        parameter.data = values[name].clone()


def replace_parameters(module, values):
    for name in values:
        setattr(module, name, nn.Parameter(values[name].clone()))


@pytest.mark.parametrize("hidden", [5, 96])
@pytest.mark.parametrize("write", [write_in_place, write_data, write_numpy, replace_data, replace_parameters])
def test_however_weights_are_written_the_next_call_uses_them(write, hidden):
    ours, theirs = pair(hidden_size=hidden)
    x = torch.randn(6, 4, 3)
    for _ in range(3):
        values = {name: torch.randn_like(value) for name, value in theirs.state_dict().items()}
        write(ours, values)
        theirs.load_state_dict(values)
        assert_near(floats(ours(x)), floats(theirs(x)), 2e-5)
        with torch.no_grad():
            assert_near(floats(ours(x)), floats(theirs(x)), 2e-5)
        _, grads = gradients(ours, x, None)
        assert_near(grads, gradients(theirs, x, None)[1], 5e-5)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_training_has_pytorchs_losses(optimiser):
    losses = []
    for module in pair(num_layers=2):
        torch.manual_seed(1)
        head, x, target = nn.Linear(5, 1), torch.randn(6, 4, 3), torch.randn(6, 4, 1)
        steps, optim = [], optimiser([*module.parameters(), *head.parameters()], lr=0.02)
        for _ in range(20):
            optim.zero_grad()
            loss = nn.functional.mse_loss(head(module(x)[0]), target)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optim.step()
            steps.append(loss.item())
        losses.append(steps)
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_backward_twice_and_truncated_backpropagation():
    ours, theirs = pair()
    x, grads = torch.randn(12, 4, 3), []
    for module in (ours, theirs):
        first, state = module(x[:6])
        second, _ = module(x[6:], state)
        loss = (first.sum() + second).pow(2).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        grads.append([parameter.grad for parameter in module.parameters()])
        with pytest.raises(RuntimeError, match="a second time"):
            loss.backward()
        cut, _ = module(x[6:], tuple(s.detach() for s in state))
        assert_near([cut], [second], 1e-6)
    assert_near(*grads, 2e-5)


def test_kept_numbers_are_given_back_with_the_graph():
    ours, _ = pair(hidden_size=32)
    x = torch.randn(50, 4, 3)
    idle = ours._engine(torch.float32).passes.executor
    ours(x)[0].sum().backward()
    addresses = {buffer.ctypes.data for buffer in idle.training.idle}
    for _ in range(20):
        output, _ = ours(x)
        output.sum().backward()  # the output lives on, the graph's memory does not
        assert {buffer.ctypes.data for buffer in idle.training.idle} == addresses


def test_second_derivatives_and_forward_mode_are_errors_that_name_nn_lstm():
    ours, _ = pair(dtype=torch.float64)
    x = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(ours(x)[0].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"second derivatives[\s\S]*torch\.nn\.LSTM"):
        grad.sum().backward()
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: ours(x)[0], (x.detach(),), (x.detach(),))
    with pytest.raises(NotImplementedError, match="forward-mode"), torch.autograd.forward_ad.dual_level():
        ours.requires_grad_(False)(torch.autograd.forward_ad.make_dual(x.detach(), x.detach()))
    with pytest.raises(NotImplementedError, match=r"second derivatives|forward-mode"):
        torch.func.hessian(lambda x: ours(x)[0].sum())(x.detach())


# ---------------------------------------------------------------- torch.func, checkpoints, hooks, AMP


def test_func_grad_vmap_and_per_sample_gradients():
    ours, theirs = pair(dtype=torch.float64)
    batch = torch.randn(3, 6, 4, 3, dtype=torch.float64)

    def loss(parameters, x, module):
        return torch.func.functional_call(module, parameters, (x,))[0].pow(2).sum()

    both = []
    for module in (ours, theirs):
        parameters = {name: value.detach() for name, value in module.named_parameters()}
        grads = torch.func.grad(loss)(parameters, batch[0], module)
        per_sample = [torch.func.grad(loss)(parameters, x, module) for x in batch]
        if module is ours:
            outputs = torch.func.vmap(lambda x: ours(x)[0])(batch)
            with torch.no_grad():
                assert torch.equal(outputs, torch.func.vmap(lambda x: ours(x)[0])(batch))
            stacked = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, None))(parameters, batch, module)
            total = torch.func.grad(
                lambda p: torch.func.vmap(lambda x: loss(p, x, ours))(batch).sum()  # noqa: B023
            )(parameters)
        else:
            outputs = torch.stack([module(x)[0] for x in batch])
            stacked = {name: torch.stack([grad[name] for grad in per_sample]) for name in parameters}
            total = {name: of_each.sum(0) for name, of_each in stacked.items()}
        both.append([outputs, *grads.values(), *stacked.values(), *total.values()])
    assert_near(*both, 2e-13)


def test_checkpoint_and_saved_tensor_hooks():
    from torch.utils.checkpoint import checkpoint

    ours, theirs = pair(num_layers=2, dropout=0.5)
    x = torch.randn(6, 4, 3, requires_grad=True)
    torch.manual_seed(5)
    want = torch.autograd.grad(theirs(x)[0].sum(), x)
    torch.manual_seed(5)
    assert_near(torch.autograd.grad(checkpoint(lambda x: ours(x)[0], x, use_reentrant=False).sum(), x), want, 2e-5)
    for shift in (0, 1):  # copies that do not begin on a cache line

        def pack(tensor, shift=shift):
            room = torch.empty(tensor.numel() + shift, dtype=tensor.dtype)
            room[shift:].copy_(tensor.detach().reshape(-1))
            return room[shift:].view(tensor.shape)

        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = ours(x)[0].sum()
        assert_near(torch.autograd.grad(output, x), want, 2e-5)


def test_hooks_run():
    ours, _ = pair()
    seen = []
    ours.register_forward_pre_hook(lambda module, args: seen.append("before"))
    ours.register_forward_hook(lambda module, args, result: seen.append("after"))
    ours.register_full_backward_hook(lambda module, d_input, d_output: seen.append("backward"))
    ours.weight_hh_l0.register_hook(lambda grad: seen.append("weight"))
    ours(torch.randn(6, 4, 3, requires_grad=True))[0].sum().backward()
    assert sorted(seen) == ["after", "backward", "before", "weight"] and seen[:2] == ["before", "after"]


def test_under_autocast_a_call_runs_in_the_dtype_of_the_parameters():
    ours, theirs = pair()
    linear, x, hx = nn.Linear(3, 3), torch.randn(6, 4, 3, requires_grad=True), states(ours, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        below = linear(x)
        assert below.dtype is torch.bfloat16
        output, (h_n, _) = ours(below, hx)
        plain, _ = ours(x)
        packed, _ = ours(pack_sequence([below[:, 0], below[:2, 1]]))
    assert output.dtype is h_n.dtype is plain.dtype is packed.data.dtype is torch.float32
    assert_near([output], [theirs(below.float(), hx)[0]], 2e-5)
    output.sum().backward()
    assert x.grad.abs().max() > 0 and ours.weight_ih_l0.grad.dtype is torch.float32
    scaler = torch.amp.GradScaler("cpu")
    optim = torch.optim.SGD(ours.parameters(), lr=0.1)
    before = ours.weight_ih_l0.detach().clone()
    optim.zero_grad()
    (scaler.scale(ours(x)[0].sum()) * torch.inf).backward()  # a scale too large makes gradients infinite: no step
    scaler.step(optim)
    assert torch.equal(before, ours.weight_ih_l0) and not ours.weight_ih_l0.grad.isfinite().all()


# ---------------------------------------------------------------- modules


def test_copies_pickles_and_state_dicts():
    ours, theirs = pair(num_layers=2, bidirectional=True)
    x = torch.randn(6, 4, 3)
    want = ours(x)[0]
    twin = copy.deepcopy(ours)
    stream = io.BytesIO()
    torch.save(ours, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    for other in (twin, loaded):
        assert type(other) is LSTM and torch.equal(other(x)[0], want)
    with torch.no_grad():
        twin.weight_ih_l0.add_(1)
    assert not torch.equal(twin(x)[0], want) and torch.equal(ours(x)[0], want)
    assert list(ours.state_dict()) == list(theirs.state_dict()) and repr(ours) == repr(theirs)
    theirs.load_state_dict(ours.state_dict())
    assert ours.double()(x.double())[0].dtype is torch.float64


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m(torch.randn(6, 4, 2)),
        lambda m: m(torch.randn(3)),
        lambda m: m(torch.randn(6, 4, 3, 1)),
        lambda m: m(torch.randn(0, 4, 3)),
        lambda m: m(torch.randn(6, 4, 3).double()),
        lambda m: m(torch.ones(6, 4, 3, dtype=torch.int64)),
        lambda m: m(np.ones((6, 4, 3), np.float32)),
        lambda m: m(torch.randn(6, 4, 3), (torch.zeros(1, 3, 5), torch.zeros(1, 4, 5))),
        lambda m: m(torch.randn(6, 4, 3), (torch.zeros(1, 4, 5), torch.zeros(2, 4, 5))),
        lambda m: m(torch.randn(6, 4, 3), (torch.zeros(4, 5), torch.zeros(4, 5))),
        lambda m: m(torch.randn(6, 3), (torch.zeros(1, 1, 5), torch.zeros(1, 1, 5))),
        lambda m: m(torch.randn(6, 4, 3), (torch.zeros(1, 4, 5).double(), torch.zeros(1, 4, 5).double())),
        lambda m: m(torch.randn(6, 4, 3), torch.zeros(1, 4, 5)),
        lambda m: m(PackedSequence(torch.randn(5, 2), torch.tensor([3, 2]))),
        lambda m: m(),
    ],
)
def test_bad_calls_raise_what_pytorch_raises(call):
    ours, theirs = pair()
    with pytest.raises(Exception) as want:
        call(theirs)
    with pytest.raises(type(want.value)) as got:
        call(ours)
    assert str(got.value) == str(want.value)


@pytest.mark.parametrize(
    ("args", "flags"),
    [((3, 0), {}), ((3, 4.0), {}), ((3, 4), {"proj_size": 4}), ((3, 4), {"dropout": 2}), ((3, 4), {"bias": 1})],
)
def test_bad_sizes_raise_what_pytorch_raises(args, flags):
    with pytest.raises((TypeError, ValueError)) as want:
        nn.LSTM(*args, **flags)
    with pytest.raises(type(want.value)) as got:
        LSTM(*args, **flags)
    assert str(got.value) == str(want.value)


def test_pytorch_runs_what_numlstm_does_not():
    ours, theirs = pair()
    with torch.no_grad():
        empty = torch.randn(6, 0, 3)
        assert ours(empty)[0].shape == theirs(empty)[0].shape == (6, 0, 5)
        x = torch.randn(6, 4, 3)
        assert ours.to("meta")(x.to("meta"))[0].device.type == "meta"
    half = LSTM(3, 5).bfloat16()
    output, _ = half(x.bfloat16())
    assert output.dtype is torch.bfloat16 and not ran_here(output)


def test_a_weight_of_another_shape_is_not_read():
    ours, theirs = pair()
    for module in (ours, theirs):
        module.weight_hh_l0 = nn.Parameter(torch.zeros(20, 4))
    errors = []
    for module in (theirs, ours):
        with pytest.raises(RuntimeError) as caught:
            module.double()(torch.randn(6, 4, 3).double())
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("sizes", [[3, 3], [2, 3], [2, 2], []])
def test_a_packed_sequence_that_does_not_fit_together_is_not_read(sizes):
    ours, _ = pair()
    with pytest.raises((RuntimeError, IndexError)):
        ours(PackedSequence(torch.randn(5, 3), torch.tensor(sizes, dtype=torch.int64)))


# ---------------------------------------------------------------- accelerate


def test_accelerate_keeps_objects_parameters_and_hooks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LSTM(3, 5, num_layers=2), nn.Identity())
    lstm, seen = model[0], []
    parameters = list(lstm.parameters())
    lstm.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(6, 4, 3)
    want = model[0](x)[0]
    assert accelerate(model) == {}
    assert model[0] is lstm and type(lstm) is LSTM and not isinstance(lstm, nn.LSTM)
    assert all(mine is before for mine, before in zip(lstm.parameters(), parameters, strict=True))
    output, _ = model[0](x)
    assert_near([output], [want], 2e-6)
    assert ran_here(output) and seen == [1, 1]
    assert accelerate(model) == {} and type(copy.deepcopy(model)[0]) is LSTM
    alone = nn.LSTM(3, 4)
    assert accelerate(alone) == {} and ran_here(alone(x)[0])
    np.testing.assert_array_equal(numlstm.from_torch(alone)(x)[0], alone(x)[0].detach().numpy())


class Own(nn.LSTM):
    """A subclass."""


def test_accelerate_says_what_it_left_and_why():
    torch.manual_seed(0)
    normed = nn.utils.parametrizations.weight_norm(nn.LSTM(3, 5), "weight_hh_l0")
    patched = nn.LSTM(3, 5)
    patched.forward = lambda x: x
    model = nn.ModuleDict(
        {
            "good": nn.LSTM(3, 5),
            "low": nn.LSTM(3, 5).half(),
            "nowhere": nn.LSTM(3, 5, device="meta"),
            "own": Own(3, 5),
            "normed": normed,
            "patched": patched,
            "scripted": torch.jit.script(nn.LSTM(3, 5)),
            "cell": nn.LSTMCell(3, 5),
            "gru": nn.GRU(3, 5),
        }
    )
    skipped = accelerate(model)
    assert {name: reason.split(",")[0] for name, reason in skipped.items()} == {
        "low": "its parameters are torch.float16",
        "nowhere": "its parameters are on meta",
        "own": "it is a Own",
        "normed": "it is parametrised: remove the parametrisation",
        "patched": "its forward was replaced",
        "scripted": "it is TorchScript: accelerate the model before it is scripted",
        "cell": "it is an LSTMCell",
    }
    assert type(model["good"]) is LSTM and type(model["own"]) is Own
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not str"):
        accelerate("model.pt")


def test_parametrised_pruned_and_tied_weights():
    from torch.nn.utils import prune

    ours, theirs = pair()
    x = torch.randn(6, 4, 3)
    for change in (
        lambda module: nn.utils.parametrizations.weight_norm(module, "weight_hh_l0"),
        lambda module: prune.l1_unstructured(module, "weight_ih_l0", 0.5),
    ):
        for module in (ours, theirs):
            change(module)
        (mine, of_ours), (want, of_theirs) = gradients(ours, x, None), gradients(theirs, x, None)
        assert_near([*mine, *of_ours], [*want, *of_theirs], 2e-5)
        assert ran_here(mine[0])
    first, second = LSTM(3, 5), LSTM(3, 5, num_layers=2)
    second.weight_ih_l0 = first.weight_ih_l0
    for _ in range(2):
        for module in (first, second):
            plain = nn.LSTM(3, 5, num_layers=module.num_layers)
            plain.load_state_dict(module.state_dict())
            assert_near(floats(module(x)), floats(plain(x)), 2e-6)
