"""Packing, padding and packed calls against PyTorch itself: by values and by errors."""

import copy
import itertools
import pickle
import types

import numpy as np
import pytest
from needs import need

import numlstm

torch = need("torch")
contract = need("test_contract_torch")
rnn = torch.nn.utils.rnn

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

SHAPES = [(), (1,), (3,), (2, 2)]
DTYPES = ["float32", "float64", "int64", "int32", "uint8", "bool", "float16", "complex64"]
LENGTHS = [[4], [4, 2, 1], [1, 4, 2], [4, 4, 4], [1, 1], [2, 3, 1], [3, 1, 1, 3, 2], [2, 2]]


def same(ours, theirs):
    """Whether arrays, and tuples and lists of them, agree in number, dtype and shape."""
    if theirs is None or isinstance(theirs, int | float):
        return ours == theirs
    if isinstance(theirs, tuple | list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    theirs = theirs.numpy()
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and np.array_equal(ours, theirs)


def numbers(*shape, dtype="float32"):
    return (torch.arange(int(np.prod(shape))).reshape(shape) % 250).to(getattr(torch, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_pack_and_pad(lengths, shape, dtype):
    for batch_first, enforce_sorted in itertools.product((False, True), repeat=2):
        if enforce_sorted and lengths != sorted(lengths, reverse=True):
            continue
        both = (len(lengths), 4) if batch_first else (4, len(lengths))
        x = numbers(*both, *shape, dtype=dtype)
        theirs = rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted)
        for given in (lengths, tuple(lengths), np.array(lengths), np.array(lengths, "i2"), torch.tensor(lengths)):
            ours = numlstm.pack_padded_sequence(x.numpy(), given, batch_first, enforce_sorted)
            assert same(ours, theirs)
        assert same(numlstm.pack_padded_sequence(x, lengths, batch_first, enforce_sorted), theirs)
        for packed in (ours, theirs):
            assert same(numlstm.unpack_sequence(packed), rnn.unpack_sequence(theirs))
        for first, value, total in itertools.product((False, True), (0.0, 7, True), (None, max(lengths), 9)):
            got = numlstm.pad_packed_sequence(ours, first, value, total)
            assert same(got, rnn.pad_packed_sequence(theirs, first, value, total))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sequences(shape, dtype):
    for lengths in (*LENGTHS, [0, 2], [0]):
        given = [numbers(n, *shape, dtype=dtype) + (n > 2) for n in lengths]
        given = [tensor.to(getattr(torch, dtype)) for tensor in given]
        arrays = [tensor.numpy() for tensor in given]
        for first, value, side in itertools.product((False, True), (0.0, 3.0), ("left", "right")):
            theirs = rnn.pad_sequence(given, first, value, side)
            assert same(numlstm.pad_sequence(arrays, first, value, side), theirs)
            if side == "right":
                ours = numlstm.unpad_sequence(theirs.numpy(), lengths, first)
                assert same(ours, rnn.unpad_sequence(theirs.clone(), torch.tensor(lengths), first))
        if 0 not in lengths:
            theirs = rnn.pack_sequence(given, enforce_sorted=False)
            assert same(numlstm.pack_sequence(arrays, enforce_sorted=False), theirs)
            assert same(numlstm.pack_sequence(given, enforce_sorted=False), theirs)


def test_dtypes_and_shapes_that_differ():
    for first, second in itertools.product(
        [torch.tensor([1.5, 2]), torch.tensor([1, 2]), torch.tensor([1, 2], dtype=torch.uint8), torch.ones(2, 3)],
        [torch.tensor([2.5]), torch.tensor([-3]), torch.tensor([True]), torch.ones(1, 3), torch.ones(1, 1)],
    ):
        theirs = contract.outcome(rnn.pad_sequence, [first, second])
        if theirs is None:
            ours = numlstm.pad_sequence([first.numpy(), second.numpy()])
            assert same(ours, rnn.pad_sequence([first, second]))
        else:
            ours = contract.outcome(numlstm.pad_sequence, [first.numpy(), second.numpy()])
            assert type(ours) is type(theirs) and contract.carries(str(ours), str(theirs))


VALUES = [1.5, -1, -1.0, 255, 256, 300, -255, -256, -300, 65504, 65520.0, 1e30, 1e39, 1e300, 2**31, 2**63, -(2**63)]
VALUES += [float("nan"), float("inf"), -float("inf"), True, 1 + 0j, 1j, "x", None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", VALUES, ids=str)
def test_padding_values(value, dtype):
    x = numbers(3, 2, dtype=dtype)
    theirs, ours = rnn.pack_padded_sequence(x, [3, 1]), numlstm.pack_padded_sequence(x.numpy(), [3, 1])
    want = contract.outcome(rnn.pad_packed_sequence, theirs, padding_value=value)
    if want is None:
        got = numlstm.pad_packed_sequence(ours, padding_value=value)[0]
        np.testing.assert_array_equal(got, rnn.pad_packed_sequence(theirs, padding_value=value)[0].numpy())
    else:
        got = contract.outcome(numlstm.pad_packed_sequence, ours, padding_value=value)
        assert type(got) is type(want) and contract.carries(str(got), str(want)), (got, want)


# ---------------------------------------------------------------- the same errors


def tensor(value):
    return torch.tensor(value, dtype=torch.int64)


OURS = types.SimpleNamespace(
    zeros=lambda *s: np.zeros(s, np.float32),
    ints=lambda *s: np.zeros(s, np.int64),
    array=np.array,
    LSTM=numlstm.LSTM,
    LSTMCell=numlstm.LSTMCell,
    **{name: getattr(numlstm, name) for name in rnn.__all__ if name != "invert_permutation"},
)
THEIRS = types.SimpleNamespace(
    zeros=lambda *s: torch.zeros(s),
    ints=lambda *s: torch.zeros(s, dtype=torch.int64),
    array=tensor,
    LSTM=torch.nn.LSTM,
    LSTMCell=torch.nn.LSTMCell,
    **{name: getattr(rnn, name) for name in rnn.__all__ if name != "invert_permutation"},
)


def pack(lib, lengths, shape=(4, 3, 1), **options):
    return lib.pack_padded_sequence(lib.zeros(*shape), lengths, **options)


def pad(lib, **options):
    return lib.pad_packed_sequence(pack(lib, [4, 2, 1]), **options)


def sequences(lib, *shapes):
    return [lib.zeros(*shape) for shape in shapes]


SAME = {
    "a length of 0": lambda lib: pack(lib, [4, 2, 0]),
    "a length of 0, not sorted": lambda lib: pack(lib, [0, 4, 2], enforce_sorted=False),
    "a negative length": lambda lib: pack(lib, [4, 2, -1]),
    "a negative first length": lambda lib: pack(lib, [-1, 2, 1]),
    "not sorted": lambda lib: pack(lib, [1, 2, 3]),
    "not sorted, above": lambda lib: pack(lib, [4, 1, 9]),
    "too few lengths": lambda lib: pack(lib, [4, 2]),
    "too many lengths": lambda lib: pack(lib, [4, 2, 1, 1]),
    "no lengths": lambda lib: pack(lib, []),
    "lengths 0-D": lambda lib: pack(lib, 4),
    "lengths 0-D, not sorted": lambda lib: pack(lib, 4, enforce_sorted=False),
    "lengths 2-D": lambda lib: pack(lib, [[4], [3], [2]]),
    "an empty batch": lambda lib: pack(lib, [], (4, 0, 1)),
    "no steps": lambda lib: pack(lib, [1, 1, 1], (0, 3, 1)),
    "no features": lambda lib: pack(lib, [1, 1, 1], (4, 3, 0)),
    "nothing, 1-D": lambda lib: pack(lib, [1], (0,)),
    **{
        f"input {len(shape)}-D, {options}": lambda lib, s=shape, o=options: pack(lib, [4], s, **o)
        for shape in ((), (4,))
        for options in ({}, {"batch_first": True}, {"enforce_sorted": False})
        if shape or "enforce_sorted" not in options
    },
    "batch_first of text": lambda lib: pack(lib, [4, 2, 1], batch_first="yes"),
    "batch_first of 1": lambda lib: pack(lib, [4, 2, 1], batch_first=1),
    "no input": lambda lib: lib.pack_padded_sequence(),
    "no lengths given": lambda lib: lib.pack_padded_sequence(lib.zeros(4, 3)),
    **{
        f"pad, {options}": lambda lib, o=options: pad(lib, **o)
        for options in (
            *({"total_length": n} for n in (3, 0, -1, 3.5, 5.0, 5.5, "5", [5])),
            *({"batch_first": b} for b in (1, None, "x")),
            *({"padding_value": v} for v in ("x", None, [0.0], 1e300, 1j)),
        )
    },
    "pad, total_length=True": lambda lib: lib.pad_packed_sequence(pack(lib, [1, 1], (1, 2)), total_length=True),
    "pad None": lambda lib: lib.pad_packed_sequence(None),
    "pad a tuple": lambda lib: lib.pad_packed_sequence((lib.zeros(2, 1), lib.array([2]))),
    "unpack None": lambda lib: lib.unpack_sequence(None),
    "no steps by hand": lambda lib: lib.pad_packed_sequence(lib.PackedSequence(lib.zeros(0, 1), lib.array([]))),
    "data without sizes": lambda lib: lib.PackedSequence(lib.zeros(3, 1)),
    "three of two": lambda lib: lib.PackedSequence((lib.zeros(3, 1), lib.array([3]), None)),
    "packed of nothing": lambda lib: lib.PackedSequence(),
    "pad no sequence": lambda lib: lib.pad_sequence([]),
    "pad an int": lambda lib: lib.pad_sequence(3),
    "pad numbers": lambda lib: lib.pad_sequence(sequences(lib, ())),
    "pad other features": lambda lib: lib.pad_sequence(sequences(lib, (3, 2), (2, 3))),
    "pad other features in front": lambda lib: lib.pad_sequence(sequences(lib, (3, 2, 4), (2, 3, 4))),
    "pad more axes": lambda lib: lib.pad_sequence(sequences(lib, (3, 2), (2, 2, 2))),
    "pad more features": lambda lib: lib.pad_sequence(sequences(lib, (3, 1), (2, 2))),
    "pad on top": lambda lib: lib.pad_sequence(sequences(lib, (3, 2)), padding_side="top"),
    "pad on None": lambda lib: lib.pad_sequence(sequences(lib, (3, 2)), padding_side=None),
    "pad first": lambda lib: lib.pad_sequence(sequences(lib, (3, 2)), 1),
    "pad with text": lambda lib: lib.pad_sequence(sequences(lib, (3, 2)), padding_value="x"),
    "pad with too much": lambda lib: lib.pad_sequence(sequences(lib, (3, 2)), padding_value=1e300),
    "pack rising": lambda lib: lib.pack_sequence(sequences(lib, (1,), (3,))),
    "pack no sequence": lambda lib: lib.pack_sequence([]),
    "pack an empty one": lambda lib: lib.pack_sequence(sequences(lib, (3,), (0,))),
    "pack an int": lambda lib: lib.pack_sequence(3),
    "pack numbers": lambda lib: lib.pack_sequence(sequences(lib, ())),
    "pack other features": lambda lib: lib.pack_sequence(sequences(lib, (3, 2), (2, 3))),
    "unpad, too few": lambda lib: lib.unpad_sequence(lib.zeros(3, 3), lib.array([3, 1])),
    "unpad, too many": lambda lib: lib.unpad_sequence(lib.zeros(3, 3), lib.array([3, 1, 1, 1])),
    "unpad 1-D": lambda lib: lib.unpad_sequence(lib.zeros(3), lib.array([3])),
    "unpad 1-D, batch first": lambda lib: lib.unpad_sequence(lib.zeros(3), lib.array([3]), batch_first=True),
    "cell": lambda lib: lib.LSTMCell(3, 4)(pack(lib, [4, 2, 1], (4, 3, 3))),
    "cell, states": lambda lib: lib.LSTMCell(3, 4)(pack(lib, [4, 2, 1], (4, 3, 3)), (lib.zeros(3, 4), lib.zeros(3, 4))),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_error(name):
    theirs, ours = contract.outcome(SAME[name], THEIRS), contract.outcome(SAME[name], OURS)
    assert theirs is not None, "PyTorch raises nothing"
    assert type(ours) is type(theirs), f"{ours!r} is not {theirs!r}"
    assert contract.carries(str(ours), str(theirs)), f"\n{ours}\n--- is not ---\n{theirs}"


def test_signatures():
    names = set(rnn.__all__) - {"invert_permutation", "PackedSequence"}
    assert names <= set(numlstm.__all__) and len(names) == 6
    for name in names:
        assert contract.arguments(getattr(numlstm, name)) == contract.arguments(getattr(rnn, name)), name
    ours, theirs = numlstm.PackedSequence, rnn.PackedSequence
    assert contract.arguments(ours.__new__) == contract.arguments(theirs.__new__)
    assert ours._fields == theirs._fields and ours._field_defaults == theirs._field_defaults


# ---------------------------------------------------------------- PackedSequence


def test_a_packed_sequence_is_a_named_tuple():
    theirs = pack(THEIRS, [2, 4, 1], (4, 3, 3), enforce_sorted=False)
    ours = pack(OURS, [2, 4, 1], (4, 3, 3), enforce_sorted=False)
    assert isinstance(ours, tuple) and len(ours) == len(theirs) == 4
    assert same(ours, theirs) and same(list(ours._asdict().values()), list(theirs._asdict().values()))
    assert repr(ours).startswith("PackedSequence(data=array(")
    data, batch_sizes, sorted_indices, _ = ours
    assert data is ours.data and batch_sizes is ours.batch_sizes and batch_sizes.dtype == np.int64
    for twin in (pickle.loads(pickle.dumps(ours)), copy.copy(ours), copy.deepcopy(ours), ours._replace()):
        assert type(twin) is numlstm.PackedSequence and same(twin, theirs)
    by_hand = numlstm.PackedSequence(data, batch_sizes, sorted_indices)
    assert same(by_hand, theirs) and by_hand.data is data
    assert same(numlstm.PackedSequence((data, batch_sizes), sorted_indices=sorted_indices), theirs)
    assert same(ours, rnn.PackedSequence(*map(torch.from_numpy, ours)))


def test_conversions():
    theirs, ours = pack(THEIRS, [3, 2], (3, 2, 1)), pack(OURS, [3, 2], (3, 2, 1))
    for name in ("double", "float", "half", "long", "int", "short", "char", "byte", "cpu", "to"):
        got, want = getattr(ours, name)(), getattr(theirs, name)()
        assert same(got, want) and (got is ours) == (want is theirs), name
    assert ours.to(np.float64).data.dtype == np.float64 and ours.to(torch.int8).data.dtype == np.int8
    assert ours.to("cpu") is ours and ours.to("cpu", torch.float64).data.dtype == np.float64
    assert ours.to(np.zeros(1, "f8")).data.dtype == np.float64 and ours.to(np.zeros(1, "f4")) is ours
    assert ours.is_cuda is theirs.is_cuda is False
    for move in (ours.cuda, lambda: ours.cuda(0), lambda: ours.to("cuda"), lambda: ours.to("cuda", np.float64)):
        with pytest.raises(NotImplementedError, match="data of a packed sequence are not moved to CUDA"):
            move()
    for move in (lambda: ours.cuda("cuda:1"), lambda: ours.to("meta")):
        with pytest.raises(NotImplementedError, match="device must be None, 'cpu' or 'cuda'"):
            move()
    public = {name for name in dir(theirs) if not name.startswith("__")}
    assert public - set(dir(ours)) == {"pin_memory", "is_pinned"}


# ---------------------------------------------------------------- an LSTM on packed sequences


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("options", contract.PRODUCT, ids=lambda o: "-".join(map(str, o.values())))
def test_every_combination_of_flags(options, lengths, given):
    ours, theirs = contract.both(options)
    inputs = contract.sample(theirs, batch=len(lengths), given=given, steps=4, dtype=options["dtype"])
    packed = rnn.pack_padded_sequence(inputs[0], lengths, theirs.batch_first, enforce_sorted=False)
    want, want_states = contract.torch_call(theirs, packed, *inputs[1:])
    x, *states = contract.numpys(inputs)
    own = numlstm.pack_padded_sequence(x, lengths, ours.batch_first, enforce_sorted=False)
    for one in (own, packed):  # PyTorch's own too
        got, got_states = ours(one, *states)
        assert type(got) is numlstm.PackedSequence and same(got[1:], want[1:])
        contract.assert_close((got.data, *got_states), (want.data, *want_states))
    padded = rnn.pad_packed_sequence(want, theirs.batch_first, total_length=4)[0]
    got, got_states = ours(x, *states, lengths=lengths)
    contract.assert_close((got, *got_states), (padded, *want_states))


def test_sorted_ones_with_states():
    ours, theirs = contract.both({"num_layers": 2, "bidirectional": True, "dtype": torch.float32})
    inputs = contract.sample(theirs, batch=3, given=True, steps=4)
    want, want_states = contract.torch_call(theirs, rnn.pack_padded_sequence(inputs[0], [4, 2, 2]), inputs[1])
    x, states = contract.numpys(inputs)
    got, got_states = ours(numlstm.pack_padded_sequence(x, [4, 2, 2]), states)
    assert got.sorted_indices is got.unsorted_indices is None
    contract.assert_close((got.data, *got_states), (want.data, *want_states))


def test_the_comparison_notices_rows_in_another_order():
    ours, theirs = contract.both({"num_layers": 1, "dtype": torch.float32})
    inputs = contract.sample(theirs, batch=3, given=True, steps=4)
    packed = rnn.pack_padded_sequence(inputs[0], [2, 4, 1], enforce_sorted=False)
    _, want = contract.torch_call(theirs, packed, inputs[1])
    states = contract.numpys(inputs)[1]
    _, got = ours(packed, states)
    contract.assert_close(got, want)
    order = packed.sorted_indices.numpy()
    for wrong in (
        [state[:, order] for state in got],
        ours(packed, tuple(state[:, order] for state in states))[1],
        ours(packed._replace(sorted_indices=None, unsorted_indices=None), states)[1],
    ):
        with pytest.raises(AssertionError, match="roundings"):
            contract.assert_close(wrong, want)
