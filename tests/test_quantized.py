"""Weights in fewer bits: the bits of a float32 LSTM with the rounded weights, wherever an LSTM runs."""

import copy
import pickle

import numpy as np
import pytest
from click.testing import CliRunner
from judge import same_bits
from samples import CALLS, SIZES

import numlstm
from numlstm import optim, reference
from numlstm.base import bfloat16
from numlstm.cli import main

pytestmark = pytest.mark.cpu_level


def rounded_nearest(x):
    """The nearest bfloat16 of each number, ties to even, by arithmetic."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.float32(np.ldexp(np.rint(mantissa * 256), exponent - 8))


def pair(inputs, units, flags, seed=0):
    """An LSTM in float32 whose weights were rounded by arithmetic, and one whose weights are kept in bfloat16."""
    lstm = numlstm.LSTM(inputs, units, **flags, seed=seed).eval()
    quantized = lstm.quantize_weights("bfloat16")
    lstm.load_state_dict({k: rounded_nearest(v) if v.ndim == 2 else v for k, v in lstm.state_dict().items()})
    return lstm, quantized


def differences(lstm, quantized):
    """Calls whose bits differ."""
    rng, found = np.random.default_rng(1), []
    for steps, rows in CALLS:
        x = rng.standard_normal((steps, rows, lstm.input_size), np.float32)
        (output, states), (got, got_states) = lstm(x), quantized(x)
        if not (same_bits(output, got) and all(map(same_bits, states, got_states))):
            found.append((steps, rows))
    return found


@pytest.mark.parametrize(("inputs", "units", "flags"), [*SIZES, (20, 130, {"num_layers": 2})])
def test_the_bits_are_those_of_rounded_weights(inputs, units, flags):
    assert differences(*pair(inputs, units, flags)) == []


def test_another_rounding_would_be_noticed(monkeypatch):
    monkeypatch.setattr(bfloat16, "rounded", lambda x: (np.ascontiguousarray(x).view("u4") >> 16).astype("u2"))
    assert differences(*pair(6, 20, {})) == list(CALLS)


def test_rounding_goes_to_the_nearest_number():
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            rng.standard_normal(1000).astype(np.float32) * np.float32(2.0) ** rng.integers(-100, 100, 1000),
            np.float32(1) + np.arange(-8, 9, dtype=np.float32) * np.float32(2.0**-9),  # ties among them
        ]
    )
    assert same_bits(bfloat16.widened(bfloat16.rounded(x)), rounded_nearest(x))


@pytest.mark.parametrize("value", [np.inf, -np.inf, 0.0, -0.0, 1e-45, np.float32(2.0**-133)])
def test_special_weights_are_kept_or_become_zero(value):
    lstm = numlstm.LSTM(2, 3, seed=0)
    lstm.weight_ih_l0 = np.full((12, 2), value, np.float32)
    got = lstm.quantize_weights("bfloat16").weight_ih_l0
    assert same_bits(got, np.full((12, 2), 0 if value == 1e-45 else value, np.float32))


def test_nan_stays_nan():
    nan = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)  # the payload of one is in the lower half
    assert np.isnan(bfloat16.widened(bfloat16.rounded(nan))).all()


def test_streams_pools_and_packed_sequences_have_the_same_bits():
    lstm, quantized = pair(6, 20, {"num_layers": 2})
    x = np.random.default_rng(0).standard_normal((9, 6), np.float32)
    want, _ = lstm(x)
    stream = quantized.stream()
    assert same_bits(np.stack([stream(step) for step in x]), want)
    assert same_bits(quantized.stream()(x[:, None])[:, 0], want)
    pool = quantized.pool()
    session = pool.open()
    assert same_bits(np.stack([pool.step({session: step})[session] for step in x]), want)
    packed = numlstm.pack_sequence([x, x[:4]])
    assert same_bits(quantized(packed)[0].data, lstm(packed)[0].data)
    padded = np.stack([x, x], 1)
    assert same_bits(quantized(padded, lengths=[9, 4])[0], lstm(padded, lengths=[9, 4])[0])


def test_several_threads_have_the_same_bits():
    lstm, quantized = pair(64, 256, {"num_layers": 2})
    x = np.random.default_rng(0).standard_normal((20, 8, 64), np.float32)
    with numlstm.num_threads(3):
        assert same_bits(quantized(x)[0], lstm(x)[0])


def test_half_the_memory_is_read():
    lstm, quantized = pair(128, 128, {})
    assert quantized._panels.data.nbytes < 0.51 * lstm._panels.data.nbytes


def test_the_reference_agrees():
    _, quantized = pair(6, 20, {"proj_size": 5})
    x = np.random.default_rng(0).standard_normal((9, 2, 6), np.float32)
    want, _ = reference.lstm(quantized.state_dict(), x, dtype=np.float64, flush=np.float32)
    assert np.abs(quantized(x)[0] - want).max() < 2**-22


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_a_quantized_lstm_says_so_and_is_copied_as_one(weights):
    lstm = numlstm.LSTM(6, 4, num_layers=2, seed=0).eval().quantize_weights(weights)
    assert repr(lstm) == f"LSTM(6, 4, num_layers=2, weights='{weights}')"
    assert (lstm.weights, lstm.dtype, lstm.training) == (weights, np.float32, False)
    x = np.ones((3, 6), np.float32)
    for twin in (pickle.loads(pickle.dumps(lstm)), copy.copy(lstm), copy.deepcopy(lstm)):
        assert twin.weights == weights and same_bits(twin(x)[0], lstm(x)[0])
    back = lstm.quantize_weights("float32")
    assert back.weights == "float32" and all(map(same_bits, back.parameters(), lstm.parameters()))
    assert same_bits(back.quantize_weights(weights)(x)[0], lstm(x)[0])


def test_assigned_weights_are_rounded_too():
    _, lstm = pair(6, 4, {})
    lstm.weight_hh_l0 = np.full((16, 4), 1 + 2**-12, np.float32)
    assert (lstm.weight_hh_l0 == 1).all()


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_keep_them(tmp_path, suffix):
    lstm, quantized = pair(64, 64, {})
    path = tmp_path / f"model{suffix}"
    quantized.save(path)
    loaded = numlstm.load(path)
    assert loaded.weights == "bfloat16" and all(map(same_bits, loaded.parameters(), quantized.parameters()))
    assert numlstm.load(path, weights="float32").weights == "float32"
    if suffix == ".safetensors":
        whole = tmp_path / "whole.safetensors"
        lstm.save(whole)
        assert path.stat().st_size < 0.52 * whole.stat().st_size
        from safetensors import safe_open

        with safe_open(path, "numpy") as file:
            assert file.get_slice("weight_ih_l0").get_dtype() == "BF16"


def test_a_file_of_rounded_weights_loads_anywhere(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    _, quantized = pair(6, 4, {})
    quantized.save(tmp_path / "model.safetensors")
    module = torch.nn.LSTM(6, 4)
    module.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert same_bits(module.weight_ih_l0.detach().numpy(), quantized.weight_ih_l0)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_load_and_convert_round(tmp_path, weights):
    lstm = numlstm.LSTM(64, 64, seed=0)
    lstm.save(tmp_path / "a.npz")
    want = lstm.quantize_weights(weights)
    loaded = numlstm.load(tmp_path / "a.npz", weights=weights)
    assert loaded.weights == weights and all(map(same_bits, loaded.parameters(), want.parameters()))
    result = CliRunner().invoke(
        main, ["convert", str(tmp_path / "a.npz"), str(tmp_path / "b.safetensors"), "--weights", weights]
    )
    assert result.exit_code == 0 and f"weights='{weights}'" in result.output
    assert numlstm.load(tmp_path / "b.safetensors").weights == weights


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_what_cannot_be_is_refused(weights):
    lstm, double = numlstm.LSTM(2, 3), numlstm.LSTM(2, 3, dtype="float64")
    with pytest.raises(ValueError, match="weights must be 'float32', 'bfloat16' or 'int8', not 'int4'"):
        lstm.quantize_weights("int4")
    with pytest.raises(ValueError, match="go with float32"):
        double.quantize_weights(weights)
    quantized = lstm.quantize_weights(weights)
    with pytest.raises(ValueError, match="go with float32"):
        quantized.double()
    with pytest.raises(NotImplementedError, match="vjp needs weights in float32"):
        quantized.vjp(np.ones((2, 2), np.float32))
    with pytest.raises(NotImplementedError, match="Adam needs weights in float32"):
        optim.Adam(quantized)
    with pytest.raises(AttributeError, match="cannot be changed"):
        quantized.weights = "float32"
    assert quantized.dtype == np.float32 and quantized.weights == weights


def test_a_step_function_refuses_streams_of_another_kernel():
    lstm = numlstm.LSTM(2, 3, seed=0)
    streams = [lstm.stream(), lstm.quantize_weights("bfloat16").stream(), copy.deepcopy(lstm).double().stream()]
    steps = [numlstm.step_function(), numlstm.step_function(weights="bfloat16"), numlstm.step_function("float64")]
    for n, stream in enumerate(streams):
        stream.input[:] = 1
        assert [step(stream.address) for step in steps] == [0 if k == n else 2 for k in range(3)]
