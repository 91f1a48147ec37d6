"""The contract of LSTM and LSTMCell as far as it needs no PyTorch: arguments, arrays, aliasing, copies, threads."""

import array as stdlib_array
import contextlib
import copy
import io
import itertools
import pickle
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from judge import bits, equal, flat, same_bits

import numlstm
from numlstm import cell as cell_module
from numlstm import lstm as lstm_module
from numlstm import module
from numlstm.base.validation import shapes
from numlstm.base.validation.out import OVERLAP_WORK
from numlstm.runtime.executor import Executor
from numlstm.runtime.packed_weights import Panels

SMALL = np.random.default_rng(7).integers(0, 5, (4, 3, 6))  # small whole numbers: exact in every dtype


def pair(result):
    """The two states of a cell, in the form of an LSTM's result."""
    return result[0], result


def weights_of(net):
    return {name: np.array(value) for name, value in net.named_parameters()}


def same_weights(net, weights):
    return list(net.state_dict()) == list(weights) and all(same_bits(getattr(net, n), w) for n, w in weights.items())


# ---------------------------------------------------------------- constructor and attributes


def test_attributes_and_defaults():
    net = numlstm.LSTM(6, 4)
    assert (net.input_size, net.hidden_size, net.num_layers, net.proj_size) == (6, 4, 1, 0)
    assert (net.bias, net.batch_first, net.bidirectional, net.training) == (True, False, False, True)
    assert (net.dropout, net.dtype, net.mode) == (0.0, np.dtype("f4"), "LSTM")
    cell = numlstm.LSTMCell(6, 4)
    assert (cell.input_size, cell.hidden_size, cell.bias, cell.dtype, cell.training) == (
        6,
        4,
        True,
        np.dtype("f4"),
        True,
    )


def test_positional_order_is_pytorchs():
    net = numlstm.LSTM(6, 4, 2, False, True, 0.25, True, 3, "cpu", np.float64)
    want = numlstm.LSTM(
        input_size=6,
        hidden_size=4,
        num_layers=2,
        bias=False,
        batch_first=True,
        dropout=0.25,
        bidirectional=True,
        proj_size=3,
        device=None,
        dtype="float64",
    )
    assert repr(net) == repr(want) and net.dtype == want.dtype == np.float64
    cell = numlstm.LSTMCell(6, 4, False, "cpu", np.float64)
    assert repr(cell) == "LSTMCell(6, 4, bias=False)" and cell.dtype == np.float64
    with pytest.raises(TypeError, match="positional"):
        numlstm.LSTM(6, 4, 2, False, True, 0.25, True, 3, "cpu", np.float64, 5)


@pytest.mark.parametrize(
    ("dtype", "want"),
    [(None, "f4"), (np.float32, "f4"), (np.float64, "f8"), ("float64", "f8"), (np.dtype("f8"), "f8"), (float, "f8")],
)
def test_dtypes(dtype, want):
    net = numlstm.LSTM(2, 3, dtype=dtype)
    assert net.dtype == np.dtype(want) == net.weight_ih_l0.dtype == net([[1, 2]])[0].dtype


SWAPPED = np.dtype("f4").newbyteorder("S")


@pytest.mark.parametrize("dtype", ["float16", int, "complex64", SWAPPED, np.longdouble, "nonsense", 3.5, np.zeros(2)])
@pytest.mark.parametrize("kind", [numlstm.LSTM, numlstm.LSTMCell])
def test_other_dtypes_are_refused(kind, dtype):
    with pytest.raises(TypeError, match=r"^dtype must be float32 or float64, not "):
        kind(2, 3, dtype=dtype)
    net = kind(2, 3, seed=0)
    if not isinstance(dtype, np.ndarray):
        before = weights_of(net)
        with pytest.raises(TypeError, match=r"^dtype must be float32 or float64, not "):
            net.to(dtype=dtype)
        assert same_weights(net, before)


@pytest.mark.parametrize("device", ["cuda:1", "mps", "meta", "foo", 1, -1])
def test_other_devices_are_refused(device):
    for make in (numlstm.LSTM, numlstm.LSTMCell):
        with pytest.raises(NotImplementedError, match="device must be None, 'cpu' or 'cuda', not "):
            make(2, 3, device=device)
        with pytest.raises(NotImplementedError, match="device must be None, 'cpu' or 'cuda', not "):
            make(2, 3).to(device)
    for bad in (3.5, True, [0]):
        with pytest.raises(TypeError, match=r"device must be None, 'cpu' or 'cuda', not "):
            numlstm.LSTM(2, 3, device=bad)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", 0])
def test_a_cell_runs_on_the_cpu_alone(device):
    with pytest.raises(NotImplementedError, match="device must be None or 'cpu' for LSTMCell, not "):
        numlstm.LSTMCell(2, 3, device=device)
    with pytest.raises(NotImplementedError, match="Only an LSTM runs on CUDA"):
        numlstm.LSTMCell(2, 3).to(device)


@pytest.mark.parametrize(
    "bad", [0, -1, True, False, 2.0, float("nan"), float("inf"), -float("inf"), "2", None, 1j, [2]]
)
@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers", "proj_size"])
def test_wrong_sizes(name, bad):
    if name == "proj_size" and bad == 0 and type(bad) is int:
        bad = 4  # zero is right there, hidden_size not
    with pytest.raises((TypeError, ValueError)) as caught:
        numlstm.LSTM(**{"input_size": 3, "hidden_size": 4, name: bad})
    assert name in str(caught.value)
    if name in ("input_size", "hidden_size"):
        with pytest.raises((TypeError, ValueError)) as caught:
            numlstm.LSTMCell(**{"input_size": 3, "hidden_size": 4, name: bad})
        assert name in str(caught.value)


def test_numpy_integers_count_where_pytorch_takes_them():
    net = numlstm.LSTM(3, 4, num_layers=np.int64(2), proj_size=np.uint8(2))
    assert (type(net.num_layers), type(net.proj_size)) == (int, int) and (net.num_layers, net.proj_size) == (2, 2)
    assert numlstm.LSTMCell(np.int64(3), np.int32(4)).hidden_size == 4
    with pytest.raises(TypeError, match="input_size should be of type int, got: int64"):
        numlstm.LSTM(np.int64(3), 4)


def test_dropout_warning_points_at_the_caller():
    with pytest.warns(UserWarning, match="non-zero dropout expects num_layers greater than 1") as caught:
        numlstm.LSTM(3, 4, dropout=0.5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numlstm.LSTM(3, 4, 2, dropout=0.5)


@pytest.mark.parametrize("seed", [-1, 2.5, "x"])
def test_wrong_seeds(seed):
    with pytest.raises((TypeError, ValueError), match="seed must be None, a non-negative int"):
        numlstm.LSTM(3, 4, seed=seed)


def test_parameters_come_from_the_seed():
    for kind, options in itertools.product((numlstm.LSTM, numlstm.LSTMCell), ({}, {"dtype": "f8"})):
        net, twin, other = (kind(30, 16, seed=seed, **options) for seed in (3, 3, 4))
        rng, bound = np.random.default_rng(3), 16**-0.5
        for name, value in net.named_parameters():
            assert same_bits(value, rng.uniform(-bound, bound, value.shape).astype(net.dtype))
            assert same_bits(value, getattr(twin, name)) and not same_bits(value, getattr(other, name))
            assert np.abs(value).max() <= bound and np.ptp(value) > 1.5 * bound
        before = weights_of(net)
        net.reset_parameters()
        twin.reset_parameters()
        assert same_weights(net, weights_of(twin))
        assert not any(same_bits(getattr(net, name), value) for name, value in before.items())
    a, b = numlstm.LSTM(3, 4), numlstm.LSTM(3, 4)
    assert not same_bits(a.weight_ih_l0, b.weight_ih_l0)


def test_sizes_too_large():
    for kind in (numlstm.LSTM, numlstm.LSTMCell):
        with pytest.raises(MemoryError, match=r"the parameters of LSTM(Cell)?\(4611686018427387904, 4\) do not fit"):
            kind(2**62, 4)


# ---------------------------------------------------------------- parameters


NAMES = [
    "weight_ih_l0",
    "weight_hh_l0",
    "bias_ih_l0",
    "bias_hh_l0",
    "weight_ih_l1",
    "weight_hh_l1",
    "bias_ih_l1",
    "bias_hh_l1",
]


def test_parameter_names_shapes_and_copies():
    net = numlstm.LSTM(6, 4, 2, seed=0)
    shapes = [(16, 6), (16, 4), (16,), (16,), (16, 4), (16, 4), (16,), (16,)]
    assert list(net.state_dict()) == NAMES == [name for name, _ in net.named_parameters()]
    assert [p.shape for p in net.parameters()] == shapes
    assert [[p.shape for p in cell] for cell in net.all_weights] == [shapes[:4], shapes[4:]]
    assert set(NAMES) < set(dir(net))
    for value in (net.weight_ih_l0, next(net.parameters()), net.all_weights[0][0]):
        assert type(value) is np.ndarray and not value.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 0
    state = net.state_dict()
    before = weights_of(net)
    for value in state.values():
        assert value.flags.writeable and value.flags.owndata
        value[...] = 9
    assert same_weights(net, before)
    assert list(net.state_dict(prefix="rnn.")) == ["rnn." + name for name in NAMES]
    into = {"kept": 1}
    assert net.state_dict(destination=into) is into and list(into) == ["kept", *NAMES]
    assert [name for name, _ in net.named_parameters("rnn")] == ["rnn." + name for name in NAMES]


def test_cell_parameters():
    cell = numlstm.LSTMCell(6, 4, seed=0)
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    assert list(cell.state_dict()) == names == [name for name, _ in cell.named_parameters()]
    assert [p.shape for p in cell.parameters()] == [(16, 6), (16, 4), (16,), (16,)]
    assert not hasattr(cell, "weight_ih_l0")
    without = numlstm.LSTMCell(6, 4, bias=False)
    assert without.bias_ih is None and without.bias_hh is None and list(without.state_dict()) == names[:2]
    assert not hasattr(numlstm.LSTM(6, 4, bias=False), "bias_ih_l0")


@pytest.mark.parametrize("kind", [numlstm.LSTM, numlstm.LSTMCell])
def test_assigning_a_parameter(kind):
    net, name = kind(2, 3, seed=0), "weight_ih" + ("_l0" if kind is numlstm.LSTM else "")
    x = np.ones((1, 2), np.float32)
    before, first = weights_of(net), net(x)[0]
    value = np.arange(24.0).reshape(12, 2)
    setattr(net, name, value)
    assert same_bits(getattr(net, name), value.astype("f4")) and not same_bits(net(x)[0], first)
    value[...] = 0
    assert getattr(net, name).any(), "the parameter is a copy"
    assert same_weights(net, before | {name: getattr(net, name)})
    for bad, error in [
        (np.ones((12, 3)), ValueError),
        (np.ones(24), ValueError),
        (1.0, ValueError),
        (None, TypeError),
        (np.ones((12, 2), complex), TypeError),
        (np.ones((12, 2), bool), TypeError),
    ]:
        after = weights_of(net)
        with pytest.raises(error, match=f"^{name} must "):
            setattr(net, name, bad)
        assert same_weights(net, after)
    for wrong in ("weight_ih_l7", "bias_hh_l0_reverse", "weight_hr_l0"):
        with pytest.raises(AttributeError, match=f"has no parameter '{wrong}'\nIts parameters are weight_ih"):
            setattr(net, wrong, value)
    with pytest.raises(AttributeError, match="cannot be deleted"):
        delattr(net, name)


def test_what_is_fixed_and_what_is_not():
    net = numlstm.LSTM(3, 4, 2, seed=0)
    for name in ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size", "dtype", "mode"):
        with pytest.raises(AttributeError, match=f"^{name} of LSTM"):
            setattr(net, name, getattr(net, name))
    with pytest.raises(AttributeError, match="all_weights"):
        net.all_weights = []
    with pytest.raises(AttributeError, match=r"hidden_size of LSTMCell\(3, 4\) cannot be changed"):
        numlstm.LSTMCell(3, 4).hidden_size = 5
    for name, bad, error in [("dropout", 2, ValueError), ("dropout", "x", ValueError), ("batch_first", 1, TypeError)]:
        with pytest.raises(error):
            setattr(net, name, bad)
    assert repr(net) == "LSTM(3, 4, num_layers=2)"
    with pytest.raises(AttributeError, match="'LSTM' object has no attribute 'label'"):
        net.label = "mine"
    with pytest.raises(AttributeError, match="'LSTM' object has no attribute 'label'"):
        net.label  # noqa: B018

    x = np.random.default_rng(0).standard_normal((5, 2, 3), np.float32)
    want = net(x)
    net.batch_first = True
    got = net(x.swapaxes(0, 1))
    assert equal((got[0].swapaxes(0, 1), got[1]), want)
    assert net(x)[1][0].shape == (2, 5, 4), "shapes seen before the change are forgotten"


def test_load_state_dict():
    net, other = numlstm.LSTM(6, 4, 2, seed=0), numlstm.LSTM(6, 4, 2, seed=1)
    before = weights_of(net)
    result = net.load_state_dict(other.state_dict())
    assert result == ([], []) and repr(result) == str(result) == "<All keys matched successfully>"
    assert same_weights(net, weights_of(other))
    net.load_state_dict({name: value.tolist() for name, value in before.items()})
    assert same_weights(net, before)
    net.load_state_dict({name: value.astype(">f8") for name, value in before.items()})
    assert same_weights(net, before)

    result = net.load_state_dict({"bias_ih_l1": np.ones(16), "extra": None}, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == ([n for n in NAMES if n != "bias_ih_l1"], ["extra"])
    assert repr(result).startswith("_IncompatibleKeys(missing_keys=['weight_ih_l0', ")
    before["bias_ih_l1"] = np.ones(16, np.float32)
    assert same_weights(net, before)

    for bad in (
        {},
        {"x": 1},
        before | {"weight_ih_l0": np.ones((16, 5))},
        before | {"bias_hh_l1": None},
        before | {1: 1},
        before | {"weight_hh_l0": np.ones((16, 4), complex)},
    ):
        with pytest.raises(
            RuntimeError, match=r"^Error\(s\) in loading state_dict for LSTM:\n\t(.|\n)*Nothing was loa"
        ):
            net.load_state_dict({"weight_hh_l1": np.zeros((16, 4))} | bad)
        assert same_weights(net, before)
    with pytest.raises(TypeError, match="Expected state_dict to be dict-like, got <class 'list'>"):
        net.load_state_dict([1])
    net = numlstm.LSTM(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.weight_ih_l0 = np.full((12, 2), 1e300)
    assert np.isinf(net.weight_ih_l0).all()


def test_modes_dtypes_and_devices():
    for net in (numlstm.LSTM(6, 4, seed=0), numlstm.LSTMCell(6, 4, seed=0)):
        assert net.training and net.eval() is net and not net.training and net.train() is net and net.training
        assert net.train(False) is net and not net.training
        for bad in (1, None, "yes"):
            with pytest.raises(ValueError, match="training mode is expected to be boolean"):
                net.train(bad)
        before = weights_of(net)
        assert net.to("cpu") is net.to() is net.cpu() is net.to(None, None) is net
        assert net.double() is net and net.dtype == np.float64
        assert same_weights(net, {name: value.astype("f8") for name, value in before.items()})
        assert net(np.ones((2, 6)))[0].dtype == np.float64
        assert net.to("float32").dtype == np.float32 and same_weights(net, before)
        assert net.to(np.float64).to("cpu", np.float32).to(np.zeros(2)).dtype == np.float64
        assert net.float().dtype == net.to(device="cpu", dtype="f4").dtype == np.float32
        for refused in (net.half, net.bfloat16):
            with pytest.raises(TypeError, match="dtype must be float32 or float64"):
                refused()
        assert net.device == "cpu"
        with pytest.raises(TypeError, match="a device before a dtype"):
            net.to(np.float64, np.float32)
        assert net.dtype == np.float32 and same_weights(net, before)
    assert numlstm.LSTM(2, 3).flatten_parameters() is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "LSTM(6, 4)"),
        ({"num_layers": 2, "bias": False}, "LSTM(6, 4, num_layers=2, bias=False)"),
        ({"proj_size": 2, "batch_first": True}, "LSTM(6, 4, proj_size=2, batch_first=True)"),
        ({"num_layers": 2, "dropout": 1, "bidirectional": True}, "LSTM(6, 4, num_layers=2, dropout=1.0, bidirecti"),
    ],
)
def test_repr(options, text):
    net = numlstm.LSTM(6, 4, **options)
    assert repr(net).startswith(text) and str(net) == repr(net) and net.extra_repr() in repr(net)


def test_a_subclass_keeps_its_name_and_its_forward():
    class Mine(numlstm.LSTM):
        def forward(self, input, hx=None, **options):
            output, states = super().forward(input, hx, **options)
            return -output, states

    net = Mine(3, 4, seed=0)
    x = np.ones((2, 3))
    assert repr(net) == "Mine(3, 4)"
    assert same_bits(net(x)[0], -numlstm.LSTM(3, 4, seed=0)(x)[0])


# ---------------------------------------------------------------- arrays in


class OnlyArray:
    """Another library's array: nothing but ``__array__``."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return self.value


class OnlyDLPack:
    """Another library's array: nothing but DLPack."""

    def __init__(self, value):
        self.value = value

    def __dlpack__(self, **options):
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.value.__dlpack_device__()


def unaligned(value):
    raw = np.zeros(value.size * 4 + 1, np.uint8)
    made = raw[1:].view(np.float32).reshape(value.shape)
    made[...] = value
    assert not made.flags.aligned
    return made


def read_only(value):
    made = value.astype("f4")
    made.flags.writeable = False
    return made


def spread(value):
    made = np.zeros([2 * n for n in value.shape], "f4")[(slice(None, None, 2),) * value.ndim]
    made[...] = value
    return made


KINDS = {
    **{name: (lambda v, name=name: v.astype(name)) for name in ("f2", "f4", "f8", "g", "i1", "u1", "i2", "u4", "i8")},
    **{name: (lambda v, name=name: v.astype(name)) for name in ("u8", ">f2", ">f4", ">f8", ">i4", "<f4", "<i2")},
    "fortran": lambda v: np.asfortranarray(v.astype("f4")),
    "reversed": lambda v: np.flip(np.flip(v.astype("f4")).copy()),
    "transposed": lambda v: np.moveaxis(np.moveaxis(v.astype("f4"), -1, 0).copy(), 0, -1),
    "spread": spread,
    "read-only": read_only,
    "unaligned": unaligned,
    "subclass": lambda v: v.astype("f4").view(type("Sub", (np.ndarray,), {})),
    "masked nowhere": lambda v: np.ma.masked_array(v.astype("f4")),
    "lists": lambda v: v.tolist(),
    "tuples of arrays": lambda v: tuple(v.astype("f4")),
    "memoryview": lambda v: memoryview(np.ascontiguousarray(v.astype("f8"))),
    "__array__": lambda v: OnlyArray(v.astype("f4")),
    "dlpack": lambda v: OnlyDLPack(v.astype("f4")),
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_real_array_is_read(kind, batch_first):
    net = numlstm.LSTM(6, 4, 2, batch_first=batch_first, bidirectional=True, seed=0)
    make = KINDS[kind]
    states = SMALL.reshape(-1)[:48].reshape(4, 3, 4)
    source = SMALL.swapaxes(0, 1) if batch_first else SMALL
    want = net(np.array(source, "f4"), (np.array(states, "f4"), np.array(states[::-1], "f4")))
    x, h_0, c_0 = make(source), make(states), make(states[::-1])
    kept = [np.array(getattr(a, "value", a)) for a in (x, h_0, c_0)]
    got = net(x, (h_0, c_0))
    assert equal(got, want)
    for now, before in zip((x, h_0, c_0), kept, strict=True):
        assert np.array_equal(np.asarray(getattr(now, "value", now)), before)
    for result, given in itertools.product(flat(got), (x, h_0, c_0)):
        assert result.flags.owndata and not np.shares_memory(result, np.asarray(getattr(given, "value", given)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_real_array_is_read_by_a_cell(kind):
    cell, make = numlstm.LSTMCell(6, 4, seed=0), KINDS[kind]
    h_0, c_0 = SMALL[0, :, :4], SMALL[1, :, 2:]
    want = cell(SMALL[0].astype("f4"), (h_0.astype("f4"), c_0.astype("f4")))
    got = cell(make(SMALL[0]), (make(h_0), make(c_0)))
    assert equal(pair(got), pair(want)) and all(a.flags.owndata for a in got)


def test_zero_strides_memory_maps_and_standard_arrays(tmp_path):
    net = numlstm.LSTM(6, 4, seed=0)
    step = np.arange(6, dtype="f4")
    want = net(np.array(np.broadcast_to(step, (4, 3, 6))))
    assert equal(net(np.broadcast_to(step, (4, 3, 6))), want)
    state = np.broadcast_to(np.float32(0), (1, 3, 4))
    assert equal(net(np.broadcast_to(step, (4, 3, 6)), (state, state)), want)
    mapped = np.memmap(tmp_path / "x", "f4", "w+", shape=(4, 3, 6))
    mapped[...] = step
    assert equal(net(mapped), want)
    rows = [stdlib_array.array("f", step) for _ in range(4)]
    assert equal(net(rows), net(np.array(np.broadcast_to(step, (4, 6)))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        assert equal(net(np.matrix(np.broadcast_to(step, (4, 6)))), net(np.broadcast_to(step, (4, 6))))


REFUSED = {
    "complex": lambda shape: np.zeros(shape, complex),
    "bool": lambda shape: np.zeros(shape, bool),
    "object": lambda shape: np.zeros(shape, object),
    "text": lambda shape: np.zeros(shape, "U1"),
    "bytes": lambda shape: np.zeros(shape, "S1"),
    "dates": lambda shape: np.zeros(shape, "M8[s]"),
    "durations": lambda shape: np.zeros(shape, "m8[s]"),
    "records": lambda shape: np.zeros(shape, [("a", "f4")]),
    "masked": lambda shape: np.ma.masked_equal(np.zeros(shape, "f4"), 0),
    "None": lambda shape: None,
    "a word": lambda shape: "input",
    "a dict": lambda shape: {0: 1},
    "huge integers": lambda shape: [[2**70] * 3] * 2,
    "raises": lambda shape: type("Raises", (), {"__array__": lambda self, *a, **k: 1 / 0})(),
    "bad dlpack": lambda shape: type("Bad", (), {"__dlpack__": lambda self, **k: 1 / 0})(),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_everything_else_is_refused_with_a_sentence(kind):
    net, cell = numlstm.LSTM(3, 4, seed=0), numlstm.LSTMCell(3, 4, seed=0)
    x, state = np.zeros((2, 1, 3), "f4"), np.zeros((1, 1, 4), "f4")
    make = REFUSED[kind]
    net(x, (state, state)), cell(x[0], (state[0], state[0]))  # the shapes are known, so that fast calls are open
    for call in (lambda: net(make((2, 1, 3))), lambda: cell(make((1, 3)))):
        with pytest.raises(TypeError, match=r"^input must "):
            call()
    with pytest.raises(TypeError, match=r"^h_0 must "):
        net(x, (make((1, 1, 4)), state))
    with pytest.raises(TypeError, match=r"^c_0 must "):
        net(x, (state, make((1, 1, 4))))
    with pytest.raises(TypeError, match=r"^hx\[0\] must "):
        cell(x[0], (make((1, 4)), state[0]))
    with pytest.raises(TypeError, match=r"^hx\[1\] must "):
        cell(x[0], (state[0], make((1, 4))))


def test_ragged_lists_are_refused():
    with pytest.raises(ValueError, match="input must be an array of real numbers in the CPU's memory; this list could"):
        numlstm.LSTM(2, 3)([[1, 2], [3]])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["f2", "i8", ">f4", "g", "fortran", "reversed", "spread", "unaligned", "read-only"])
def test_the_engine_gets_the_input_where_it_is(kind, batch_first, monkeypatch):
    """Nothing converts or copies a whole input on the way there."""
    seen = []
    monkeypatch.setattr(Executor, "run", lambda executor, call: seen.append(call))
    net, cell, x = numlstm.LSTM(6, 4, batch_first=batch_first), numlstm.LSTMCell(6, 4), KINDS[kind](SMALL)
    for call, given in ((net, x), (net, x[:, 0]), (cell, x[0]), (cell, x[0, 0])):
        output = call(given)[0]
        array, target = seen[-1].x, seen[-1].output
        assert array.dtype == x.dtype and array.ndim == target.ndim == 3 and array.shape[:2] == target.shape[:2]
        assert array.__array_interface__["data"][0] == given.__array_interface__["data"][0]
        assert array.size == given.size and np.shares_memory(array, given)
        assert call is cell or np.shares_memory(target, output)


def test_what_is_too_large_becomes_infinite_in_silence():
    net = numlstm.LSTM(3, 4, seed=0)
    big, small = np.full((2, 5, 3), 1e300), np.full((1, 5, 4), -1e300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = net(big, (small, small)), numlstm.LSTMCell(3, 4, seed=0)(big[0], (small[0], small[0]))
        want = net(np.full_like(big, np.inf), (small - np.inf, small - np.inf))
    for g, w in zip(flat(got[0]), flat(want), strict=True):
        assert np.array_equal(g, w, equal_nan=True)


def test_results_never_alias_and_inputs_are_never_written():
    net = numlstm.LSTM(3, 3, seed=0)
    x = np.ones((4, 2, 3), np.float32)
    h_0, c_0 = np.full((1, 2, 3), 0.5, "f4"), np.full((1, 2, 3), -0.5, "f4")
    first = net(x, (h_0, c_0))
    kept = [np.array(a) for a in flat(first)]
    second = net(x, (h_0, c_0))
    assert (x == 1).all() and (h_0 == 0.5).all() and (c_0 == -0.5).all()
    arrays = [x, h_0, c_0, *flat(first), *flat(second)]
    for a, b in itertools.combinations(arrays, 2):
        assert not np.shares_memory(a, b)
    for result in flat(second):
        result[...] = 7
    x[...], h_0[...], c_0[...] = 8, 9, 10
    assert all(same_bits(a, b) for a, b in zip(flat(first), kept, strict=True))
    cell = numlstm.LSTMCell(3, 3, seed=0)
    h, c = cell(x[0], (h_0[0], c_0[0]))
    for a, b in itertools.combinations([x, h_0, c_0, h, c], 2):
        assert not np.shares_memory(a, b)


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_shapes(batch_first, bidirectional, proj_size):
    net = numlstm.LSTM(3, 4, 2, batch_first=batch_first, bidirectional=bidirectional, proj_size=proj_size)
    cells, out = 4 if bidirectional else 2, proj_size or 4
    for steps, batch in ((1, 1), (5, 1), (1, 6), (5, 6), (5, 0)):
        shape = (batch, steps) if batch_first else (steps, batch)
        output, (h_n, c_n) = net(np.zeros((*shape, 3)))
        assert output.shape == (*shape, (1 + bidirectional) * out)
        assert h_n.shape == (cells, batch, out) and c_n.shape == (cells, batch, 4)
        assert all(a.flags.c_contiguous and a.flags.owndata for a in (output, h_n, c_n))
        again = net(np.zeros((*shape, 3)), (h_n, c_n))
        assert [a.shape for a in flat(again)] == [output.shape, h_n.shape, c_n.shape]
    output, (h_n, c_n) = net(np.zeros((5, 3)))
    assert output.shape == (5, (1 + bidirectional) * out) and h_n.shape == (cells, out) and c_n.shape == (cells, 4)
    assert all(a.flags.c_contiguous and a.flags.owndata for a in (output, h_n, c_n))


def test_unbatched_is_a_batch_of_one_and_a_cell_is_one_step():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3), np.float32)
    h_0, c_0 = rng.standard_normal((2, 2, 4), np.float32)
    net = numlstm.LSTM(3, 4, 2, seed=0)
    output, (h_n, c_n) = net(x, (h_0, c_0))
    batched = net(x[:, None], (h_0[:, None], c_0[:, None]))
    assert equal((output[:, None], (h_n[:, None], c_n[:, None])), batched)

    one = numlstm.LSTM(3, 4, seed=0)
    cell = numlstm.LSTMCell(3, 4, seed=0)
    for hx in (None, (h_0, c_0)):
        h_1, c_1 = cell(x[:2], hx)
        want = one(x[None, :2], hx and (h_0[None], c_0[None]))
        assert same_bits(h_1, want[1][0][0]) and same_bits(c_1, want[1][1][0])
        single = cell(x[1], hx and (h_0[1], c_0[1]))
        assert same_bits(single[0], h_1[1]) and same_bits(single[1], c_1[1])
    empty = cell(np.zeros((0, 3)))
    assert empty[0].shape == empty[1].shape == (0, 4)


def test_call_forms():
    net, x = numlstm.LSTM(3, 4, seed=0), np.ones((2, 5, 3), "f4")
    state = (np.ones((1, 5, 4)), np.ones((1, 5, 4)))
    want = net(x, state)
    for got in (net.forward(x, state), net(input=x, hx=state), net(x, list(state)), net(x, hx=state, out=None)):
        assert equal(got, want)
    assert isinstance(want, tuple) and isinstance(want[1], tuple)
    cell = numlstm.LSTMCell(3, 4, seed=0)
    assert equal(pair(cell(input=x[0], hx=None)), pair(cell.forward(x[0])))


def wrong_calls():
    """Calls that must fail: (function, exception)."""
    net, first = numlstm.LSTM(3, 4, 2, dropout=0.5, seed=0), numlstm.LSTM(3, 4, batch_first=True, seed=0)
    z = np.zeros
    for make, error in [
        (lambda: net(z(3)), ValueError),
        (lambda: net(z((2, 2, 2, 3))), ValueError),
        (lambda: net(z((2, 2, 4))), RuntimeError),
        (lambda: net(z((0, 2, 3))), RuntimeError),
        (lambda: first(z((2, 0, 3))), RuntimeError),
        (lambda: net(z((2, 5, 3)), (z((2, 4, 4)), z((2, 5, 4)))), RuntimeError),
        (lambda: net(z((2, 5, 3)), (z((2, 5, 4)), z((1, 5, 4)))), RuntimeError),
        (lambda: net(z((2, 5, 3)), (z((2, 4)), z((2, 4)))), RuntimeError),
        (lambda: net(z((2, 3)), (z((2, 1, 4)), z((2, 1, 4)))), RuntimeError),
        (lambda: net(z((2, 5, 3)), ()), IndexError),
        (lambda: net(z((2, 5, 3)), [z((2, 5, 4))]), IndexError),
        (lambda: net(z((2, 5, 3)), (z((2, 5, 4)),) * 3), RuntimeError),
        (lambda: net(z((2, 5, 3)), z((2, 2, 5, 4))), TypeError),
        (lambda: net(z((2, 5, 3)), {0: 1}), TypeError),
        (lambda: net(z((2, 5, 3)), None, None), TypeError),
        (net, TypeError),
        (lambda: net(z((2, 5, 3)), foo=1), TypeError),
    ]:
        yield net, make, error


@pytest.mark.parametrize("warm", [False, True])
def test_wrong_calls_change_nothing(warm):
    for net, call, error in wrong_calls():
        if warm:  # the shapes have been seen, so that only the states are checked
            net.eval()(np.zeros((2, 5, 3))), net(np.zeros((2, 3))), net.train()
        before, generator = weights_of(net), copy.deepcopy(net._rng.bit_generator.state)
        with pytest.raises(error):
            call()
        assert same_weights(net, before) and net._rng.bit_generator.state == generator


# ---------------------------------------------------------------- out=


def out_for(net, steps, *rows):
    cells, out = net.num_layers * (1 + net.bidirectional), net.proj_size or net.hidden_size
    shape = (*rows, steps) if net.batch_first else (steps, *rows)
    shapes = (*shape, (1 + net.bidirectional) * out), (cells, *rows, out), (cells, *rows, net.hidden_size)
    return tuple(np.full(s, 99, net.dtype) for s in shapes)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"proj_size": 2, "num_layers": 2}, {"bidirectional": True}]
)
def test_out(options, dtype):
    net = numlstm.LSTM(3, 4, **options, dtype=dtype, seed=0)
    for rows in ((2,), ()):
        shape = (*rows, 5, 3) if net.batch_first else (5, *rows, 3)
        x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
        out = out_for(net, 5, *rows)
        got = net(x, out=out)
        assert got[0] is out[0] and got[1][0] is out[1] and got[1][1] is out[2]
        assert equal(got, net(x))
        states = tuple(np.array(a) for a in got[1])
        want = net(x, states)
        assert equal(net(x, got[1], out=list(out)), want), "the states are continued in place"
        assert equal(net(x, tuple(a[...] for a in states), out=(out[0], *states)), want), "views of the very same"


def test_wrong_out_is_refused_before_anything_is_written():
    net = numlstm.LSTM(3, 4, seed=0)
    x = np.ones((5, 2, 3), "f4")
    good = out_for(net, 5, 2)
    buffer = np.full(100, 99, "f4")
    read = np.full((5, 2, 4), 99, "f4")
    read.flags.writeable = False
    raw = np.zeros(161, np.uint8)[1:].view("f4").reshape(5, 2, 4)
    o, h, c = good
    square, h_0 = numlstm.LSTM(4, 4, seed=0), np.zeros((1, 2, 4), "f4")
    y = np.full((5, 2, 4), 99, "f4")
    for call, error, text in [
        (lambda: net(x, out=o), TypeError, r"out must be a tuple \(output, h_n, c_n\), not ndarray"),
        (lambda: net(x, out=(o, h)), TypeError, "not 2 items"),
        (lambda: net(x, out=(o, (h, c))), TypeError, "not 2 items"),
        (lambda: net(x, out=(o, h, None)), TypeError, "c_n in out must be a numpy.ndarray, not NoneType"),
        (lambda: net(x, out=(o.tolist(), h, c)), TypeError, "output in out must be a numpy.ndarray, not list"),
        (lambda: net(x, out=(np.ma.masked_array(o), h, c)), TypeError, "must be a numpy.ndarray, not MaskedArray"),
        (lambda: net(x, out=(o.astype("f8"), h, c)), TypeError, "output in out must have dtype float32, not float64"),
        (lambda: net(x, out=(o.astype(">f4"), h, c)), TypeError, "output in out must have dtype float32, not >f4"),
        (lambda: net(x, out=(o[:4], h, c)), ValueError, r"must have shape \(5, 2, 4\), not \(4, 2, 4\)"),
        (lambda: net(x, out=(o, h[0], c)), ValueError, r"h_n in out must have shape \(1, 2, 4\), not \(2, 4\)"),
        (lambda: net(x, out=(o, h, c[:, :1])), ValueError, "c_n in out must have shape"),
        (lambda: net(x, out=(np.asfortranarray(o), h, c)), ValueError, "output in out must be C-contiguous"),
        (lambda: net(x, out=(read, h, c)), ValueError, "output in out must be writeable"),
        (lambda: net(x, out=(raw, h, c)), ValueError, "output in out must be aligned"),
        (lambda: net(x, out=(o, h, h)), ValueError, "h_n in out shares memory with c_n"),
        (lambda: net(x, out=(buffer[:40].reshape(o.shape), buffer[39:47].reshape(h.shape), c)), ValueError, "shares"),
        (lambda: net(x, (h, c), out=(o, c, h)), ValueError, "h_n in out shares memory with c_0"),
        (lambda: net(x, (h, h), out=(o, h, c)), ValueError, "h_n in out shares memory with c_0"),
        (lambda: square(y, out=(y, h, c)), ValueError, "output in out shares memory with input"),
        (lambda: square(y[::-1], out=(y, h, c)), ValueError, "output in out shares memory with input"),
        (lambda: square(h[:, :, ::-1], out=(o[:1], h, c)), ValueError, "h_n in out shares memory with input"),
        (lambda: square(y, (y[:1], c), out=(o, y[:1], c)), ValueError, "h_n in out shares memory with input"),
        (lambda: net(x, (o[:1], h_0), out=(o, h, c)), ValueError, "output in out shares memory with h_0"),
        (lambda: net(x, (c, h_0), out=(o, h, c)), ValueError, "c_n in out shares memory with h_0"),
        (lambda: net(x, (h_0, h), out=(o, h, c)), ValueError, "h_n in out shares memory with c_0"),
        (lambda: net(x, (h[:, ::-1], h_0), out=(o, h, c)), ValueError, "h_n in out shares memory with h_0"),
        (lambda: net(x, (h_0, c[:, ::-1]), out=(o, h, c)), ValueError, "c_n in out shares memory with c_0"),
        (lambda: net(x[:, :1], out=good), ValueError, "must have shape"),
        (lambda: net(x[:, :, :2], out=good), RuntimeError, "input_size"),
    ]:
        with pytest.raises(error, match=text):
            call()
        assert all((a == 99).all() for a in (*good, buffer, read, y)), "nothing is written"
    interleaved = np.zeros((5, 2, 8), "f4")
    apart = net(x, out=(o, h, c))
    assert equal(square(interleaved[:, :, ::2], out=out_for(square, 5, 2)), square(interleaved[:, :, 1::2]))
    assert equal(apart, net(x))


def test_out_that_is_hard_to_tell_apart_is_refused():
    """Overlap with a strided input is searched for only so long; then it counts as overlap."""
    base = np.zeros(2**20, "f4")
    x = np.lib.stride_tricks.as_strided(base, (2003, 31, 53), (4 * 73, 4 * 19320, 4 * 146))
    h_n = base[426461 : 426461 + 31].reshape(1, 31, 1)
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(x, h_n, max_work=OVERLAP_WORK)
    with pytest.raises(ValueError, match="h_n in out shares memory with input"):
        numlstm.LSTM(53, 1)(x, out=(np.zeros((2003, 31, 1), "f4"), h_n, np.zeros((1, 31, 1), "f4")))


# ---------------------------------------------------------------- dropout


def two_layers(dropout, **options):
    return numlstm.LSTM(3, 4, 2, dropout=dropout, seed=5, **options)


def by_hand(net, x, mask):
    """Layer 1 of two, its output times a mask, layer 2."""
    lower, upper = numlstm.LSTM(3, 4, seed=0), numlstm.LSTM(4, 4, seed=0)
    weights = net.state_dict()
    lower.load_state_dict({n: v for n, v in weights.items() if "_l0" in n})
    upper.load_state_dict({n.replace("_l1", "_l0"): v for n, v in weights.items() if "_l1" in n})
    return upper(lower(x)[0] * mask)[0]


def test_dropout_acts_between_layers_in_train_mode_only(monkeypatch):
    x = np.random.default_rng(0).standard_normal((6, 5, 3), np.float32)
    net = two_layers(0.5)
    mask = np.random.default_rng(1).choice(np.float32([0, 2]), (6, 5, 4))
    calls = []

    def drop(sequence):
        calls.append(sequence.shape)
        sequence *= mask

    monkeypatch.setattr(net, "_masks", lambda config: drop)
    assert same_bits(net(x)[0], by_hand(net, x, mask)) and calls == [(6, 5, 4)]
    net.batch_first = True
    assert same_bits(net(x.swapaxes(0, 1))[0].swapaxes(0, 1), by_hand(net, x, mask)) and len(calls) == 2
    net.batch_first = False
    assert same_bits(net.eval()(x)[0], by_hand(net, x, np.float32(1))) and len(calls) == 2
    net.train().dropout = 0.0
    assert same_bits(net(x)[0], by_hand(net, x, np.float32(1))) and len(calls) == 2


def masks(net):
    """What drops numbers between the layers of one call."""
    return net._masks(net._config)


def test_dropout_by_its_own_masks():
    x = np.random.default_rng(0).standard_normal((6, 5, 3), np.float32)
    net = two_layers(0.5)
    a, b = net(x)[0], net(x)[0]
    assert not same_bits(a, b), "every call draws anew"
    again = two_layers(0.5)
    assert same_bits(again(x)[0], a) and same_bits(again(x)[0], b), "the same seed draws the same"
    ones = np.ones((6, 5, 4), np.float32)
    expected = two_layers(0.5)
    masks(expected)(ones)
    assert same_bits(a, by_hand(net, x, ones)), "the layer below is multiplied by the mask"
    everything = two_layers(1.0)
    assert same_bits(everything(x)[0], by_hand(everything, x, np.float32(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        single = numlstm.LSTM(3, 4, dropout=0.9, seed=0)
    state = copy.deepcopy(single._rng.bit_generator.state)
    assert same_bits(single(x)[0], numlstm.LSTM(3, 4, seed=0)(x)[0]) and single._rng.bit_generator.state == state


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_mask_keeps_the_share_and_the_mean(dtype, monkeypatch):
    for share in (0.1, 0.5, 0.9):
        net = two_layers(share, dtype=dtype)
        numbers = np.ones((50, 40, 30), dtype)
        masks(net)(numbers)
        kept = np.dtype(dtype).type(1) / np.dtype(dtype).type(1 - share)
        assert set(np.unique(numbers)) == {0, kept}
        spread = (share * (1 - share) / numbers.size) ** 0.5
        assert abs((numbers == 0).mean() - share) < 5 * spread
        for axis in range(3):  # no row, step or feature is favoured
            others = tuple(a for a in range(3) if a != axis)
            assert np.abs((numbers == 0).mean(others) - share).max() < 0.1
        for size in (1, 7, 30 * 40 * 3 + 1):  # it does not depend on how it is cut
            monkeypatch.setattr(lstm_module, "MASK_SIZE", size)
            pieces = np.ones((50, 40, 30), dtype)
            masks(two_layers(share, dtype=dtype))(pieces)
            assert same_bits(pieces, numbers)
        monkeypatch.undo()
    special = np.array([[[np.nan, np.inf, -np.inf]]], dtype)
    masks(two_layers(1.0))(special)
    assert np.isnan(special).all(), "NaN and infinity times 0 are NaN"
    masks(two_layers(0.5))(np.empty((3, 0, 4), dtype))


# ---------------------------------------------------------------- copies and pickles


def copies(net):
    yield from (pickle.loads(pickle.dumps(net, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1))
    yield copy.copy(net)
    yield copy.deepcopy(net)
    buffer = io.BytesIO()
    pickle.dump({"a": [net]}, buffer)
    buffer.seek(0)
    yield pickle.load(buffer)["a"][0]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_copies_continue_as_the_original(dtype):
    net = numlstm.LSTM(3, 4, 2, bidirectional=True, proj_size=2, dropout=0.5, batch_first=True, dtype=dtype, seed=0)
    x = np.random.default_rng(0).standard_normal((2, 5, 3))
    net(x)  # the generator is under way
    twins = list(copies(net))
    want = net(x), net(x)
    weights = weights_of(net)
    for twin in twins:
        assert type(twin) is numlstm.LSTM and repr(twin) == repr(net) and twin.training and twin.dtype == net.dtype
        assert same_weights(twin, weights)
        assert equal(twin(x), want[0]) and equal(twin(x), want[1])
        twin.bias_hh_l0 = np.zeros(16)
        twin.batch_first = False
        twin.reset_parameters()
    assert same_weights(net, weights) and net.batch_first
    assert not pickle.loads(pickle.dumps(net.eval())).training


def test_copies_of_a_cell_and_of_a_subclass_and_of_a_cycle():
    cell = numlstm.LSTMCell(3, 4, bias=False, seed=0)
    for twin in copies(cell):
        assert repr(twin) == repr(cell) and same_weights(twin, weights_of(cell)) and twin.bias_ih is None
        assert equal(pair(twin(np.ones(3))), pair(cell(np.ones(3))))
    net = Labelled(3, 4, seed=0)
    net.itself = net
    for twin in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert type(twin) is Labelled and twin.itself is twin and twin.label == "set" and twin is not net
    net = Labelled(3, 4, seed=0)
    net.notes = ["mine"]
    assert all(twin.notes == ["mine"] for twin in copies(net))
    assert copy.copy(net).notes is net.notes and copy.deepcopy(net).notes is not net.notes


class Labelled(numlstm.LSTM):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.label = "set"


def test_a_pickle_carries_numbers_and_no_places():
    net = numlstm.LSTM(3, 4, seed=0)
    net(np.ones((2, 3)))
    state = net.__getstate__()
    assert set(state) == {"_config", "_rng", "training", "_parameters", "_dtype"}
    assert state["_dtype"] == "float32" and list(state["_parameters"]) == list(net.state_dict())
    assert b"panels" not in pickle.dumps(net)


# ---------------------------------------------------------------- threads


def together(functions):
    """Start all at once, each in a thread of its own."""
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait(timeout=60)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return [f.result(timeout=120) for f in [pool.submit(run, function) for function in functions]]


def test_eight_threads_calling_one_lstm_give_equal_bits():
    net = numlstm.LSTM(20, 24, 2, bidirectional=True, seed=0)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((steps, 3, 20), np.float32) for steps in range(1, 9)]
    want = [net(x) for x in inputs]

    def work(first):
        order = inputs[first:] + inputs[:first]
        return all(equal(net(x), w) for _ in range(20) for x, w in zip(order, want[first:] + want[:first], strict=True))

    assert all(together([lambda i=i: work(i) for i in range(8)]))


def test_threads_in_train_mode_share_the_draws():
    """Eight threads draw the masks that one thread would have drawn, each of them once."""
    x = np.random.default_rng(0).standard_normal((6, 5, 3), np.float32)
    alone, shared = two_layers(0.5), two_layers(0.5)
    want = sorted(bytes(alone(x)[0]) for _ in range(8))
    assert len(set(want)) == 8
    assert sorted(together([lambda: bytes(shared(x)[0])] * 8)) == want


def test_threads_that_assign_lose_nothing_and_disturb_no_call():
    net = numlstm.LSTM(3, 4, seed=0)
    x = np.ones((5, 2, 3), np.float32)

    def assign(name, shape):
        for value in range(200):
            setattr(net, name, np.full(shape, value))

    before = net(x)
    together([lambda n=n, v=v: assign(n, v.shape) for n, v in weights_of(net).items()])
    assert all((value == 199).all() for value in net.parameters())
    weights = net.state_dict()
    after = net(x)
    assert not equal(before, after)
    other = {name: value * 0 + 0.25 for name, value in weights.items()}
    net.load_state_dict(other)
    changed = net(x)

    def swap():
        for n in range(200):
            net.load_state_dict(weights if n % 2 else other)
        return True

    def call():
        seen = [net(x) for _ in range(200)]
        return all(equal(got, after) or equal(got, changed) for got in seen)

    assert all(together([swap, call, call]))


@pytest.mark.parametrize("locked", [True, False])
def test_without_the_lock_an_assignment_would_be_lost(locked, monkeypatch):
    net, replace = numlstm.LSTM(3, 4, seed=0), Panels.replace

    def slowly(panels, parameters):
        made = replace(panels, parameters)
        time.sleep(0.05)
        return made

    monkeypatch.setattr(Panels, "replace", slowly)
    if not locked:
        monkeypatch.setattr(module, "changing", contextlib.nullcontext())
    zeros = {name: np.zeros_like(value) for name, value in net.named_parameters()}
    together([lambda n=n, v=v: setattr(net, n, v) for n, v in zeros.items()])
    assert same_weights(net, zeros) == locked


# ---------------------------------------------------------------- fast calls


def test_a_shape_seen_before_takes_a_fast_call(monkeypatch):
    """Neither conversion nor the search for shapes is asked again; the states are, every time."""
    net, cell = numlstm.LSTM(3, 4, seed=0), numlstm.LSTMCell(3, 4, seed=0)
    x, states = np.ones((2, 5, 3), np.float32), (np.ones((1, 5, 4), np.float32), np.ones((1, 5, 4), np.float32))
    inner = states[0][0], states[1][0]
    want, cell_want = net(x, states), cell(x[0], inner)
    runs = []
    monkeypatch.setattr(Executor, "run", lambda executor, call: runs.append(call))
    for where, name in (
        (lstm_module, "real_array"),
        (lstm_module, "lstm_call"),
        (cell_module, "cell_call"),
        (shapes, "_pair"),
        (shapes, "_cell_pair"),
    ):
        monkeypatch.setattr(where, name, lambda *args, name=name: pytest.fail(f"{name} was called"))
    assert equal(net(x, states), want) and equal(pair(cell(x[0], inner)), pair(cell_want))
    with pytest.raises(pytest.fail.Exception, match="_pair"):
        net(x, (states[0], states[1][:, :4]))
    with pytest.raises(pytest.fail.Exception, match="lstm_call"):
        net(x[:, :2])
    with pytest.raises(pytest.fail.Exception, match="real_array"):
        net(x.astype("f8"))
    with pytest.raises(pytest.fail.Exception, match="_cell_pair"):
        cell(x[0], (inner[0], inner[1][:4]))
    assert runs == []  # both were fast calls


def test_the_shapes_remembered_are_bounded():
    net = numlstm.LSTM(1, 1)
    for steps in range(1, 1100):
        net(np.zeros((steps, 1), np.float32))
    assert 0 < len(net._seen) <= 1024


def test_one_row_of_nan_stays_alone():
    net = numlstm.LSTM(3, 4, 2, seed=0)
    x = np.random.default_rng(0).standard_normal((4, 3, 3), np.float32)
    want = net(x)
    x[1, 1, 2] = np.nan
    got = net(x)
    for g, w in zip(flat(got), flat(want), strict=True):
        assert np.array_equal(bits(g)[..., [0, 2], :], bits(w)[..., [0, 2], :]) and np.isnan(g[..., 1, :]).any()


# ---------------------------------------------------------------- the package


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, numlstm; print(*sorted(set(sys.modules) & {'numba','llvmlite','click','matplotlib','torch'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == ""


def test_public_names():
    assert {"LSTM", "LSTMCell", "from_torch"} <= set(numlstm.__all__)
    assert numlstm.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="module 'numlstm' has no attribute 'GRU'"):
        numlstm.GRU  # noqa: B018


@pytest.mark.parametrize("what", ["model.pt", None, numlstm.LSTM(2, 3), numlstm.LSTM, 5])
def test_from_torch_refuses_what_is_not_torchs(what):
    with pytest.raises(TypeError, match=r"from_torch takes a torch.nn.LSTM or torch.nn.LSTMCell, not "):
        numlstm.from_torch(what)
