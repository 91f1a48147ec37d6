"""The contract of LSTM and LSTMCell against PyTorch itself: by values, errors and differences."""

import ast
import copy
import inspect
import itertools
import re
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
from judge import UNIT, flat
from needs import need

import numlstm

torch = need("torch")
need("expecttest")  # what torch's own module samples import
modules = need("torch.testing._internal.common_modules")
rnn = need("torch.nn.modules.rnn")

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

DIFFERENCES = Path(__file__).parent.parent / "docs" / "differences.md"

# Sums of up to a dozen products of numbers around 1, fed back over five steps: in float32 PyTorch is itself up to
# 8 roundings of 1.0 away from its own float64. Both sides may be that far off, in different directions.
ROUNDINGS = 32


def assert_close(got, want):
    for g, w in zip(got, want, strict=True):
        expected = w.detach().numpy()
        assert g.shape == expected.shape and g.dtype == expected.dtype
        error = np.abs(g - expected) / np.maximum(1, np.abs(expected))
        assert error.max(initial=0) <= ROUNDINGS * UNIT[g.dtype], f"off by {error.max() / UNIT[g.dtype]} roundings"


def arrays_of(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


def numpys(value):
    """Tensors as arrays, in tuples too; a torch.dtype as NumPy's."""
    if isinstance(value, tuple | list):
        return type(value)(map(numpys, value))
    if isinstance(value, torch.dtype):
        return np.dtype(str(value).removeprefix("torch."))
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


def outcome(function, *args, **options):
    """What a call raised, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(*args, **options)
    except Exception as error:
        return error
    return None


# ---------------------------------------------------------------- values


FLAGS = {
    "num_layers": (1, 2),
    "bias": (True, False),
    "batch_first": (False, True),
    "bidirectional": (False, True),
    "proj_size": (0, 3),
    "dtype": (torch.float32, torch.float64),
}
PRODUCT = [dict(zip(FLAGS, values, strict=True)) for values in itertools.product(*FLAGS.values())]


def both(options, seed=0):
    torch.manual_seed(seed)
    theirs = torch.nn.LSTM(4, 5, **options)
    ours = numlstm.LSTM(4, 5, **{**options, "dtype": numpys(options["dtype"])})
    ours.load_state_dict(arrays_of(theirs))
    return ours, theirs


def sample(theirs, *, batch, given, steps=5, dtype=torch.float32):
    """Input, or input and states; batch None is unbatched."""
    rows = () if batch is None else (batch,)
    shape = (*rows, steps) if theirs.batch_first else (steps, *rows)
    cells = theirs.num_layers * (1 + theirs.bidirectional)
    x = torch.randn(*shape, 4, dtype=dtype)
    h_0 = torch.randn(cells, *rows, theirs.proj_size or 5, dtype=dtype)
    c_0 = torch.randn(cells, *rows, 5, dtype=dtype)
    return (x, (h_0, c_0)) if given else (x,)


def torch_call(module, *args):
    with torch.no_grad():
        return module(*args)


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("batch", [None, 1, 3, 0], ids=["unbatched", "one", "batched", "empty"])
@pytest.mark.parametrize("options", PRODUCT, ids=lambda o: "-".join(map(str, o.values())))
def test_every_combination_of_flags(options, batch, given):
    ours, theirs = both(options)
    inputs = sample(theirs, batch=batch, given=given, dtype=options["dtype"])
    assert_close(flat(ours(*numpys(inputs))), flat(torch_call(theirs, *inputs)))
    assert repr(ours) == repr(theirs)


@pytest.mark.slow
def test_the_tolerance_is_justified_and_not_loose():
    """PyTorch against its own float64 needs a quarter of it; one part in 10,000 of one bias exceeds it."""
    worst, caught = 0.0, 0
    for options in PRODUCT:
        if options["dtype"] == torch.float64:
            continue
        ours, theirs = both(options)
        inputs = sample(theirs, batch=3, given=True)
        exact = copy.deepcopy(theirs).double()
        wide = (inputs[0].double(), tuple(state.double() for state in inputs[1]))
        for low, high in zip(flat(torch_call(theirs, *inputs)), flat(torch_call(exact, *wide)), strict=True):
            error = (low - high).abs() / high.abs().clamp(min=1)
            worst = max(worst, float(error.max()) / 2.0**-24)
        ours.weight_hh_l0 = ours.weight_hh_l0 * np.float32(1 + 1e-4)
        try:
            assert_close(flat(ours(*numpys(inputs))), flat(torch_call(theirs, *inputs)))
        except AssertionError:
            caught += 1
    assert 0 < worst <= ROUNDINGS / 4 and caught == len(PRODUCT) // 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [None, 1, 3, 0])
@pytest.mark.parametrize("given", [False, True])
def test_cells(batch, bias, given, dtype):
    torch.manual_seed(0)
    theirs = torch.nn.LSTMCell(4, 5, bias=bias, dtype=dtype)
    ours = numlstm.LSTMCell(4, 5, bias=bias, dtype=numpys(dtype))
    ours.load_state_dict(arrays_of(theirs))
    rows = () if batch is None else (batch,)
    x, h, c = (torch.randn(*rows, size, dtype=dtype) for size in (4, 5, 5))
    inputs = (x, (h, c)) if given else (x,)
    assert_close(ours(*numpys(inputs)), torch_call(theirs, *inputs))
    assert repr(ours) == repr(theirs)


def module_samples():
    for name in ("LSTM", "LSTMCell"):
        for dtype in (torch.float32, torch.float64):
            make = getattr(modules, f"module_inputs_torch_nn_{name}")
            for number, found in enumerate(make(None, "cpu", dtype, requires_grad=False, training=False)):
                yield pytest.param(name, dtype, found, id=f"{name}-{dtype}-{number}")


SAMPLES = list(module_samples())


def test_there_are_module_samples():
    assert len(SAMPLES) >= 2 * (32 + 2)


@pytest.mark.parametrize(("name", "dtype", "found"), SAMPLES)
def test_torchs_own_module_samples(name, dtype, found):
    made, given = found.constructor_input, found.forward_input
    theirs = getattr(torch.nn, name)(*made.args, **made.kwargs, dtype=dtype)
    ours = getattr(numlstm, name)(*made.args, **made.kwargs, dtype=numpys(dtype))
    ours.load_state_dict(arrays_of(theirs))
    got = ours(*map(numpys, given.args), **{k: numpys(v) for k, v in given.kwargs.items()})
    want = torch_call(theirs, *given.args, **given.kwargs)
    assert_close(flat(got) if name == "LSTM" else got, flat(want) if name == "LSTM" else want)


def error_samples():
    for name, make in (
        ("LSTM", modules.module_error_inputs_torch_nn_RNN_GRU),
        ("LSTMCell", modules.module_error_inputs_torch_nn_LSTMCell),
    ):
        for number, found in enumerate(make(None, "cpu", torch.float32, requires_grad=False, training=False)):
            yield pytest.param(name, found, id=f"{name}-{number}")


@pytest.mark.parametrize(("name", "found"), list(error_samples()))
def test_torchs_own_error_samples(name, found):
    made, given = found.module_error_input.constructor_input, found.module_error_input.forward_input
    args, options = numpys(made.args), {k: numpys(v) for k, v in made.kwargs.items()}

    def run():
        ours = getattr(numlstm, name)(*args, **options)
        ours(*map(numpys, given.args))

    if "does not match weight dtype" in found.error_regex:
        run()  # converted here: a section of docs/differences.md
        return
    with pytest.raises(found.error_type, match=found.error_regex) as caught:
        run()
    assert type(caught.value) is found.error_type


# ---------------------------------------------------------------- the same names and signatures


def arguments(function, leave_out=()):
    return [
        (p.name, p.default, p.kind)
        for p in inspect.signature(function).parameters.values()
        if p.name not in leave_out and p.kind is not p.VAR_KEYWORD
    ]


def test_signatures():
    theirs = arguments(rnn.RNNBase.__init__, ("mode",))
    assert arguments(numlstm.LSTM.__init__, ("seed", "cell_options")) == theirs and len(theirs) == 11
    assert arguments(numlstm.LSTMCell.__init__, ("seed", "cell_options")) == arguments(torch.nn.LSTMCell.__init__)
    for ours, base in ((numlstm.LSTM, torch.nn.LSTM), (numlstm.LSTMCell, torch.nn.LSTMCell)):
        assert arguments(ours.forward, ("lengths", "out")) == arguments(base.forward)
        for name in ("train", "eval", "named_parameters", "parameters", "reset_parameters", "float", "double", "half"):
            assert arguments(getattr(ours, name)) == arguments(getattr(base, name)), name
        assert arguments(ours.load_state_dict) == arguments(base.load_state_dict, ("assign",))
        keywords = [a for a in arguments(base.state_dict) if a[2] is inspect.Parameter.KEYWORD_ONLY]
        assert arguments(ours.state_dict, ("self",)) == keywords


@pytest.mark.parametrize("options", PRODUCT, ids=lambda o: "-".join(map(str, o.values())))
def test_state_dicts_both_ways(options):
    ours, theirs = both(options)
    for name, value in theirs.state_dict().items():
        assert np.array_equal(getattr(ours, name), value.numpy())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in ours.named_parameters("a")] == [n for n, _ in theirs.named_parameters("a")]
    ours.reset_parameters()
    loaded = theirs.load_state_dict({name: torch.from_numpy(value) for name, value in ours.state_dict().items()})
    assert repr(loaded) == "<All keys matched successfully>"
    for mine, its in zip(ours.all_weights, theirs.all_weights, strict=True):
        for a, b in zip(mine, its, strict=True):
            assert np.array_equal(a, b.detach().numpy()) and a.dtype == b.detach().numpy().dtype
    result = theirs.state_dict()
    ours.load_state_dict(result)  # tensors do as well
    inputs = sample(theirs, batch=2, given=False, dtype=options["dtype"])
    assert_close(flat(ours(*numpys(inputs))), flat(torch_call(theirs, *inputs)))


def test_initial_parameters_have_pytorchs_distribution():
    theirs, ours = torch.nn.LSTM(50, 64), numlstm.LSTM(50, 64, seed=0)
    for name, value in theirs.state_dict().items():
        a, b = np.sort(np.abs(value.numpy()), None), np.sort(np.abs(getattr(ours, name)), None)
        assert max(a[-1], b[-1]) <= np.float32(1 / 8) and np.abs(a - b).max() < 0.02


def test_dropout_of_everything_is_pytorchs():
    theirs = torch.nn.LSTM(3, 4, 2, dropout=1.0)
    ours = numlstm.LSTM(3, 4, 2, dropout=1.0)
    ours.load_state_dict(arrays_of(theirs))
    x = torch.randn(6, 2, 3)
    assert ours.training and theirs.training
    assert_close(flat(ours(x.numpy())), flat(torch_call(theirs, x)))
    assert_close(flat(ours.eval()(x.numpy())), flat(torch_call(theirs.eval(), x)))


def test_the_dropout_warning_is_pytorchs():
    for dropout in (0.5, np.float32(0.25), 1):
        messages = []
        for make in (torch.nn.LSTM, numlstm.LSTM):
            with pytest.warns(UserWarning, match="dropout") as caught:
                make(3, 4, dropout=dropout)
            messages.append([str(w.message) for w in caught])
        assert messages[0] == messages[1]


def test_tensors_are_read():
    theirs = torch.nn.LSTM(3, 4)
    ours = numlstm.LSTM(3, 4)
    ours.load_state_dict(arrays_of(theirs))
    x = torch.randn(5, 2, 3)
    state = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    want = flat(torch_call(theirs, x, state))
    leaf = tuple(s.clone().requires_grad_() for s in state)
    assert_close(flat(ours(x.clone().requires_grad_(), leaf)), want)
    assert_close(flat(ours(x.clone().requires_grad_() * 1, [s * 1 for s in leaf])), want)
    assert_close(flat(ours(torch._neg_view(-x), state)), want)
    assert_close(flat(ours(x.double().mT.contiguous().mT, tuple(s.double() for s in state))), want)
    whole = torch.randint(-4, 5, (5, 2, 3))
    exact = flat(ours(whole.float()))
    for dtype in (torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64):
        assert all(np.array_equal(a, b) for a, b in zip(flat(ours(whole.to(dtype))), exact, strict=True))
    for name in theirs.state_dict():
        setattr(ours, name, getattr(theirs, name).detach().bfloat16())
        assert np.array_equal(getattr(ours, name), getattr(theirs, name).detach().bfloat16().float().numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
    for refused in (x.cfloat(), x > 0, x.to("meta"), x.to_sparse(), quantized):
        with pytest.raises(TypeError, match=r"^input must "):
            ours(refused)
    assert numlstm.LSTM(3, 4, dtype=torch.float64, device=torch.device("cpu")).dtype == np.float64
    assert ours.to(torch.float64).dtype == ours.to(torch.device("cpu")).to(x.double()).dtype == np.float64
    with pytest.raises(TypeError, match=r"dtype must be float32 or float64, not torch\.float16"):
        ours.to(torch.float16)
    with pytest.raises(NotImplementedError, match="device must be None, 'cpu' or 'cuda'"):
        ours.to(torch.device("meta"))


# ---------------------------------------------------------------- errors


class Library:
    """One of the two, under the same names."""

    def __init__(self, name, source, zeros):
        self.name, self.LSTM, self.LSTMCell, self.zeros = name, source.LSTM, source.LSTMCell, zeros


THEIRS = Library("torch", torch.nn, lambda *shape: torch.zeros(shape))
OURS = Library("numlstm", numlstm, lambda *shape: np.zeros(shape, np.float32))


def states(lib, *shapes):
    return tuple(lib.zeros(*shape) for shape in shapes)


def loaded(lib, strict=True, kind="LSTM", **changes):
    module = getattr(lib, kind)(3, 4)
    state = dict(module.state_dict())
    for name, value in changes.items():
        if value == "gone":
            del state[name]
        else:
            state[name] = lib.zeros(*value) if isinstance(value, tuple) else value
    return module.load_state_dict(state, strict=strict)


nan, inf = float("nan"), float("inf")
CONSTRUCTOR = [
    *({"dropout": d} for d in ("abc", None, "0.5", nan, True, np.True_, 1j, -0.1, 1.5, [0.1], np.array(0.5), 10**400)),
    *({"bias": b} for b in (0, 1, None, "True")),
    *({"batch_first": b} for b in (0, 1, None, "False")),
    *({"input_size": s} for s in (0, -1, 3.0, "3", None, nan, inf, np.int64(3), [3])),
    *({"hidden_size": s} for s in (0, -2, 4.0, "4", None, nan, inf, np.int32(4))),
    *(
        {"num_layers": n}
        for n in (0, -1, False, 2.0, "2", None, nan, inf, -inf, np.True_, np.float64(2), np.array([1, 2]))
    ),
    *({"proj_size": p} for p in (-1, 4, 5, inf, "2", None, -inf)),
    {"dropout": 2, "bias": 0, "input_size": 0},  # the order of the checks
    {"bias": 0, "batch_first": 0, "input_size": 0},
    {"input_size": 0, "hidden_size": "4", "num_layers": 0},
    {"hidden_size": 0, "num_layers": 0, "proj_size": -1},
    {"num_layers": 0, "proj_size": 9},
]

# Calls that must raise the same in both libraries: id -> call.
SAME = {
    **{
        f"LSTM({options})": lambda lib, o=options: lib.LSTM(**{"input_size": 3, "hidden_size": 4, **o})
        for options in CONSTRUCTOR
    },
    "input 0-D": lambda lib: lib.LSTM(3, 4)(lib.zeros()),
    "input 1-D": lambda lib: lib.LSTM(3, 4)(lib.zeros(3)),
    "input 4-D": lambda lib: lib.LSTM(3, 4, batch_first=True)(lib.zeros(1, 1, 1, 3)),
    "input size": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 2, 5)),
    "input size 0": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 2, 0)),
    "input size unbatched": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5)),
    "no steps": lambda lib: lib.LSTM(3, 4)(lib.zeros(0, 2, 3)),
    "no steps, no rows": lambda lib: lib.LSTM(3, 4)(lib.zeros(0, 0, 3)),
    "no steps, batch first": lambda lib: lib.LSTM(3, 4, batch_first=True)(lib.zeros(2, 0, 3)),
    "no steps, unbatched": lambda lib: lib.LSTM(3, 4)(lib.zeros(0, 3)),
    "no steps, hx": lambda lib: lib.LSTM(3, 4)(lib.zeros(0, 5, 3), states(lib, (1, 5, 4), (1, 5, 4))),
    "no steps, bad hx": lambda lib: lib.LSTM(3, 4)(lib.zeros(0, 5, 3), states(lib, (1, 6, 4), (1, 6, 4))),
    "no steps, three states": lambda lib: lib.LSTM(3, 4)(lib.zeros(0, 5, 3), states(lib, *[(1, 5, 4)] * 3)),
    "bad input, bad hx": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 2), states(lib, (6, 4), (6, 4))),
    "bad input, bad hx size": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 2), states(lib, (1, 6, 4), (1, 6, 4))),
    "hx 2-D": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 3), states(lib, (1, 4), (1, 4))),
    "hx 0-D": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 3), states(lib, (), ())),
    "hx 2-D and 3-D": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 3), states(lib, (1, 4), (1, 5, 4))),
    "hx 3-D unbatched": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 3), states(lib, (1, 1, 4), (1, 1, 4))),
    "hx mixed unbatched": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 3), states(lib, (1, 4), (1, 1, 4))),
    "h_0 unbatched": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 3), states(lib, (1, 3), (1, 3))),
    "c_0 unbatched": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 3), states(lib, (1, 4), (1, 3))),
    "h_0 batch": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 3), states(lib, (1, 6, 4), (1, 6, 4))),
    "h_0 empty batch": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 0, 3), states(lib, (1, 1, 4), (1, 1, 4))),
    "c_0 batch": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 3), states(lib, (1, 5, 4), (1, 6, 4))),
    "h_0 layers": lambda lib: lib.LSTM(3, 4, 2)(lib.zeros(2, 5, 3), states(lib, (1, 5, 4), (1, 5, 4))),
    "h_0 directions": lambda lib: lib.LSTM(3, 4, bidirectional=True)(
        lib.zeros(2, 5, 3), states(lib, (1, 5, 4), (1, 5, 4))
    ),
    "hx batch first": lambda lib: lib.LSTM(3, 4, batch_first=True)(
        lib.zeros(5, 2, 3), states(lib, (5, 1, 4), (5, 1, 4))
    ),
    "hx swapped": lambda lib: lib.LSTM(3, 4, proj_size=2)(lib.zeros(2, 5, 3), states(lib, (1, 5, 4), (1, 5, 2))),
    "c_0 projected": lambda lib: lib.LSTM(3, 4, proj_size=2)(lib.zeros(2, 5, 3), states(lib, (1, 5, 2), (1, 5, 2))),
    "hx empty": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 3), ()),
    "hx of one": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 3), states(lib, (1, 5, 4))),
    "hx list of one": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 3), list(states(lib, (1, 5, 4)))),
    "hx of three": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 3), states(lib, *[(1, 5, 4)] * 3)),
    "no input": lambda lib: lib.LSTM(3, 4)(),
    "unknown keyword": lambda lib: lib.LSTM(3, 4)(lib.zeros(2, 5, 3), foo=1),
    "train(1)": lambda lib: lib.LSTM(3, 4).train(1),
    "train(None)": lambda lib: lib.LSTMCell(3, 4).train(None),
    "unknown attribute": lambda lib: lib.LSTM(3, 4).weight_foo,
    "no bias": lambda lib: lib.LSTM(3, 4, bias=False).bias_ih_l0,
    "all_weights": lambda lib: setattr(lib.LSTM(3, 4), "all_weights", []),
    "load a list": lambda lib: lib.LSTM(3, 4).load_state_dict([1]),
    "load None": lambda lib: lib.LSTMCell(3, 4).load_state_dict(None),
    "load missing": lambda lib: loaded(lib, bias_ih_l0="gone", weight_ih_l0="gone"),
    "load unexpected": lambda lib: loaded(lib, foo=(1,), bar=(1,)),
    "load sizes": lambda lib: loaded(lib, weight_ih_l0=(16, 5), bias_hh_l0=(5,), weight_hh_l0=()),
    "load no array": lambda lib: loaded(lib, weight_ih_l0=None),
    "load all faults": lambda lib: loaded(lib, weight_ih_l0=(1,), bias_hh_l0=None, bias_ih_l0="gone", foo=(1,)),
    "load sizes, not strict": lambda lib: loaded(lib, strict=False, weight_ih_l0=(16, 5), bias_ih_l0="gone"),
    "load cell": lambda lib: loaded(lib, kind="LSTMCell", weight_ih=(1,), bias_hh="gone", weight_hh_l0=(1,)),
    "cell 0-D": lambda lib: lib.LSTMCell(3, 4)(lib.zeros()),
    "cell 3-D": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(2, 2, 3)),
    "cell input": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 2)),
    "cell input unbatched": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(2)),
    "cell hx[0] 3-D": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (1, 5, 4), (5, 4))),
    "cell hx[1] 4-D": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (5, 4), (1, 1, 5, 4))),
    "cell hx[2] 4-D": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (5, 4), (5, 4), (1, 1, 5, 4))),
    "cell hx 0-D": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (), ())),
    "cell hx empty": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), ()),
    "cell hx of one": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (5, 4))),
    "cell hx of three": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, *[(5, 4)] * 3)),
    "cell hx empty unbatched": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(3), ()),
    "cell hx of one unbatched": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(3), list(states(lib, (4,)))),
    "cell h units": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (5, 3), (5, 3))),
    "cell c units": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (5, 4), (5, 3))),
    "cell h batch": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (6, 4), (6, 4))),
    "cell c batch": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (5, 4), (6, 4))),
    "cell h batch and units": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (6, 3), (6, 3))),
    "cell h units, c batch": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (5, 3), (6, 4))),
    "cell h batch, c units": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (6, 4), (5, 3))),
    "cell input and h": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 2), states(lib, (5, 3), (5, 3))),
    "cell hx 1-D": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (4,), (4,))),
    "cell c 1-D": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(5, 3), states(lib, (5, 4), (4,))),
    "cell hx 1-D of the batch": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(4, 3), states(lib, (4,), (4,))),
    "cell c 1-D of the batch": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(4, 3), states(lib, (4, 4), (4,))),
    "cell empty batch": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(0, 3), states(lib, (1, 4), (1, 4))),
    "cell hx 2-D unbatched": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(3), states(lib, (1, 4), (1, 4))),
    "cell h units unbatched": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(3), states(lib, (3,), (3,))),
    "cell c units unbatched": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(3), states(lib, (4,), (3,))),
    "cell c 2-D unbatched": lambda lib: lib.LSTMCell(3, 4)(lib.zeros(3), states(lib, (4,), (1, 4))),
    "cell no input": lambda lib: lib.LSTMCell(3, 4)(),
    "cell no sizes": lambda lib: lib.LSTMCell(),
    "cell unknown": lambda lib: lib.LSTMCell(3, 4, dropout=0.5),
}


def carries(ours, theirs):
    """Whether every line of their text begins a line of ours, in order, and the first one the first."""
    lines = ours.split("\n")
    expected = [line.rstrip() for line in theirs.split("\n")]
    if not lines[0].startswith(expected[0]):
        return False
    for line in expected:
        while lines and not lines[0].startswith(line):
            lines.pop(0)
        if not lines:
            return False
    return True


def test_carrying_a_text_is_checked():
    assert carries("a b\nc\nd", "a\nd") and carries("a\nmore", "a")
    assert not carries("b\na", "a") and not carries("a\nd\nc", "a\nc\nd") and not carries("", "a")


@pytest.mark.parametrize("name", SAME)
def test_the_same_error(name):
    theirs, ours = outcome(SAME[name], THEIRS), outcome(SAME[name], OURS)
    assert theirs is not None, "PyTorch raises nothing"
    assert type(ours) is type(theirs), f"{ours!r} is not {theirs!r}"
    assert carries(str(ours), str(theirs)), f"\n{ours}\n--- is not ---\n{theirs}"


# Raise statements that these calls reach in PyTorch and that are differences here: the section that says so, and what
# numlstm raises.
DIFFERENT = {
    "Input and states of another dtype are converted": (
        lambda lib: lib.LSTM(3, 4)(np.zeros((2, 2, 3)) if lib is OURS else torch.zeros(2, 2, 3, dtype=torch.float64)),
        None,
    ),
    # PyTorch's own forward lets no other number of dimensions through to this check
    "Methods for autograd, other devices and nested modules are missing": (
        lambda lib: lib.LSTM(3, 4).check_input(lib.zeros(2, 3), None),
        AttributeError,
    ),
}

# Classes whose errors are not ours to raise, and statements that no call of an LSTM or LSTMCell reaches.
OTHER_CLASSES = {"RNN", "GRU", "RNNCell", "GRUCell"}
OUR_CLASSES = {"RNNBase", "LSTM", "RNNCellBase", "LSTMCell"}
UNREACHABLE = {"raise ValueError('Unrecognized RNN mode: ' + mode)": "the mode of an LSTM is 'LSTM'"}


def raises_in(source):
    """(class, text, first line, last line) of every raise statement."""
    found = []

    def visit(node, owner):
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.ClassDef) and owner is None else owner
            if isinstance(child, ast.Raise):
                found.append((inside, ast.unparse(child), child.lineno, child.end_lineno))
            visit(child, inside)

    visit(ast.parse(source), None)
    return found


def uncovered(source, lines):
    """The raise statements that concern us, that are reachable, and that none of these lines is in."""
    return [
        (owner, text)
        for owner, text, first, last in raises_in(source)
        if owner not in OTHER_CLASSES
        and text not in UNREACHABLE
        and not (owner in OUR_CLASSES and any(first <= line <= last for line in lines))
    ]


def lines_reached():
    """Where in rnn.py the calls above raise."""
    lines = set()
    for call in (*SAME.values(), *(call for call, _ in DIFFERENT.values())):
        error = outcome(call, THEIRS)
        assert error is not None
        last = traceback.extract_tb(error.__traceback__)[-1]
        if last.filename == rnn.__file__:
            lines.add(last.lineno)
    return lines


def test_every_raise_of_rnn_py_is_provoked():
    source, lines = Path(rnn.__file__).read_text(), lines_reached()
    assert uncovered(source, lines) == []
    statements = raises_in(source)
    assert sum(owner in OUR_CLASSES for owner, *_ in statements) >= 18 and len(lines) >= 17
    assert {owner for owner, *_ in statements} == OUR_CLASSES - {"RNNCellBase"} | OTHER_CLASSES
    assert all(text in {t for _, t, *_ in statements} for text in UNREACHABLE)

    # the guard fails on a raise statement that is new, and where a call no longer reaches one
    planted = "raise ValueError('planted')"
    inside = source.replace(
        "        self._update_flat_weights()\n\n        orig_input", f"        {planted}\n\n        orig_input"
    )
    assert uncovered(inside, lines) == [("LSTM", planted)]
    new_class = f"{source}\n\nclass Planted(LSTM):\n    def forward(self):\n        {planted}\n"
    assert uncovered(new_class, lines) == [("Planted", planted)]
    for owner, text, first, last in statements:
        if owner in OUR_CLASSES and text not in UNREACHABLE:
            assert uncovered(source, lines - set(range(first, last + 1))) == [(owner, text)]


@pytest.mark.parametrize("section", DIFFERENT)
def test_a_raise_that_is_a_difference(section):
    call, expected = DIFFERENT[section]
    assert outcome(call, THEIRS) is not None and section in sections()
    ours = outcome(call, OURS)
    assert ours is None if expected is None else type(ours) is expected


# ---------------------------------------------------------------- differences


def sections():
    return re.findall(r"^## (.+)$", DIFFERENCES.read_text(), re.MULTILINE)


def raised(kind, function, *args, **options):
    """Whether the call raised exactly that type."""
    return type(outcome(function, *args, **options)) is kind


X = torch.zeros(2, 5, 3)


def torch_takes_tensors_only():
    net = torch.nn.LSTM(3, 4)
    assert all(raised(AttributeError, net, value) for value in ([[1.0, 2.0, 3.0]], X.numpy(), None))


def torch_converts_nothing():
    net = torch.nn.LSTM(3, 4)
    assert all(raised(ValueError, net, X.to(dtype)) for dtype in (torch.float64, torch.int8, torch.float16))
    assert raised(RuntimeError, net, X, (torch.zeros(1, 5, 4).double(),) * 2)
    assert raised(RuntimeError, torch.nn.LSTMCell(3, 4), X[0].double())


def torch_has_more_dtypes():
    assert torch.nn.LSTM(3, 4).half().weight_ih_l0.dtype == torch.float16
    assert torch.nn.LSTM(3, 4, dtype=torch.complex64).weight_ih_l0.dtype == torch.complex64
    assert raised(TypeError, torch.nn.LSTM, 3, 4, dtype=np.float32)
    assert raised(TypeError, torch.nn.LSTM, 3, 4, dtype="float32")


def torch_has_more_devices():
    assert torch.nn.LSTM(3, 4, device="meta").weight_ih_l0.is_meta
    assert raised(RuntimeError, torch.nn.LSTM, 3, 4, device="foo")
    assert raised(TypeError, torch.nn.LSTM, 3, 4, device=3.5) and raised(TypeError, numlstm.LSTM, 3, 4, device=3.5)
    assert issubclass(NotImplementedError, RuntimeError)


def torch_takes_odd_lengths():
    pack, few = torch.nn.utils.rnn.pack_padded_sequence, {"enforce_sorted": False}
    packed = pack(X, [3, 2, 2, 1, 1])
    assert len(packed.data) == 8 and packed.batch_sizes.tolist() == [5, 3, 1], "it does not fit"
    assert pack(X, [2, 1], **few).batch_sizes.tolist() == [2, 1], "three sequences are gone"
    assert raised(RuntimeError, pack, X, [1] * 6, **few) and raised(IndexError, pack, X, [[1]] * 5, **few)
    assert raised(RuntimeError, numlstm.pack_padded_sequence, X, [[1]] * 5, **few)
    assert pack(X, [2.7, 1, 1, 1, 1]).batch_sizes.tolist() == [5, 1] == pack(X, [2, *[True] * 4]).batch_sizes.tolist()
    for lengths in (["a"] * 5, [2**63] * 5, [None] * 5, [1j] * 5, "abcde", None, [[1], 1, 1, 1, 1]):
        assert isinstance(outcome(pack, X, lengths), TypeError | ValueError)
        assert raised(TypeError, numlstm.pack_padded_sequence, X, lengths)
    unpad = torch.nn.utils.rnn.unpad_sequence
    assert [len(part) for part in unpad(X.clone(), torch.tensor([9, -1, 1, 1, 1]))] == [2, 0, 1, 1, 1]
    assert raised(AttributeError, unpad, X.clone(), [1] * 5)


def torch_sorts_as_it_likes():
    lengths = torch.arange(300) % 3 + 1
    theirs = torch.nn.utils.rnn.pack_padded_sequence(torch.zeros(3, 300), lengths, enforce_sorted=False)
    ours = numlstm.pack_padded_sequence(np.zeros((3, 300)), lengths, enforce_sorted=False)
    assert (theirs.batch_sizes.numpy() == ours.batch_sizes).all()
    assert not (theirs.sorted_indices.numpy() == ours.sorted_indices).all()
    assert (ours.sorted_indices == np.argsort(-lengths.numpy(), kind="stable")).all()


def torch_packs_and_pads_tensors_only():
    rnn_utils = torch.nn.utils.rnn
    assert raised(TypeError, rnn_utils.pad_sequence, [[1, 2, 3], [4]]) and raised(
        TypeError, rnn_utils.pack_padded_sequence, [[1, 2]], [1, 1]
    )
    assert raised(AttributeError, rnn_utils.pack_sequence, [[1, 2, 3], [4]])
    given = torch.zeros(2, 5, 3)
    rnn_utils.unpad_sequence(given, torch.tensor([2, 1, 1, 1, 2]))
    assert given.shape == (5, 2, 3), "it has changed"


def torch_checks_packed_sequences_little():
    net, make, sizes = torch.nn.LSTM(3, 4), torch.nn.utils.rnn.PackedSequence, torch.tensor
    ours = numlstm.LSTM(3, 4)
    assert outcome(net, make(torch.ones(4, 3), sizes([2, 1]))) is None
    assert outcome(net, make(torch.ones(2, 3), sizes([2, 0]))) is None
    packed = make(torch.ones(3, 3), sizes([2, 1]), sizes([1, 0]))
    assert outcome(net, packed, (torch.ones(1, 9, 4), torch.ones(1, 9, 4))) is None
    faults = {
        "ones fewer": make(torch.ones(3, 3), sizes([2, 2])),
        "rising": make(torch.ones(3, 3), sizes([1, 2])),
        "negative": make(torch.ones(1, 3), sizes([2, -1])),
        "none": make(torch.ones(0, 3), torch.empty(0, dtype=torch.int64)),
        "0-D": make(torch.ones(3, 3), sizes(3)),
        "1-D data": make(torch.ones(3), sizes([2, 1])),
        "3-D data": make(torch.ones(3, 3, 1), sizes([2, 1])),
        "features": make(torch.ones(3, 2), sizes([2, 1])),
        "indices out of bounds": make(torch.ones(3, 3), sizes([2, 1]), sizes([0, 1]), sizes([0, 7])),
    }
    for name, fault in faults.items():
        assert outcome(net, fault) is not None, name
        assert raised(RuntimeError, ours, fault), name
    for h, c in (((1, 2, 5), (1, 2, 4)), ((1, 2, 4), (1, 2, 5)), ((2, 4), (2, 4)), ((2, 2, 4), (2, 2, 4))):
        assert raised(RuntimeError, ours, packed, (np.ones(h), np.ones(c))), (h, c)
    for odd in (
        make(torch.ones(3, 3), sizes([2, 1]), sizes([0])),
        make(torch.ones(3, 3), sizes([2, 1]), None, sizes([1, 0])),
        make(torch.ones(3, 3), sizes([[2], [1]])),
    ):
        assert outcome(net, odd) is None and raised(RuntimeError, ours, odd)
    assert raised(AttributeError, make, torch.ones(3, 3), [3])
    assert raised(TypeError, numlstm.PackedSequence, np.ones((3, 3)), [1.5])
    assert raised(TypeError, net, make(torch.ones(3, 3), sizes([2.0, 1.0])))


def torch_takes_odd_sizes():
    for options in ({"num_layers": True}, {"proj_size": 0.0}, {"proj_size": False}, {"bidirectional": 1}):
        assert outcome(torch.nn.LSTM, 3, 4, **options) is None
        assert raised(TypeError, numlstm.LSTM, 3, 4, **options)
    for sizes in ((True, 4), (3, True)):
        assert outcome(torch.nn.LSTM, *sizes) is None and raised(TypeError, numlstm.LSTM, *sizes)
    assert outcome(torch.nn.LSTM(3, 4, proj_size=0.0), X) is None
    assert raised(TypeError, torch.nn.LSTM(3, 4, num_layers=True), X)
    assert raised(TypeError, torch.nn.LSTM(3, 4, bidirectional=1), X)
    for size in (2.0, 2.5, nan, True, np.True_):
        theirs, ours = outcome(torch.nn.LSTM, 3, 4, proj_size=size), outcome(numlstm.LSTM, 3, 4, proj_size=size)
        assert type(theirs) is type(ours) is TypeError and "empty()" in str(theirs)


def torch_does_not_check_cells():
    for args in ((0, 4), (3, 0), (True, 4)):
        assert outcome(torch.nn.LSTMCell, *args) is None
        assert isinstance(outcome(numlstm.LSTMCell, *args), ValueError | TypeError)
    assert outcome(torch.nn.LSTMCell, 3, 4, bias=0) is None and raised(TypeError, numlstm.LSTMCell, 3, 4, bias=0)
    assert raised(RuntimeError, torch.nn.LSTMCell, -1, 4) and raised(TypeError, torch.nn.LSTMCell, 3, 4.0)
    assert torch.nn.LSTMCell(np.int64(3), np.int32(4)).weight_hh.shape == (16, 4)


def torch_has_no_memory_error():
    assert raised(TypeError, torch.nn.LSTM, 2**62, 2**62) and raised(RuntimeError, torch.nn.LSTM, 2**40, 2**20)
    assert raised(MemoryError, numlstm.LSTM, 2**62, 2**62) and raised(MemoryError, numlstm.LSTM, 2**40, 2**20)


def torch_names_its_base():
    for args, options in (((), {}), ((3,), {}), ((3, 4), {"foo": 1})):
        theirs, ours = outcome(torch.nn.LSTM, *args, **options), outcome(numlstm.LSTM, *args, **options)
        assert type(theirs) is type(ours) is TypeError
        assert str(theirs) == str(ours).replace("LSTM.", "RNNBase.")
    theirs, ours = (outcome(lib.LSTM, *range(1, 13)) for lib in (THEIRS, OURS))
    assert (
        type(theirs) is type(ours) is TypeError and "positional arguments" in str(theirs) and "RNNBase" in str(theirs)
    )
    ours, theirs = (outcome(lib.LSTM(3, 4), None, None, None) for lib in (THEIRS, OURS))
    assert type(theirs) is type(ours) is TypeError


def torch_has_fewer_keywords():
    assert raised(TypeError, torch.nn.LSTM, 3, 4, seed=0) and raised(TypeError, torch.nn.LSTMCell, 3, 4, seed=0)
    assert raised(TypeError, torch.nn.LSTM(3, 4), X, out=None)
    assert raised(TypeError, torch.nn.LSTM(3, 4), X, lengths=[2] * 5)


def torch_indexes_states():
    net, cell = torch.nn.LSTM(3, 4), torch.nn.LSTMCell(3, 4)
    assert outcome(net, X[:, 0], torch.zeros(2, 1, 4)) is None
    assert outcome(cell, X[0, 0], torch.zeros(2, 4)) is None
    assert outcome(cell, X[0, 0], (torch.zeros(4),) * 3) is None
    assert raised(IndexError, net, X, torch.zeros(1, 5, 4)) and raised(TypeError, net, X, torch.zeros(2, 1, 5, 4))
    assert raised(KeyError, net, X, {"h": 1}) and raised(AttributeError, net, X, (torch.zeros(1, 5, 4), None))


def torch_adds_batched_states():
    theirs = outcome(torch.nn.LSTMCell(3, 4), X[0, 0], (torch.zeros(4, 4), torch.zeros(4, 4)))
    assert type(theirs) is RuntimeError and "must match the size of tensor" in str(theirs)


def torch_has_writable_parameters():
    net = torch.nn.LSTM(3, 4)
    with torch.no_grad():
        net.weight_ih_l0[0] = 7
    assert (net.weight_ih_l0[0] == 7).all()
    assert raised(TypeError, setattr, net, "weight_ih_l0", torch.zeros(16, 3))
    for name, shape in (("weight_ih_l0", (16, 4)), ("weight_ih_l9", (1,))):
        assert outcome(setattr, net, name, torch.nn.Parameter(torch.zeros(shape))) is None
    assert outcome(setattr, net, "weight_hh_l0", None) is None and outcome(delattr, net, "bias_hh_l0") is None


def torch_takes_any_attribute():
    theirs = torch.nn.LSTM(3, 4)
    theirs.batch_frist, theirs.train = True, False
    assert not theirs.batch_first


def torch_changes_anything():
    net = torch.nn.LSTM(3, 4, 2)
    for name, value in (("hidden_size", 5), ("dropout", 2), ("batch_first", 1), ("bidirectional", "x")):
        assert outcome(setattr, net, name, value) is None
        ours = numlstm.LSTM(3, 4, 2)
        assert isinstance(outcome(setattr, ours, name, value), AttributeError | ValueError | TypeError)
    theirs = torch.nn.LSTM(3, 4)
    theirs.batch_first = True
    assert theirs(X)[1][0].shape == (1, 2, 4), "PyTorch's batch_first can be changed too"


def torch_shares_its_state_dict():
    net = torch.nn.LSTM(3, 4)
    net.state_dict()["weight_ih_l0"][:] = 7
    assert (net.weight_ih_l0 == 7).all() and hasattr(net.state_dict(), "_metadata")


def torch_loads_what_fits():
    net = torch.nn.LSTM(3, 4)
    new = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    new["bias_hh_l0"] = torch.zeros(5)
    assert raised(RuntimeError, net.load_state_dict, new) and (net.weight_ih_l0 == 0).all()
    assert raised(RuntimeError, net.load_state_dict, dict(net.state_dict(), bias_hh_l0=[0.0] * 16))
    assert outcome(net.load_state_dict, dict(net.state_dict(), bias_hh_l0=torch.zeros(16).cfloat())) is None
    assert raised(AttributeError, net.load_state_dict, {1: 1}) and raised(
        RuntimeError, numlstm.LSTM(3, 4).load_state_dict, {1: 1}
    )
    assert "assign" in inspect.signature(net.load_state_dict).parameters


def torch_copies_share():
    net = torch.nn.LSTM(3, 4)
    copy.copy(net).bias_hh_l0 = torch.nn.Parameter(torch.ones(16))
    assert (net.bias_hh_l0 == 1).all()


def torch_draws_globally():
    torch.manual_seed(1)
    a, b = torch.nn.LSTM(3, 4), torch.nn.LSTM(3, 4)
    assert not torch.equal(a.weight_ih_l0, b.weight_ih_l0)
    torch.manual_seed(1)
    assert torch.equal(torch.nn.LSTM(3, 4).weight_ih_l0, a.weight_ih_l0)
    assert not np.array_equal(numlstm.LSTM(3, 4, seed=1).weight_ih_l0, a.weight_ih_l0.detach().numpy())


def torch_has_other_bits():
    ours, theirs = both({"num_layers": 2, "dtype": torch.float32})
    inputs = sample(theirs, batch=3, given=True, steps=50)
    got, want = flat(ours(*numpys(inputs))), flat(torch_call(theirs, *inputs))
    assert any(not np.array_equal(g, w.numpy()) for g, w in zip(got, want, strict=True))


def torch_keeps_what_decays():
    cell = torch.nn.LSTMCell(3, 4)
    cell.load_state_dict({name: torch.zeros_like(p) for name, p in cell.state_dict().items()})
    tiny = torch.full((4,), 1e-38)
    h, c = torch_call(cell, torch.zeros(3), (torch.zeros(4), tiny))
    assert (c == tiny / 2).all() and (c > 0).all() and (h > 0).all()


def torch_has_more_methods():
    text = DIFFERENCES.read_text()
    text = text[text.index("## Methods for autograd") :]
    listed = set(re.findall(r"`(\w+)`", text)) - {"vjp", "to", "copy", "non_blocking", "memory_format", "state_dict"}
    missing = set()
    for ours, theirs in (
        (numlstm.LSTM(3, 4), torch.nn.LSTM(3, 4)),
        (numlstm.LSTMCell(3, 4), torch.nn.LSTMCell(3, 4)),
        (numlstm.pack_sequence([[1]]), torch.nn.utils.rnn.pack_sequence([torch.ones(1)])),
    ):
        public = {name for name in dir(theirs) if not name.startswith("_")}
        missing |= {name for name in public if not hasattr(ours, name)}
        assert public - missing >= {"to", "float", "double", "half", "cpu", "cuda"}
    assert missing == listed


CONFIRMED = {
    "Input and states are NumPy arrays or whatever can be read as one": torch_takes_tensors_only,
    "Input and states of another dtype are converted": torch_converts_nothing,
    "The dtype is float32 or float64": torch_has_more_dtypes,
    "The device is the CPU or the first CUDA device": torch_has_more_devices,
    "Lengths are whole numbers from 1 to the number of steps": torch_takes_odd_lengths,
    "Sequences of equal length keep their order": torch_sorts_as_it_likes,
    "What packs and pads takes arrays and lists, and changes neither": torch_packs_and_pads_tensors_only,
    "A packed sequence is checked where it is used": torch_checks_packed_sequences_little,
    "Sizes are whole numbers, flags are bools, and all are checked at once": torch_takes_odd_sizes,
    "LSTMCell checks its sizes and its flag as LSTM does": torch_does_not_check_cells,
    "Sizes too large for memory are a MemoryError": torch_has_no_memory_error,
    "Python's own messages name the class that you made": torch_names_its_base,
    "There are more keyword arguments": torch_has_fewer_keywords,
    "`hx` is a tuple or a list of two": torch_indexes_states,
    "Batched states for an unbatched cell have their own message": torch_adds_batched_states,
    "Parameters are read-only arrays, changed by assignment": torch_has_writable_parameters,
    "Sizes and flags are fixed, and what may change is checked": torch_changes_anything,
    "An LSTM takes no attributes that it does not have": torch_takes_any_attribute,
    "`state_dict()` gives copies": torch_shares_its_state_dict,
    "`load_state_dict()` loads everything or nothing": torch_loads_what_fits,
    "A shallow copy is independent": torch_copies_share,
    "Random numbers are the LSTM's own": torch_draws_globally,
    "Results agree to rounding, not to the bit": torch_has_other_bits,
    "States that have decayed to nothing are zero": torch_keeps_what_decays,
    "Methods for autograd, other devices and nested modules are missing": torch_has_more_methods,
}


def test_every_difference_is_confirmed():
    assert sections() == list(CONFIRMED)
    text = DIFFERENCES.read_text()
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert all("\n>>> " in part for part in parts), "every section has an example, which the doctests run"


@pytest.mark.parametrize("section", CONFIRMED)
def test_pytorch_differs_there(section):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CONFIRMED[section]()


# ---------------------------------------------------------------- from_torch


@pytest.mark.parametrize("options", PRODUCT, ids=lambda o: "-".join(map(str, o.values())))
def test_from_torch(options):
    theirs = torch.nn.LSTM(4, 5, **options)
    ours = numlstm.from_torch(theirs)
    assert type(ours) is numlstm.LSTM and repr(ours) == repr(theirs) and not ours.training
    inputs = sample(theirs, batch=3, given=True, dtype=options["dtype"])
    before = flat(ours(*numpys(inputs)))
    assert_close(before, flat(torch_call(theirs, *inputs)))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
    assert all(np.array_equal(a, b) for a, b in zip(flat(ours(*numpys(inputs))), before, strict=True)), "it is a copy"


def test_from_torch_keeps_dropout_without_warning():
    theirs = torch.nn.LSTM(3, 4, 2, dropout=0.25)
    assert numlstm.from_torch(theirs).dropout == 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        single = torch.nn.LSTM(3, 4, dropout=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numlstm.from_torch(single).dropout == 0.25


@pytest.mark.parametrize("bias", [True, False])
def test_from_torch_cell(bias):
    theirs = torch.nn.LSTMCell(4, 5, bias=bias, dtype=torch.float64)
    ours = numlstm.from_torch(theirs)
    assert type(ours) is numlstm.LSTMCell and repr(ours) == repr(theirs) and ours.dtype == np.float64
    x = torch.randn(2, 4, dtype=torch.float64)
    assert_close(ours(x.numpy()), torch_call(theirs, x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_from_torch_widens_half_precision(dtype):
    theirs = torch.nn.LSTM(3, 4, dtype=dtype)
    ours = numlstm.from_torch(theirs)
    assert ours.dtype == np.float32
    for name, value in theirs.state_dict().items():
        assert np.array_equal(getattr(ours, name), value.float().numpy())


class Plain(torch.nn.LSTM):
    """A subclass that computes what its base does."""


class Doubled(torch.nn.LSTM):
    """A subclass that does not."""

    def forward(self, input, hx=None):
        output, states = super().forward(input, hx)
        return 2 * output, states


def test_from_torch_parametrised_subclass():
    x = torch.randn(5, 2, 3)
    theirs = torch.nn.utils.parametrizations.weight_norm(Plain(3, 4), "weight_hh_l0")
    with torch.no_grad():
        theirs.parametrizations.weight_hh_l0.original0 *= 3
    assert_close(flat(numlstm.from_torch(theirs)(x.numpy())), flat(torch_call(theirs, x)))


def hooked():
    theirs = torch.nn.LSTM(3, 4)
    theirs.register_forward_hook(lambda *args: None)
    return theirs


def patched():
    theirs = torch.nn.LSTM(3, 4)
    theirs.forward = lambda input, hx=None: input
    return theirs


def mixed():
    theirs = torch.nn.LSTM(3, 4)
    theirs.bias_hh_l0 = torch.nn.Parameter(theirs.bias_hh_l0.double())
    return theirs


def resized():
    theirs = torch.nn.LSTM(3, 4)
    theirs.hidden_size = 5
    return theirs


def pair():
    return torch.nn.Sequential(torch.nn.LSTM(3, 4), torch.nn.ModuleDict({"rnn": torch.nn.LSTMCell(3, 4)}))


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(torch.nn.LSTM(3, 4))


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
def test_from_torch_takes_the_only_one_of_a_net(kind):
    theirs = getattr(torch.nn, kind)(3, 4)
    net = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(5, 3), "body": torch.nn.Sequential(theirs, torch.nn.GRU(4, 4))}
    )
    net["again"] = theirs  # shared: still one
    ours = numlstm.from_torch(net)
    assert type(ours) is getattr(numlstm, kind)
    assert all(np.array_equal(ours.state_dict()[name], array) for name, array in arrays_of(theirs).items())


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: torch.nn.GRU(3, 4), TypeError, "not GRU"),
        (lambda: torch.nn.RNNCell(3, 4), TypeError, "not RNNCell"),
        (lambda: torch.nn.LSTM, TypeError, "not type"),
        (lambda: Path("m.pt"), TypeError, "not PosixPath\nnumlstm.load reads a file"),
        (lambda: torch.nn.LSTM(3, 4).state_dict(), TypeError, "not OrderedDict\n.* call load_state_dict"),
        (lambda: torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()), TypeError, "not Sequential$"),
        (pair, TypeError, r"holds 2 of them\nPass one:\n  from_torch\(module.get_submodule\('0'\)\)\n.*'1.rnn'"),
        (lambda: torch.nn.Sequential(Doubled(3, 4)), TypeError, "Doubled has a forward of its own"),
        (scripted, TypeError, "not RecursiveScriptModule"),
        (lambda: torch.ao.nn.quantized.dynamic.LSTM(3, 4), TypeError, "from_torch takes"),
        (lambda: torch.ao.nn.quantizable.LSTM(3, 4), TypeError, "from_torch takes"),
        (lambda: Doubled(3, 4), TypeError, "Doubled has a forward of its own"),
        (patched, TypeError, "LSTM has a forward of its own"),
        (hooked, TypeError, "has forward hooks"),
        (lambda: torch.nn.utils.weight_norm(torch.nn.LSTM(3, 4), "weight_hh_l0"), TypeError, "has forward hooks"),
        (mixed, TypeError, "one dtype, not torch.float32, torch.float64"),
        (resized, ValueError, "weight_ih_l0 must have shape"),
        (lambda: torch.nn.LSTM(3, 4, device="meta"), TypeError, "meta device"),
        (lambda: torch.nn.LSTM(3, 4, dtype=torch.complex64), TypeError, "dtype must be float32 or float64"),
    ],
)
def test_from_torch_refuses(make, error, text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = make()
    with pytest.raises(error, match=text):
        numlstm.from_torch(module)
