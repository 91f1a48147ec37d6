"""Packing and padding without PyTorch: round trips, and errors for what does not fit.

The comparison with PyTorch, value by value, is in test_packing_torch.py.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from judge import equal
from random_cases import cases

import numlstm
from numlstm.sequences import packing

many = cases(150)
DTYPES = ["f2", "f4", ">f8", "i1", "i8", "u2", "?", "c8"]


@st.composite
def several(draw):
    """Arrays of several lengths, and the same further axes."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(1, 3), max_size=2))
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    return [draw(hnp.arrays(dtype, (length, *shape), elements=hnp.from_dtype(dtype))) for length in lengths]


@many
@given(arrays=several(), first=st.booleans(), longer=st.integers(0, 3))
def test_round_trips(arrays, first, longer):
    lengths = [len(array) for array in arrays]
    padded = numlstm.pad_sequence(arrays, batch_first=first)
    assert equal(numlstm.unpad_sequence(padded, lengths, batch_first=first), arrays)
    packed = numlstm.pack_sequence(arrays, enforce_sorted=False)
    assert equal(numlstm.unpack_sequence(packed), arrays)
    other = numlstm.pack_padded_sequence(padded, lengths, batch_first=first, enforce_sorted=False)
    assert equal(other, packed)
    again, ends = numlstm.pad_packed_sequence(packed, batch_first=first)
    assert ends.tolist() == lengths and equal([again], [padded])
    wide, _ = numlstm.pad_packed_sequence(packed, batch_first=True, padding_value=1, total_length=max(lengths) + longer)
    assert wide.shape[1] == max(lengths) + longer
    for row, array in zip(wide, arrays, strict=True):
        assert equal([row[: len(array)]], [array]) and (row[len(array) :] == 1).all()
    left = numlstm.pad_sequence(arrays, batch_first=True, padding_side="left")
    assert equal([row[len(row) - len(array) :] for row, array in zip(left, arrays, strict=True)], arrays)


@many
@given(arrays=several())
def test_what_a_packed_sequence_is(arrays):
    """Step after step, the rows that take it, the longest first; rows of equal length in their order."""
    packed = numlstm.pack_sequence(arrays, enforce_sorted=False)
    order = sorted(range(len(arrays)), key=lambda row: -len(arrays[row]))
    rows = [(step, row) for step in range(len(arrays[order[0]])) for row in order if step < len(arrays[row])]
    stacked = np.stack([arrays[row][step] for step, row in rows]).astype(arrays[0].dtype)
    assert equal([packed.data], [stacked])
    assert packed.batch_sizes.tolist() == [sum(s == step for s, _ in rows) for step in range(len(arrays[order[0]]))]
    assert packed.sorted_indices.tolist() == order
    assert [order[row] for row in packed.unsorted_indices] == list(range(len(arrays)))
    assert all(part.dtype == np.int64 for part in packed[1:])
    ordered = numlstm.pack_sequence([arrays[row] for row in order])
    assert ordered.sorted_indices is ordered.unsorted_indices is None
    assert equal(ordered[:2], packed[:2])


def test_a_planted_fault_is_noticed(monkeypatch):
    arrays = [np.arange(3), np.arange(5, 6), np.arange(9, 11)]
    assert equal(numlstm.unpack_sequence(numlstm.pack_sequence(arrays, enforce_sorted=False)), arrays)
    places = packing.places
    monkeypatch.setattr(packing, "places", lambda sizes, *rest: np.roll(places(sizes, *rest), 1))
    assert not equal(numlstm.unpack_sequence(numlstm.pack_sequence(arrays, enforce_sorted=False)), arrays)


def test_results_share_memory_with_nothing():
    arrays = [np.arange(6.0).reshape(3, 2), np.arange(4.0).reshape(2, 2)]
    whole = [np.arange(6.0).reshape(3, 2)] * 2  # of one length, so that there is nothing to move
    for given_ in (arrays, whole):
        lengths = [len(array) for array in given_]
        padded = numlstm.pad_sequence(given_)
        packed = numlstm.pack_padded_sequence(padded, lengths)
        results = [padded, packed.data, *numlstm.unpack_sequence(packed), numlstm.pad_packed_sequence(packed)[0]]
        results += numlstm.unpad_sequence(padded, lengths) + numlstm.unpad_sequence(given_[0][None], [1], True)
        for n, result in enumerate(results):
            assert result.flags.writeable
            assert not any(np.shares_memory(result, other) for other in results[:n] + given_)


def test_views_and_other_layouts():
    x = np.arange(24).reshape(4, 3, 2)
    want = numlstm.pack_padded_sequence(x, [4, 2, 1])
    for other in (np.asfortranarray(x), x[::-1].copy()[::-1], np.repeat(x, 2, axis=1)[:, ::2]):
        assert equal(numlstm.pack_padded_sequence(other, [4, 2, 1])[:2], want[:2])
        first = numlstm.pack_padded_sequence(other.swapaxes(0, 1), [4, 2, 1], batch_first=True)
        assert equal(first[:2], want[:2])


def by_hand(data=None, sizes=(2, 1), **indices):
    return numlstm.PackedSequence(np.zeros((3, 3), "f4") if data is None else data, sizes, **indices)


x = np.zeros((4, 3, 3), "f4")
net = numlstm.LSTM(3, 4, 2, seed=0).eval()
packed = numlstm.pack_padded_sequence(x, [4, 2, 1])
unsorted = numlstm.pack_padded_sequence(x, [1, 4, 2], enforce_sorted=False)
z = np.zeros

# What is refused: a call, the type, and the first line.
REFUSED = {
    "above": (lambda: numlstm.pack_padded_sequence(x, [5, 4, 1]), RuntimeError, "at most 4, the number of steps"),
    "above, unsorted": (
        lambda: numlstm.pack_padded_sequence(x, [1, 5, 1], enforce_sorted=False), RuntimeError, "but found 5",
    ),
    "above, of a call": (lambda: net(x, lengths=[1, 5, 1]), RuntimeError, "at most 4.*but found 5"),
    "negative, of a call": (lambda: net(x, lengths=[1, -1, 1]), RuntimeError, "at least 0"),
    "too few, of a call": (lambda: net(x, lengths=[1, 2]), RuntimeError, "got 2 .batch_size=3"),
    "too many, of a call": (lambda: net(x, lengths=[1, 2, 3, 4]), RuntimeError, "got 4 .batch_size=3"),
    "0-D, of a call": (lambda: net(x, lengths=2), RuntimeError, "1D CPU int64 tensor, but got 0D"),
    "2-D, of a call": (lambda: net(x, lengths=[[1, 2, 3]]), RuntimeError, "1D CPU int64 tensor, but got 2D"),
    "no lengths, of a call": (lambda: net(x, lengths=[]), RuntimeError, "got 0 .batch_size=3"),
    "halves": (lambda: net(x, lengths=[1, 2.5, 1]), TypeError, "whole numbers, not .1.0, 2.5, 1.0"),
    "NaN": (lambda: net(x, lengths=[1, float("nan"), 1]), TypeError, "whole numbers"),
    "infinity": (lambda: net(x, lengths=[1, float("inf"), 1]), TypeError, "whole numbers"),
    "bools": (lambda: net(x, lengths=[True] * 3), TypeError, "whole numbers, not .* of bool"),
    "text": (lambda: net(x, lengths=["1", "2", "3"]), TypeError, "whole numbers"),
    "None": (lambda: net(x, lengths=[1, None, 1]), TypeError, "whole numbers"),
    "ragged": (lambda: net(x, lengths=[[1], 2, 3]), TypeError, "lengths must be an array"),
    "too large a number": (lambda: net(x, lengths=np.array([2**63, 1, 1], "u8")), TypeError, "whole numbers"),
    "unbatched": (lambda: net(x[:, 0], lengths=[4]), ValueError, "lengths is for a batch"),
    "lengths of packed": (lambda: net(packed, lengths=[4, 2, 1]), TypeError, "the input is packed"),
    "input of a call": (lambda: net(z((4, 3, 2)), lengths=[4, 2, 1]), RuntimeError, "input.size.-1. must be equal"),
    "input of 4-D": (lambda: net(z((4, 3, 2, 1)), lengths=[4, 2, 1]), ValueError, "Expected input to be 2D or 3D"),
    "complex": (lambda: net(x.astype(complex), lengths=[4, 2, 1]), TypeError, "input must hold real numbers"),
    "complex, packed": (lambda: net(by_hand(z((3, 3), complex))), TypeError, "data must hold real numbers"),
    "h_0": (lambda: net(x, (z((2, 4, 4)), z((2, 3, 4))), lengths=[4, 2, 1]), RuntimeError, "Expected hidden.0. size"),
    "h_0, packed": (lambda: net(unsorted, (z((2, 4, 4)), z((2, 4, 4)))), RuntimeError, "Expected hidden.0. size"),
    "c_0, packed": (lambda: net(packed, (z((2, 3, 4)), z((2, 3, 5)))), RuntimeError, "Expected hidden.1. size"),
    "hx 2-D, packed": (lambda: net(packed, (z((2, 4)), z((2, 4)))), RuntimeError, "should also be 3-D"),
    "one state, packed": (lambda: net(packed, (z((2, 3, 4)),)), IndexError, "tuple index out of range"),
    "three states, packed": (lambda: net(unsorted, (z((2, 3, 4)),) * 3), RuntimeError, "two hidden states"),
    "no tuple, packed": (lambda: net(packed, 5), TypeError, "hx must be a tuple"),
    "1-D": (lambda: net(by_hand(z(3))), RuntimeError, "input must have 2 dimensions, got 1"),
    "3-D": (lambda: net(by_hand(z((3, 3, 1)))), RuntimeError, "input must have 2 dimensions, got 3"),
    "features": (lambda: net(by_hand(z((3, 2)))), RuntimeError, "input.size.-1. must be equal to input_size"),
    "sum": (lambda: net(by_hand(sizes=[2, 2])), RuntimeError, "must sum to the number of rows in data, not to 4"),
    "rising": (lambda: net(by_hand(sizes=[1, 2])), RuntimeError, "positive and never larger than the one before"),
    "a zero": (lambda: net(by_hand(sizes=[3, 0])), RuntimeError, "positive and never larger"),
    "negative": (lambda: net(by_hand(sizes=[4, -1])), RuntimeError, "positive and never larger"),
    "no steps": (lambda: net(by_hand(z((0, 3)), [])), RuntimeError, "batch_sizes can not be empty"),
    "sizes 0-D": (lambda: net(by_hand(sizes=3)), RuntimeError, "1D CPU int64 tensor, but got 0D"),
    "sizes 2-D": (lambda: net(by_hand(sizes=[[2], [1]])), RuntimeError, "1D CPU int64 tensor, but got 2D"),
    "sizes of halves": (lambda: by_hand(sizes=[2.5, 0.5]), TypeError, "batch_sizes must hold whole numbers"),
    "data 0-D": (lambda: net(by_hand(z(()), [1])), RuntimeError, "must sum to the number of rows"),
    "data of text": (lambda: by_hand([["a"] * 3] * 3), TypeError, "data must hold numbers"),
    "indices twice": (lambda: by_hand(sorted_indices=[0, 0]), RuntimeError, "each of the numbers from 0 to 1 once"),
    "indices 2-D": (lambda: by_hand(sorted_indices=[[0, 1]]), RuntimeError, "each of the numbers"),
    "indices beyond": (lambda: net(by_hand(sorted_indices=[0, 1, 2])), RuntimeError, "sorted_indices must hold each"),
    "indices out of bounds": (
        lambda: net(by_hand(sorted_indices=[0, 1], unsorted_indices=[0, 7])), RuntimeError, "unsorted_indices must",
    ),
    "indices that differ": (
        lambda: net(by_hand(sorted_indices=[0, 1], unsorted_indices=[1, 0])), RuntimeError, "must be the inverse",
    ),
    "one of two": (lambda: net(by_hand(unsorted_indices=[1, 0])), RuntimeError, "must be the inverse"),
    "changed meanwhile": (lambda: net(packed._replace(data=packed.data[1:])), RuntimeError, "must sum to the number"),
    "a cell": (lambda: numlstm.LSTMCell(3, 4)(packed), AttributeError, "object has no attribute 'dim'"),
    "out": (lambda: net(packed, out=(z((7, 4), "f4"),) * 3), ValueError, "h_n in out must have shape"),
    "unpad, above": (lambda: numlstm.unpad_sequence(x, [4, 5, 1]), RuntimeError, "at most 4"),
    "unpad, negative": (lambda: numlstm.unpad_sequence(x, [4, -1, 1]), RuntimeError, "at least 0"),
    "masked": (lambda: numlstm.pad_sequence([np.ma.array([1, 2], mask=[0, 1])]), TypeError, "no masked elements"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    call, kind, first = REFUSED[name]
    with pytest.raises(kind, match=first) as caught:
        call()
    assert type(caught.value) is kind
    assert "\n" in str(caught.value) or name == "out", "what was received, and what to do"


def test_a_refused_call_changes_nothing():
    out = tuple(np.full(shape, 7, "f4") for shape in ((4, 3, 4), (2, 3, 4), (2, 3, 4)))
    for lengths in ([5, 1, 1], [1, -1, 1], [1, 2], [1.5, 1, 1]):
        with pytest.raises((RuntimeError, TypeError)):
            net(x, lengths=lengths, out=out)
    with pytest.raises(RuntimeError):
        net(by_hand(sizes=[1, 2]), out=out)
    assert all((array == 7).all() for array in out)


def test_whole_floats_are_lengths():
    for lengths in ([4.0, 2.0, 1.0], np.array([4, 2, 1], "f2"), np.array([4, 2, 1], ">u8"), (4, 2, 1), range(3, 0, -1)):
        assert numlstm.pack_padded_sequence(x, lengths).batch_sizes[0] == 3
        assert net(x, lengths=lengths)[0].shape == (4, 3, 4)


class FromElsewhere:
    """What has the parts of a packed sequence."""

    data, batch_sizes = [[1.0, 2.0, 3.0]] * 3, (2, 1)


def test_a_packed_sequence_from_elsewhere():
    output, _ = net(FromElsewhere())
    want, _ = net(by_hand(np.array(FromElsewhere.data)))
    assert equal(output[:2], want[:2]) and type(output) is numlstm.PackedSequence
