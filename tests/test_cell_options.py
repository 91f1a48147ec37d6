"""Cells with options: other activations, peepholes, clipped and coupled gates.

ONNX Runtime computed the outputs in tests/fixtures/cells. The equations in NumPy give the same, and the kernels give
what the equations give, in the bits of any batch.
"""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from judge import close, equal, error, exact, same_bits
from needs import need

import numlstm
from numlstm import CellOptions, reference
from numlstm.base.cell_options import ACTIVATIONS, PLAIN, of_kernel
from numlstm.kernels.loading import registry
from numlstm.runtime import planner

FOLDER = Path(__file__).parent / "fixtures" / "cells"
CASES = sorted(path.stem for path in FOLDER.glob("*.onnx"))
MIXED = CellOptions(f="HardSigmoid", h="Relu", clip=1.0, peepholes=True)
COUPLED = CellOptions(g="Softsign", h=("ScaledTanh", 1.7, 0.6), clip=2.0, peepholes=True, input_forget=True)
CURVED = CellOptions(f="Softplus", g=("Elu", 0.5), h="Tanh", input_forget=True)


def golden(case):
    """The options, the equations' way to run the file's node, its input, and what ONNX Runtime gave."""
    need("onnx")
    with np.load(FOLDER / "outputs.npz") as entries:
        own = {key.partition(":")[2]: entries[key] for key in entries.files if key.startswith(f"{case}:")}
    net = numlstm.load(FOLDER / f"{case}.onnx")
    output = np.concatenate(list(own["Y"].swapaxes(0, 1)), axis=-1)
    return net, own["x"], (own["h_0"], own["c_0"]), (output, (own["Y_h"], own["Y_c"]))


def by_equations(net, x, hx, options):
    if net.direction == "forward":
        return reference.lstm(net.state_dict(), x, hx, options=options)
    output, states = reference.lstm(net.state_dict(), x[::-1], hx, options=options)
    return output[::-1], states


# ---------------------------------------------------------------- the options


@pytest.mark.parametrize("case", CASES)
def test_the_equations_give_what_onnx_runtime_gave(case):
    net, x, hx, want = golden(case)
    assert not net.cell_options.plain
    assert error(by_equations(net, x, hx, net.cell_options), want) < 2e-6
    if case not in ("peepholes", "peepholes_both_ways"):  # these are parameters, and not in the options alone
        assert error(by_equations(net, x, hx, PLAIN), want) > 1e-3


def test_every_activation_is_among_the_cases():
    used = {part[0] for case in CASES for part in golden(case)[0].cell_options[:3]}
    assert used == set(ACTIVATIONS)


def test_clips_beyond_saturation_change_nothing():
    assert CellOptions(clip=50) == PLAIN and CellOptions(clip=49.9) != PLAIN
    assert CellOptions(f=("HardSigmoid", 0.2, 0.5), clip=50).clip == math.inf
    assert CellOptions(f=("HardSigmoid", 0.01, 0.5), clip=49.9).clip == 49.9
    assert CellOptions(g="Relu", clip=9999).clip == 9999  # never flat


@pytest.mark.parametrize(
    "arguments, kind, says",
    [
        ({"f": "gelu"}, ValueError, "there is no activation 'gelu'; there are Sigmoid, Tanh, Relu"),
        ({"f": ("Relu", 1.0)}, ValueError, "Relu takes 0 numbers, not 1"),
        ({"g": "Affine"}, ValueError, "Affine has no usual alpha, beta; pass the tuple"),
        ({"h": ("Elu", math.nan)}, ValueError, "the numbers of Elu must be finite"),
        ({"h": 3}, TypeError, "an activation must be a name, or a tuple"),
        ({"clip": 0}, ValueError, "clip must be above 0, not 0"),
        ({"clip": math.nan}, ValueError, "clip must be above 0, not nan"),
        ({"clip": "1"}, TypeError, "clip must be a number, not '1'"),
        ({"peepholes": 1}, TypeError, "peepholes must be True or False, not 1"),
    ],
)
def test_what_is_refused(arguments, kind, says):
    with pytest.raises(kind, match=says):
        CellOptions(**arguments)


@pytest.mark.parametrize("options", [PLAIN, MIXED, COUPLED, CellOptions(g=("Affine", -1e-30, 1e30))])
def test_a_kernels_name_holds_them_all(options):
    assert of_kernel(options.kernel("float64")) == ("float64", options)
    assert "/" not in options.kernel("float32") and len(options.kernel("float32")) < 150


def test_they_are_told_and_fixed():
    lstm = numlstm.LSTM(3, 4, seed=0, cell_options=MIXED)
    assert repr(lstm) == f"LSTM(3, 4, cell_options={MIXED!r})"
    assert repr(numlstm.LSTMCell(3, 4, cell_options=MIXED)) == f"LSTMCell(3, 4, cell_options={MIXED!r})"
    assert lstm.weight_ch_l0.shape == (12,)
    with pytest.raises(AttributeError, match="cannot be changed"):
        lstm.cell_options = PLAIN
    with pytest.raises(TypeError, match=r"cell_options must be a numlstm.CellOptions, not 'relu'"):
        numlstm.LSTM(3, 4, cell_options="relu")
    for what, call in (("vjp", lambda: lstm.vjp(np.ones((2, 3)))), ("CUDA", lstm.cuda)):
        with pytest.raises((NotImplementedError, RuntimeError), match=f"{what} is built for the plain cell|CUDA"):
            call()
    with pytest.raises(NotImplementedError, match="vjp is built for the plain cell"):
        numlstm.LSTMCell(3, 4, cell_options=MIXED).vjp(np.ones((2, 3)))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".onnx"])
@pytest.mark.parametrize("options", [MIXED, COUPLED, CellOptions(f=("HardSigmoid", 0.1, 0.25), g="LeakyRelu")])
@pytest.mark.parametrize("flags", [{"num_layers": 2, "bidirectional": True}, {"proj_size": 2}, {"dtype": "float64"}])
def test_files_keep_them(suffix, options, flags, tmp_path):
    if suffix == ".onnx":
        need("onnx")
    lstm = numlstm.LSTM(3, 4, seed=0, cell_options=options, **flags)
    cell = numlstm.LSTMCell(3, 4, seed=0, cell_options=options)
    for module in (lstm, cell):
        module.save(tmp_path / f"model{suffix}")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = numlstm.load(tmp_path / f"model{suffix}")
        assert repr(again) == repr(module)
        assert equal(tuple(again.parameters()), tuple(module.parameters()))


def test_options_that_do_not_fit_the_tensors_are_refused(tmp_path):
    from safetensors.numpy import save_file

    metadata = '{"kind": "LSTM", "input_size": 3, "hidden_size": 4, "cell_options": %s}'
    state = numlstm.LSTM(3, 4, seed=0).state_dict()
    for text in ('{"peepholes": true}', '{"f": "gelu"}', '{"f": ["Relu", [1]]}', '{"more": 1}', "[]", "7"):
        save_file(state, tmp_path / "m.safetensors", {"numlstm.config": metadata % text})
        with pytest.raises(ValueError, match=r"its metadata numlstm.config is .* does not fit its tensors"):
            numlstm.load(tmp_path / "m.safetensors")
    save_file(state, tmp_path / "m.safetensors", {"numlstm.config": metadata % '{"g": "Relu"}'})
    assert numlstm.load(tmp_path / "m.safetensors").cell_options == CellOptions(g="Relu")
    save_file(state | {"weight_ch_l0": np.ones(12, np.float32)}, tmp_path / "m.safetensors")
    assert numlstm.load(tmp_path / "m.safetensors").cell_options == CellOptions(peepholes=True)


@pytest.mark.parametrize("flags", [{"bidirectional": True, "num_layers": 2}, {"proj_size": 2}])
@pytest.mark.parametrize("options", [MIXED, COUPLED, CURVED, CellOptions(g=("Affine", 0.5, 0.1), h="Softsign")])
def test_exported_onnx_models_compute_the_same(options, flags, tmp_path):
    """Those with LSTM nodes, and with proj_size those that hold the equations."""
    runtime = need("onnxruntime")
    need("onnx")
    lstm = numlstm.LSTM(3, 4, seed=0, cell_options=options, **flags).eval()
    lstm.save(tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    h_0, c_0 = (np.ones(shape, np.float32) for shape in lstm._config.state_shapes(2))
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    output, h_n, c_n = session.run(None, {"input": x, "h_0": h_0, "c_0": c_0})
    assert error((output, (h_n, c_n)), exact(lstm, x, (h_0, c_0))) < 2e-6


# ---------------------------------------------------------------- the kernels: each is compiled here

KERNELS = [(MIXED, "float32"), (COUPLED, "float64"), (CURVED, "float32")]


@pytest.fixture(scope="module", params=KERNELS, ids=["mixed", "coupled, float64", "curved"])
def compiled(request):
    """Options and a number type, whose kernel is loaded."""
    options, number = request.param
    registry.kernel(number, options)
    return options, number


def net_of(compiled, *sizes, **flags):
    options, number = compiled
    return numlstm.LSTM(*sizes, seed=1, dtype=number, cell_options=options, **flags).eval()


def numbers(compiled, *shape, seed=0):
    return 2 * np.random.default_rng(seed).normal(size=shape).astype(compiled[1])


@pytest.mark.slow
@pytest.mark.cpu_level
@pytest.mark.parametrize(
    "sizes, flags, rows",
    [
        ((3, 5), {}, 1),
        ((3, 16), {}, 7),
        ((3, 37), {"num_layers": 2, "bidirectional": True}, 5),  # tail blocks
        ((3, 33), {}, 26),
        ((40, 300), {}, 13),  # hoisted, K-blocks
        ((3, 20), {"proj_size": 7}, 4),
    ],
)
def test_kernels_give_what_the_equations_give(compiled, sizes, flags, rows):
    net = net_of(compiled, *sizes, **flags)
    x = numbers(compiled, 9, rows, sizes[0])
    hx = tuple(numbers(compiled, *shape, seed=n) for n, shape in enumerate(net._config.state_shapes(rows)))
    got, want = net(x, hx), exact(net, x, hx)
    largest = max(1.0, float(np.abs(want[1][1]).max()))
    assert error(got, want) < 2e-5 * largest * (1 if compiled[1] == "float32" else 2.0**-29)
    if compiled[0].peepholes:  # and they are no others
        state = net.state_dict()
        net.load_state_dict({name: -value if "_ch" in name else value for name, value in state.items()})
        assert error(net(x, hx), want) > 1e-3


@pytest.mark.slow
@pytest.mark.cpu_level
def test_bits_are_those_of_each_row_alone(compiled):
    net = net_of(compiled, 6, 21, 2, bidirectional=True)
    x = numbers(compiled, 8, 27, 6)
    whole, (_, c_n) = net(x)
    for row in (0, 5, 26):
        output, (_, c) = net(x[:, row : row + 1])
        assert same_bits(output[:, 0], whole[:, row]) and same_bits(c[:, 0], c_n[:, row])
    lengths = [8, 3] * 13 + [5]
    padded, states = net(x, lengths=lengths)
    packed = numlstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    output, again = net(packed)
    assert equal(numlstm.pad_packed_sequence(output)[0], padded) and equal(states, again)
    assert same_bits(padded[:3, 1], net(x[:3, 1])[0])
    for changes in ({"hoist": True}, {"hoist": True, "k_block_min": 1}, {"mr": 1}, {"beyond_l2": True}):
        with planner.override(**changes):
            assert same_bits(net(x)[0], whole)
    with numlstm.num_threads(2):
        assert same_bits(net(x)[0], whole)


@pytest.mark.slow
@pytest.mark.cpu_level
def test_streams_pools_and_cells_have_the_same_bits(compiled):
    net = net_of(compiled, 6, 21)
    x = numbers(compiled, 8, 2, 6)
    want = net(x)[0]
    stream = net.stream(2)
    assert same_bits(np.stack([stream(step) for step in x]), want)
    stream.reset()
    assert same_bits(stream(x), want)
    pool = net.pool()
    sessions = [pool.open(), pool.open()]
    for step, output in zip(x, want, strict=True):
        got = pool.step(dict(zip(sessions, step, strict=True)))
        assert all(same_bits(got[session], row) for session, row in zip(sessions, output, strict=True))
    cell = numlstm.LSTMCell(6, 21, dtype=compiled[1], cell_options=compiled[0])
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in net.state_dict().items()})
    states = None
    for step in x:
        states = cell(step, states)
    assert same_bits(states[0], want[-1])
    stream.reset()
    stream.input[:] = x[0]
    assert numlstm.step_function(compiled[1], cell_options=compiled[0])(stream.address) == 0
    assert same_bits(stream.output, want[0])


@pytest.mark.slow
def test_a_trace_is_consistent(compiled):
    net = net_of(compiled, 3, 7, bidirectional=True)
    x = numbers(compiled, 6, 2, 3)
    hx = tuple(numbers(compiled, *shape) for shape in net._config.state_shapes(2))
    trace = net.trace(x, hx)
    near = 4e-6 if compiled[1] == "float32" else 4e-14
    for n, own in enumerate((trace["l0"], trace["l0_reverse"])):
        before = np.concatenate([hx[1][n][None], own.c[:-1]]) if n == 0 else np.concatenate([own.c[1:], hx[1][n][None]])
        assert np.abs(own.f * before + own.i * own.g - own.c).max() < near
        assert np.abs(own.o * reference.activated(compiled[0].h, own.c) - own.h).max() < near
        assert not compiled[0].input_forget or close(own.f, 1 - own.i)


@pytest.mark.slow
def test_nan_and_infinity_stay_in_their_row(compiled):
    net = net_of(compiled, 3, 9)
    x = numbers(compiled, 5, 4, 3)
    want = net(x)[0]
    x[2, 1, 0], x[2, 3, 0] = np.nan, np.inf
    got, judged = net(x)[0], exact(net, x)[0]
    assert same_bits(got[:, [0, 2]], want[:, [0, 2]])
    assert np.isnan(got[2:, 1]).all() and (np.isnan(got) == np.isnan(judged)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_over_its_whole_range(name):
    """Of c alone, on the engine's own instructions: relative error, signs, infinities, NaN."""
    numbers = {"Affine": (0.7, 0.0), "ScaledTanh": (1.7, 0.7), "ThresholdedRelu": (0.25,)}.get(name, ())
    function = numlstm.base.cell_options.activation((name, *numbers))
    for number in ("float32", "float64"):
        value = values_of(function, number)
        rng = np.random.default_rng(0)
        x = np.concatenate(
            [rng.normal(size=4000) * 10.0 ** rng.uniform(-30, 1.9, 4000), [0, 0.25, -86.5, 86.5, 3e38, -3e38]]
        )
        x = np.concatenate([x, [np.inf, -np.inf, np.nan]]).astype(number)
        x = np.resize(x, -(-len(x) // 64) * 64)
        got = np.empty_like(x)
        value(x.ctypes.data, got.ctypes.data, len(x))
        want = reference.activated(function, x.astype(np.longdouble), number)
        assert (np.isnan(got) == np.isnan(want)).all() and (np.isinf(got) == np.isinf(want.astype(number))).all()
        plain = np.isfinite(want) & (np.abs(want) > np.finfo(number).tiny) & (np.abs(want) < np.finfo(number).max)
        if name == "HardSigmoid":  # which cancels
            plain &= want > 0.01
        relative = np.abs(got[plain] - want[plain]) / np.abs(want[plain])
        assert relative.max() < 4 * np.finfo(number).eps


def values_of(function, number):
    """A C function of (source, target, count) that applies an activation."""
    import ctypes

    import llvmlite.binding as llvm
    from numba import types

    from numlstm.kernels.activations import functions
    from numlstm.kernels.compiler import standalone
    from numlstm.kernels.loading import build
    from numlstm.kernels.loading.linker import link  # noqa: F401
    from numlstm.kernels.simd import Simd

    level = registry.level()
    simd = Simd(number, level.lanes(number), level.fused)
    of_one, load, store, lanes = functions(simd, *function), simd.load, simd.store, simd.lanes

    def values(source, target, count):
        for k in range(0, count, lanes):
            store(target, k, of_one(load(source, k)))

    entry = standalone(values)
    entry.compile(types.void(simd.pointer, simd.pointer, types.int64))
    module = build.bare_module({"values": entry})
    machine = build.target_machine(level)
    build.optimise(module, machine, ("values",))
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(
        engine.get_function_address("values")
    )
    run.engine = engine
    return run
