"""LSTMs of numlstm.torch beside PyTorch's, and their results and gradients."""

from needs import need

torch = need("torch")
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_sequence  # noqa: E402

from numlstm.torch import LSTM  # noqa: E402

BOUND = {torch.float32: 2e-5, torch.float64: 2e-13}
SIZES = {"input_size": 3, "hidden_size": 5}


def pair(seed=0, **flags):
    """The same LSTM of numlstm and of PyTorch."""
    flags = SIZES | flags
    torch.manual_seed(seed)
    theirs = nn.LSTM(**flags)
    ours = LSTM(**flags)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def tensors(result):
    """All tensors of a result."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for item in result for tensor in tensors(item)] if isinstance(result, tuple) else []


def floats(result):
    return [tensor for tensor in tensors(result) if tensor.is_floating_point()]


def gradients(module, x, hx):
    """Results of a call, and gradients of a loss that weighs each number differently."""
    leaves = floats((x.data if isinstance(x, PackedSequence) else x, *(hx or ())))
    for leaf in leaves:
        leaf.requires_grad_()
    results = floats(module(x, hx))
    random = torch.Generator().manual_seed(7)
    loss = sum((r * torch.randn(r.shape, generator=random, dtype=r.dtype)).sum() for r in results)
    return results, torch.autograd.grad(loss, [*leaves, *module.parameters()])


def assert_near(got, want, bound):
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        assert (mine - theirs).abs().max() <= bound * max(1, theirs.abs().max())


def states(module, *rows, dtype=torch.float32):
    cells = module.num_layers * (2 if module.bidirectional else 1)
    return tuple(
        torch.randn(cells, *rows, size, dtype=dtype)
        for size in (module.proj_size or module.hidden_size, module.hidden_size)
    )


def given(module, kind, dtype):
    """An input and the rows of its states."""
    if kind == "packed":
        return pack_sequence([torch.randn(n, 3, dtype=dtype) for n in (2, 6, 1, 4)], enforce_sorted=False), (4,)
    if kind == "unbatched":
        return torch.randn(6, 3, dtype=dtype), ()
    return torch.randn(*((4, 6) if module.batch_first else (6, 4)), 3, dtype=dtype), (4,)


def ran_here(tensor):
    """Whether numlstm made it: its function is among those that did."""
    return "RunLSTM" in str(tensor.grad_fn) or any(
        "RunLSTM" in str(function) for function, _ in tensor.grad_fn.next_functions
    )
