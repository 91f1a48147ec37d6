"""What ``numlstm export --target wasm32`` writes, in Node and in headless Chromium: Python's bits, faults, workers."""

import platform

import numpy as np
import pytest
from browsers import FMA, TOLERANCE, Node, chromium, content_of, exported
from embedded import SIZES, model
from exported import Library
from judge import same_bits

import numlstm
from numlstm import nn
from numlstm.export import MODEL, export, link, targets
from numlstm.export.model_file import model_bytes
from numlstm.export.model_layout import Code

pytestmark = [pytest.mark.slow, pytest.mark.system]


@pytest.fixture(scope="module", params=["float32", "float64", "bfloat16"])
def kernel(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kernel, tmp_path_factory):
    return exported(model(SIZES[0], kernel), tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="module", params=["node", "chromium"])
def place(request, folder):
    if request.param == "node":
        yield Node(folder)
    else:
        with chromium(folder) as page:
            yield page


def modules(kernel):
    """LSTMs of all kinds of sizes, and some with heads."""
    yield from (model(sizes, kernel) for sizes in (*SIZES, {"input_size": 260, "hidden_size": 130}))
    if kernel != "bfloat16":
        some = {"dtype": kernel, "seed": 0}
        yield nn.Sequential(numlstm.LSTM(1, 40, **some), nn.Linear(40, 1, **some), skip=0.5)
        yield nn.Sequential(numlstm.LSTM(2, 13, **some), nn.Linear(13, 70, **some), nn.relu, nn.softmax)
        yield nn.Sequential(numlstm.LSTM(6, 20, **some), nn.tanh, nn.Linear(20, 3, **some), nn.sigmoid, skip=1)


@pytest.mark.parametrize("plain", [False, True])
def test_the_numbers_of_python(place, folder, kernel, plain):
    """Bits where the engine fuses, and within `TOLERANCE` elsewhere."""
    cases, wanted = [], []
    for number, module in enumerate(modules(kernel)):
        lstm = module.lstms[0] if isinstance(module, nn.Sequential) else module
        (folder / f"{number}.numlstm").write_bytes(content_of(module.eval()))
        for batch in (1, 5):
            x = np.random.default_rng(batch).standard_normal((11, batch, lstm.input_size)).astype(lstm.dtype)
            wanted += [(module(x) if module is not lstm else None, *lstm(x))] * (1 if lstm.bidirectional else 3)
            for room, piece in ((11, 11),) if lstm.bidirectional else ((11, 11), (4, 9), (1, 0)):
                cases.append(
                    {
                        "model": f"{number}.numlstm",
                        "x": x.ravel().tolist(),
                        "steps": 11,
                        "batch": batch,
                        "room": room,
                        "piece": piece,
                    }
                )
    told = place.call("checks.mjs", "outputs", {"plain": plain, "cases": cases})
    if place.__class__.__name__ == "Page" and FMA is not None:
        assert told["fused"] == (FMA and not plain)
    assert len(told["results"]) == len(wanted) > 50
    differing = 0
    for got, (of_module, y, (h, c)), case in zip(told["results"], wanted, cases, strict=True):
        for one, want in zip(got, (y if of_module is None else of_module, h, c), strict=True):
            numbers = np.array(one, want.dtype).reshape(want.shape)
            if told["fused"]:
                assert same_bits(numbers, want), case["model"]
            else:
                assert np.abs(numbers - want).max() < TOLERANCE, case["model"]
                differing += not same_bits(numbers, want)
    assert told["fused"] or differing > 20


def test_without_relaxed_simd_the_bits_are_those_of_level_x86_64(tmp_path):
    """A C library for any x86-64 has no fused multiply-add either, and registers of the same width."""
    if platform.machine() != "x86_64":
        pytest.skip("runs a library for x86-64")
    lstm, steps = model(SIZES[5], "float32"), 9
    exported(lstm, tmp_path)
    x = np.random.default_rng(0).standard_normal((steps, 2, lstm.input_size)).astype(np.float32)
    case = {"model": MODEL, "x": x.ravel().tolist(), "steps": steps, "batch": 2, "room": 4, "piece": steps}
    told = Node(tmp_path).call("checks.mjs", "outputs", {"plain": True, "cases": [case]})
    native = Library("float32", tmp_path, "x86-64")
    _, at, _kept = native.model(model_bytes(lstm._panels, native.level))
    _, state, _memory = native.state(at, 2, 4)
    want = np.empty((steps, 2, lstm.hidden_size), np.float32)
    assert native.forward(state, steps, x.ctypes.data, want.ctypes.data) == Code.OK
    assert not told["fused"] and same_bits(np.array(told["results"][0][0], np.float32).reshape(want.shape), want)
    assert not same_bits(want, lstm(x)[0])


def test_small_and_without_imports(folder):
    for name in ("numlstm.wasm", "numlstm-relaxed.wasm"):
        code = (folder / name).read_bytes()
        assert code[:4] == b"\0asm" and len(code) <= 150_000
        at, sections = 8, []
        while at < len(code):
            sections.append(code[at])
            length = shift = 0
            at += 1
            while True:
                byte = code[at]
                length |= (byte & 127) << shift
                shift, at = shift + 7, at + 1
                if byte < 128:
                    break
            at += length
        assert at == len(code) and 2 not in sections and 10 in sections  # imports, code


def test_a_prefix_names_the_files(tmp_path):
    export(model(SIZES[0]), tmp_path, target="wasm32", prefix="amp", echo=lambda line: None)
    names = ["amp-relaxed.wasm", "amp.d.ts", "amp.js", "amp.wasm", MODEL]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    code = (tmp_path / "amp.js").read_text()
    assert all(f'"./{name}"' in code for name in names if name.endswith(".wasm"))


def test_a_missing_linker_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(link.shutil, "which", lambda name: None)
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="there is no linker for WebAssembly; wasm-ld of LLVM or ziglang"):
        export(model(SIZES[0]), tmp_path / "out", target="wasm32")
    assert not (tmp_path / "out").exists()


def test_code_that_calls_a_library_is_refused(tmp_path, monkeypatch):
    """Without relaxed SIMD's own instruction, LLVM would call fmaf for every lane."""
    from numlstm.export import glue

    monkeypatch.setattr(glue, "with_relaxed_madd", lambda module: module)
    code = glue.kernel_object("float32", targets.WEB_RELAXED, "faulty")
    linker = link.find(targets.find("wasm32"))
    with pytest.raises(RuntimeError, match="undefined symbol: fmaf"):
        link.web(linker, {"kernel.o": code}, ["faulty_kernel"])
