"""Weights in int8: the definition bit for bit, and the same bits wherever an LSTM runs."""

import hashlib
import json

import numpy as np
import pytest
import samples
from click.testing import CliRunner
from judge import same_bits
from samples import CALLS

import numlstm
from numlstm import reference
from numlstm.base import int8
from numlstm.cli import main
from numlstm.export import export
from numlstm.kernels.loading import levels, registry
from numlstm.runtime import planner

pytestmark = pytest.mark.cpu_level

SIZES = (*samples.SIZES, (300, 130, {"num_layers": 2}))  # some have terms that are no multiple of four
FORCED = (
    {"hoist": True},
    {"hoist": True, "hoist_steps": 2},
    {"hoist": False},
    {"beyond_l2": True},
    {"mr": 1},
    {"k_block_min": 1 << 20},
    {"group": 2},
)
DIGEST = "d4030d6e008e0e03"


def made(inputs, units, flags, seed=0):
    return numlstm.LSTM(inputs, units, **flags, seed=seed).eval().quantize_weights("int8")


def numbers(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def activations(units):
    """The engine's float32 cell without products: its gates before activation are its input, exactly."""
    lstm = numlstm.LSTM(4 * units, units, bias=False, seed=0).eval()
    lstm.weight_ih_l0, lstm.weight_hh_l0 = np.eye(4 * units, dtype=np.float32), np.zeros((4 * units, units), np.float32)
    return lstm


def steps_that_differ(lstm, x):
    """Steps of one layer whose bits are not those of the definition's sums."""
    parameters, cell, found = lstm.state_dict(), activations(lstm.hidden_size), []
    own = {name.removesuffix("_l0"): value for name, value in parameters.items()}
    h = c = np.zeros((x.shape[1], lstm.hidden_size), np.float32)
    for t, step in enumerate(x):
        gates = np.concatenate(reference.gate_sums(own, step, h, dtype=np.float32, int8=True), axis=1)
        want = cell(gates[None], (np.zeros_like(h)[None], c[None]))[1]
        got = lstm(step[None], (h[None], c[None]))[1]
        if not all(map(same_bits, want, got)):
            found.append(t)
        h, c = got[0][0], got[1][0]
    return found


@pytest.mark.parametrize(
    ("inputs", "units", "flags"), [(1, 40, {}), (6, 4, {}), (3, 24, {"bias": False}), (130, 70, {})]
)
def test_the_bits_are_those_of_the_definition(inputs, units, flags):
    lstm = made(inputs, units, flags)
    for rows in (1, 2, 7):
        assert steps_that_differ(lstm, numbers(5, rows, inputs)) == []


def test_another_rounding_would_be_noticed(monkeypatch):
    right = reference.int8_rows
    monkeypatch.setattr(reference, "int8_rows", lambda rows: (np.trunc(right(rows)[0] * 0.999), right(rows)[1]))
    assert steps_that_differ(made(6, 20, {}), numbers(3, 2, 6)) == [0, 1, 2]


@pytest.mark.parametrize(("inputs", "units", "flags"), SIZES)
def test_the_reference_agrees(inputs, units, flags):
    lstm = made(inputs, units, flags)
    for steps, rows in CALLS:
        x = numbers(steps, rows, inputs)
        want, _ = reference.lstm(lstm.state_dict(), x, dtype=np.float64, flush=np.float32, int8=True)
        assert np.abs(lstm(x)[0] - want).max() < 2**-21


def test_weights_are_rounded_as_the_reference_does():
    w = numbers(40, 33) * np.float32(2.0) ** np.arange(-20, 20, dtype=np.float32)[:, None]
    w[3] = 0
    integers, scales = int8.rounded(w)
    expected, expected_scales = reference.int8_weights(w)
    assert np.array_equal(integers, expected) and same_bits(scales, expected_scales) and scales[3] == 0
    assert (np.abs(integers).max(axis=1)[np.arange(40) != 3] == 127).all()
    exact = integers.astype(np.float64) * scales[:, None]
    assert np.array_equal(int8.widened(integers, scales), exact)
    assert all(map(np.array_equal, int8.rounded(int8.widened(integers, scales)), (integers, scales)))


def every_result(lstm, x):
    output, (h_n, c_n) = lstm(x)
    return b"".join(part.tobytes() for part in (output, h_n, c_n))


@pytest.mark.parametrize(("inputs", "units", "flags"), SIZES)
@pytest.mark.parametrize("changes", FORCED)
def test_every_path_has_the_same_bits(inputs, units, flags, changes):
    lstm = made(inputs, units, flags)
    for steps, rows in CALLS:
        x = numbers(steps, rows, inputs)
        want = every_result(lstm, x)
        with planner.override(**changes):
            assert every_result(lstm, x) == want, (steps, rows)


def test_the_bits_are_those_of_every_cpu():
    if not registry.level().fused:
        pytest.skip("activations have other bits without fused multiply-add")
    hashed = hashlib.sha256()
    for inputs, units, flags in SIZES:
        hashed.update(every_result(made(inputs, units, flags), numbers(9, 3, inputs)))
    assert hashed.hexdigest()[:16] == DIGEST


def test_rows_and_steps_are_independent_of_the_others():
    lstm = made(6, 50, {"num_layers": 2})
    x = numbers(9, 5, 6)
    output, (h_n, c_n) = lstm(x)
    for row in range(5):
        assert same_bits(lstm(x[:, row : row + 1])[0][:, 0], output[:, row])
    first, state = lstm(x[:4])
    last, (h, c) = lstm(x[4:], state)
    assert same_bits(np.concatenate([first, last]), output) and same_bits(h, h_n) and same_bits(c, c_n)


def test_streams_pools_and_packed_sequences_have_the_same_bits():
    lstm = made(6, 20, {"num_layers": 2})
    x = numbers(9, 6)
    want, _ = lstm(x)
    stream = lstm.stream()
    assert same_bits(np.stack([stream(step) for step in x]), want)
    assert same_bits(lstm.stream()(x[:, None])[:, 0], want)
    pool = lstm.pool()
    session = pool.open()
    assert same_bits(np.stack([pool.step({session: step})[session] for step in x]), want)
    packed = numlstm.pack_sequence([x, x[:4]])
    outputs, _ = numlstm.pad_packed_sequence(lstm(packed)[0])
    assert same_bits(outputs[:, 0], want) and same_bits(outputs[:4, 1], want[:4])
    padded, out = np.stack([x, x], 1), lstm(np.stack([x, x], 1))
    assert same_bits(lstm(padded, lengths=[9, 4])[0][:4], out[0][:4])
    into = tuple(np.empty_like(part) for part in (out[0], *out[1]))
    lstm(padded, out=into)
    assert same_bits(into[0], out[0])


@pytest.mark.parametrize("call", [(64, 256, {"num_layers": 2}, 20, 8), (40, 200, {"bidirectional": True}, 9, 1),
                                  (40, 256, {"proj_size": 64}, 9, 2), (64, 512, {}, 6, 1)])  # fmt: skip
def test_several_threads_have_the_same_bits(call):
    inputs, units, flags, steps, rows = call
    lstm = made(inputs, units, flags)
    x = numbers(steps, rows, inputs)
    with numlstm.num_threads(1):
        want = every_result(lstm, x)
    for _ in range(5):  # workers come late at first
        with numlstm.num_threads(3):
            assert every_result(lstm, x) == want
    with planner.override(schedule=planner.USUAL._replace(partition=planner.Partition.BLOCKS)), numlstm.num_threads(3):
        assert every_result(lstm, x) == want


def test_a_quarter_of_the_memory_is_read():
    lstm = numlstm.LSTM(256, 256, seed=0)
    assert lstm.quantize_weights("int8")._panels.data.nbytes < 0.28 * lstm._panels.data.nbytes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_with_a_number_that_is_not_finite_is_nan(value):
    lstm = made(20, 40, {})
    x = numbers(4, 3, 20)
    want = lstm(x)[0]
    x[1, 1, 17] = value
    got = lstm(x)[0]
    assert np.isnan(got[1:, 1]).all()
    got[1:, 1] = want[1:, 1]
    assert same_bits(got, want)
    h_0 = np.zeros((1, 3, 40), np.float32)
    h_0[0, 2, 39] = value
    assert np.isnan(lstm(x, (h_0, np.zeros_like(h_0)))[0][:, 2]).all()


def test_small_and_large_numbers():
    lstm = made(4, 8, {})
    zeros = lstm(np.zeros((2, 1, 4), np.float32))[0]
    for faint in (2.0**-101, 1e-45):
        assert same_bits(lstm(np.full((2, 1, 4), faint, np.float32))[0], zeros)
    large = lstm(np.full((2, 1, 4), 3e38, np.float32))[0]
    assert np.isfinite(large).all()
    h_0 = np.full((1, 1, 8), 50, np.float32)  # beyond what a cell computes, and not cut off
    x, c_0 = numbers(3, 1, 4), np.zeros((1, 1, 8), np.float32)
    want, _ = reference.lstm(lstm.state_dict(), x, (h_0, c_0), dtype=np.float64, flush=np.float32, int8=True)
    assert np.abs(lstm(x, (h_0, c_0))[0] - want).max() < 2**-21


def test_rows_of_small_weights_are_zeros():
    lstm = numlstm.LSTM(2, 3, seed=0)
    lstm.weight_ih_l0 = np.full((12, 2), 2.0**-101, np.float32)
    lstm.weight_hh_l0 = np.zeros((12, 3), np.float32)
    got = lstm.quantize_weights("int8")
    assert not got.weight_ih_l0.any() and not got.weight_hh_l0.any()
    assert np.isfinite(got(numbers(3, 2))[0]).all() and np.isnan(got(np.full((3, 2), np.inf))[0]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4028235e38])
def test_weights_that_have_no_int8_are_refused(value):
    lstm = numlstm.LSTM(2, 3, seed=0)
    quantized = lstm.quantize_weights("int8")
    bad = np.ones((12, 2), np.float32)
    bad[7, 1] = value
    with pytest.raises(ValueError, match=r"weight_ih_l0 has numbers that are not finite or too large"):
        quantized.weight_ih_l0 = bad
    lstm.weight_ih_l0 = bad
    with pytest.raises(ValueError, match=r"weight_ih_l0 has numbers that are not finite or too large"):
        lstm.quantize_weights("int8")
    assert np.abs(quantized.weight_ih_l0).max() < 1


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_keep_them(tmp_path, suffix):
    lstm = numlstm.LSTM(64, 64, seed=0).eval()
    quantized, path, x = lstm.quantize_weights("int8"), tmp_path / f"model{suffix}", numbers(5, 64)
    quantized.save(path)
    loaded = numlstm.load(path)
    assert loaded.weights == "int8" and all(map(same_bits, loaded.parameters(), quantized.parameters()))
    assert same_bits(loaded(x)[0], quantized(x)[0])
    assert numlstm.load(path, weights="float32").weights == "float32"
    result = CliRunner().invoke(main, ["inspect", str(path)])
    assert result.exit_code == 0, result.output
    if suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "numpy") as file:
            parts = {name: file.get_slice(name) for name in ("weight_hh_l0", "weight_hh_l0_scale", "bias_ih_l0")}
            kinds = {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
            whole = file.get_tensor("weight_hh_l0") * file.get_tensor("weight_hh_l0_scale")
        assert kinds["weight_hh_l0"] == ("I8", [256, 64]) and kinds["weight_hh_l0_scale"] == ("F32", [256, 1])
        assert kinds["bias_ih_l0"] == ("F32", [256]) and same_bits(whole, quantized.weight_hh_l0)
        assert path.stat().st_size < 0.3 * 4 * (2 * 256 * 64 + 512)


def with_header(data, change):
    """The bytes of a safetensors file with another header."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def test_too_many_features_are_refused():
    with pytest.raises(ValueError, match="at most 131072 features"):
        numlstm.LSTM(131073, 1).quantize_weights("int8")


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    made(6, 5, {}).save(path)
    data = path.read_bytes()

    def other_shape(header):
        header["weight_hh_l0_scale"]["shape"] = [4, 5]

    path.write_bytes(with_header(data, other_shape))  # as no scale at all: integers alone are no weights
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        numlstm.load(path)
    infinite = data.replace(numlstm_scale(data), np.full(20, np.inf, np.float32).tobytes())
    path.write_bytes(infinite)
    with pytest.raises(ValueError, match="not finite or too large"):
        numlstm.load(path)


def numlstm_scale(data):
    """The bytes of the scales of W_hh."""
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])["weight_hh_l0_scale"]["data_offsets"]
    return data[8 + length + begin : 8 + length + end]


def test_check_tells_what_rounding_changes(tmp_path):
    lstm = numlstm.LSTM(16, 16, seed=0)
    files = str(tmp_path / "a.npz"), str(tmp_path / "b.safetensors")
    lstm.save(files[0])
    lstm.quantize_weights("int8").save(files[1])
    result = CliRunner().invoke(main, ["check", files[0], "--weights", "int8"])
    assert result.exit_code == 0 and "change of the output by weights in int8" in result.output
    result = CliRunner().invoke(main, ["check", files[1]])
    assert result.exit_code == 1 and "its weights are int8" in result.output


def test_a_trace_has_the_gates_of_rounded_numbers():
    lstm = made(6, 20, {})
    x = numbers(4, 6)
    trace = lstm.trace(x)
    assert same_bits(trace.output, lstm(x)[0])
    own = {name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()}
    cell = next(iter(trace.cells.values()))
    i = reference.gate_sums(own, x[1:], cell.h[:-1], dtype=np.float32, int8=True)[0]
    assert np.abs(cell.i[1:] - reference.sigmoid(i.astype(np.float64))).max() < 2**-21


def test_export_is_refused(tmp_path):
    with pytest.raises(NotImplementedError, match="exported libraries compute with weights in float32"):
        export(made(2, 3, {}), tmp_path)


def test_the_level_follows_the_cpu():
    v4, v3 = levels.LEVELS["x86-64-v4"], levels.LEVELS["x86-64-v3"]
    assert v4.of("int8", {"avx512_vnni"}).name == "x86-64-v4-vnni" and v4.of("int8", set()) == v3
    assert v4.of("float32", {"avx512_vnni"}) == v4 and v3.of("int8", {"avx512_vnni"}) == v3
