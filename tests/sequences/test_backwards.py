"""An LSTM that runs from the last step to the first, against turning its sequences around by hand."""

import copy
import pickle

import numpy as np
import pytest
from judge import same_bits

import numlstm
from numlstm.commands.run import run_file
from numlstm.export import export

DIRECTIONS = ("reverse", "go_backwards")
FLAGS = [{}, {"batch_first": True}, {"num_layers": 3, "bias": False, "dtype": "float64"}, {"proj_size": 2}]
STEPS, ROWS = 7, 3


def twins(direction, **flags):
    """An LSTM that runs backwards, and one with the same parameters that runs forward."""
    ahead = numlstm.LSTM(3, 4, seed=0, **flags).eval()
    net = copy.deepcopy(ahead)
    net.direction = direction
    return net, ahead


def given(net):
    shape = (ROWS, STEPS, 3) if net.batch_first else (STEPS, ROWS, 3)
    return np.random.default_rng(1).standard_normal(shape).astype(net.dtype)


def axis_of(net, x):
    return int(net.batch_first and x.ndim == 3)


def same(got, want):
    return same_bits(got[0], want[0]) and all(same_bits(a, b) for a, b in zip(got[1], want[1], strict=True))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("unbatched", [False, True])
def test_a_call_turns_time_around(direction, flags, unbatched):
    net, ahead = twins(direction, **flags)
    x = given(net)
    x = x[0] if unbatched and net.batch_first else x[:, 0] if unbatched else x
    axis = axis_of(net, x)
    hx = tuple(state + 0.5 for state in ahead(x)[1])
    for states in (None, hx):
        output, ends = ahead(np.flip(x, axis), states)
        want = (np.ascontiguousarray(np.flip(output, axis)) if direction == "reverse" else output), ends
        for _ in range(3):  # the forward twin's calls become fast ones
            assert same(net(x, states), want)
        out = tuple(np.empty_like(array) for array in (want[0], *ends))
        result = net(x, states, out=out)
        assert same(result, want) and result[0] is out[0]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_fast_call_of_the_forward_lstm_is_not_taken(direction):
    net = numlstm.LSTM(3, 4, seed=0).eval()
    x = given(net)
    ahead = net(x), net(x), net(x)
    net.direction = direction
    back = net(x)
    assert not same_bits(back[1][0], ahead[0][1][0])
    net.direction = "forward"
    assert same(net(x), ahead[0])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [[7, 4, 1], [1, 7, 4], [7, 7, 7]])
def test_each_sequence_is_turned_within_its_length(direction, batch_first, lengths):
    net, ahead = twins(direction, batch_first=batch_first, num_layers=2)
    x = given(net)
    rows = x if batch_first else x.swapaxes(0, 1)
    padded = net(x, lengths=lengths)
    packed = net(numlstm.pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False))
    unpacked, _ = numlstm.pad_packed_sequence(packed[0], batch_first=batch_first, total_length=STEPS)
    assert same((unpacked, packed[1]), padded)
    outputs = padded[0] if batch_first else padded[0].swapaxes(0, 1)
    ahead.batch_first = False
    for n, length in enumerate(lengths):
        output, (h_n, c_n) = ahead(rows[n, :length][::-1])
        assert same_bits(outputs[n, :length].copy(), (output[::-1] if direction == "reverse" else output).copy())
        assert not outputs[n, length:].any()
        assert same_bits(padded[1][0][:, n].copy(), h_n) and same_bits(padded[1][1][:, n].copy(), c_n)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_it_is_shown_copied_and_saved(direction, tmp_path):
    net, _ = twins(direction, num_layers=2)
    assert repr(net) == f"LSTM(3, 4, num_layers=2, direction={direction!r})"
    x = given(net)
    net.save(tmp_path / "m.npz")
    net.save(tmp_path / "m.safetensors")
    others = [copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    others += [numlstm.load(tmp_path / name) for name in ("m.npz", "m.safetensors")]
    for other in others:
        assert repr(other) == repr(net) and same(other(x), net(x))
    (found,) = numlstm.list_lstms(tmp_path / "m.npz")
    assert found.config.direction == direction and f"direction={direction!r}" in str(found)


def test_a_file_of_a_forward_lstm_says_nothing_of_it(tmp_path):
    """Earlier releases refuse a file with words that they do not know."""
    numlstm.LSTM(3, 4).save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as file:
        assert '"direction"' not in str(file["numlstm.config"])


def test_a_direction_in_a_file_is_checked(tmp_path):
    numlstm.LSTM(3, 4, bidirectional=True).save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as file:
        arrays = dict(file)
    text = str(arrays["numlstm.config"])[:-1]
    for direction in ("reverse", "up"):
        arrays["numlstm.config"] = np.array(f'{text}, "direction": "{direction}"}}')
        np.savez(tmp_path / "m.npz", **arrays)
        with pytest.raises(ValueError, match="does not fit its tensors"):
            numlstm.load(tmp_path / "m.npz")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_has_not_seen_the_last_step_is_refused(direction, tmp_path):
    net, _ = twins(direction)
    for make in (net.stream, net.pool):
        with pytest.raises(ValueError, match=f"direction='{direction}' cannot run as a .*: it begins at the last step"):
            make()
    with pytest.raises(NotImplementedError, match="trace is built for LSTMs that run forward"):
        net.trace(given(net))
    with pytest.raises(NotImplementedError, match="vjp is built for LSTMs that run forward"):
        net.vjp(given(net))
    with pytest.raises(NotImplementedError, match="export is built for LSTMs that run forward"):
        export(net, tmp_path)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_pieces_of_a_long_input_are_whole_sequences(direction, tmp_path):
    net, _ = twins(direction)
    x = given(net)
    net.save(tmp_path / "m.npz")
    np.save(tmp_path / "x.npy", x)
    run_file(tmp_path / "m.npz", tmp_path / "x.npy", tmp_path / "y.npz", None, None, None, 1)
    with np.load(tmp_path / "y.npz") as made:
        assert same((made["output"], (made["h_n"], made["c_n"])), net(x))


def test_directions_that_do_not_exist():
    with pytest.raises(ValueError, match="direction must be one of 'forward', 'reverse', 'go_backwards', not 'up'"):
        numlstm.LSTM(3, 4).direction = "up"
    with pytest.raises(ValueError, match="a bidirectional LSTM runs in both directions; direction cannot be 'reverse'"):
        numlstm.LSTM(3, 4, bidirectional=True).direction = "reverse"


def test_errors_are_those_of_a_forward_call():
    net, ahead = twins("reverse")
    for wrong in (np.ones(3), np.ones((2, 2, 2, 3)), np.ones((5, 2, 4)), np.ones((0, 2, 3)), "text"):
        with pytest.raises(Exception) as want:
            ahead(wrong)
        with pytest.raises(type(want.value)) as got:
            net(wrong)
        assert str(got.value) == str(want.value)
