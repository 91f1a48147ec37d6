"""An amplifier in JavaScript, in Node and in headless Chromium: faults, streams, a worker, an AudioWorklet, types."""

import re
from pathlib import Path

import numpy as np
import pytest
from browsers import FMA, TOLERANCE, Node, chromium, content_of, exported
from exported import changed, sealed
from judge import same_bits

import numlstm
from numlstm.export import MODEL
from numlstm.export.model_layout import TEXTS, Code, Model

pytestmark = [pytest.mark.slow, pytest.mark.system]


@pytest.fixture(scope="module")
def amplifier(tmp_path_factory):
    """A folder with an amplifier, which `numlstm.load_model` gives too."""
    path = Path(__file__).parents[2] / "examples" / "amplifier.json"
    module = numlstm.load_model(path)
    return exported(module, tmp_path_factory.mktemp("web")), module


@pytest.fixture(scope="module")
def page(amplifier):
    with chromium(amplifier[0]) as opened:
        yield opened


@pytest.fixture(params=["node", "chromium"])
def playing(request, amplifier):
    return Node(amplifier[0]) if request.param == "node" else request.getfixturevalue("page")


def test_faults_are_exceptions_and_the_instance_stays_usable(playing, amplifier):
    folder, module = amplifier
    good = (folder / MODEL).read_bytes()
    bad = {
        Code.DAMAGED: good[:-1] + b"\1",
        Code.TRUNCATED: good[:-64],
        Code.LEVEL: sealed(changed(good, Model.LEVEL, 2)),
        Code.NUMBER: sealed(changed(good, Model.NUMBER, 8)),
        Code.SIZES: sealed(changed(good, Model.HIDDEN_SIZE, 41)),
        Code.VERSION: changed(good, Model.VERSION, 99),
    }
    for code, content in bad.items():
        (folder / f"{code.name}.numlstm").write_bytes(content)
    (folder / "both.numlstm").write_bytes(content_of(numlstm.LSTM(2, 3, bidirectional=True, seed=0)))
    told = playing.call(
        "checks.mjs",
        "faults",
        {"good": MODEL, "bad": {code.name: f"{code.name}.numlstm" for code in bad}, "both": "both.numlstm"},
    )
    assert told["same"] and told["kept"] == module.lstms[0].hidden_size
    said = told["said"]
    for code in bad:
        assert said[code.name] == f"Error: {TEXTS[code]}"
    cannot = "bytes of memory are needed, and WebAssembly's memory cannot grow by that"
    for name, part in {
        "too many numbers": "RangeError: x has 2 numbers; expected are 1 (batch x inputSize)",
        "too few": "RangeError: x has 0 numbers; expected are 1",
        "no array": "TypeError: x must be a Float32Array or an array of numbers",
        "nothing": "TypeError: x must be",
        "no numbers": "TypeError: x must be",
        "a hole": "TypeError: x must be",
        "part of a step": "RangeError: steps is 1.5; it must be a whole number of at least 0",
        "other steps": "RangeError: x has 3 numbers; expected are 2 (steps x batch x inputSize)",
        "short out": "RangeError: out has 2 numbers; expected are 3",
        "no batch": "RangeError: batch is 0; it must be a whole number of at least 1",
        "half a row": "RangeError: batch is 0.5;",
        "too large a batch": f"Error: {TEXTS[Code.STEPS]}",
        "no memory": cannot,
        "a little too much": cannot,
        "freed": "Error: this stream was freed",
        "freed h": "Error: this stream was freed",
        "freed reset": "Error: this stream was freed",
        "h of another size": "RangeError: h has 1 numbers; expected are 40",
        "no model": f"Error: {TEXTS[Code.NOT_A_MODEL]}",
        "empty": f"Error: {TEXTS[Code.TRUNCATED]}",
        "no such file": "absent.numlstm",
        "a step both ways": f"Error: {TEXTS[Code.BIDIRECTIONAL]}",
        "a long sequence both ways": f"Error: {TEXTS[Code.STEPS]}",
    }.items():
        assert part in said.pop(name), (name, told["said"])
    assert len(said) == len(bad)


def test_streams_share_a_model_and_freed_memory_is_used_again(playing):
    x = np.sin(np.arange(30) / 3).astype(np.float32).tolist()
    told = playing.call("checks.mjs", "streams", {"model": MODEL, "x": x})
    assert told["same"] and told["last"] and told["into"]
    assert told["pages"] < 20 and told["empty"] == 0


def test_a_worker_and_an_audio_worklet(page, amplifier):
    """A second of sound by OfflineAudioContext, which begins with silence as Python's stream does."""
    _, module = amplifier
    page.said.clear()
    x = np.random.default_rng(0).uniform(-1, 1, 48000).astype(np.float32)
    want = module(x.reshape(-1, 1, 1)).ravel()
    for function in ("worker", "audio"):
        got = np.array(page.call("checks.mjs", function, {"model": MODEL, "x": x.tolist()}), np.float32)
        assert same_bits(got, want) if FMA else np.abs(got - want).max() < TOLERANCE, function
    assert not page.said


def test_types_and_code_have_the_same_members(amplifier):
    folder, _ = amplifier
    code, types = ((folder / f"numlstm.{ending}").read_text() for ending in ("js", "d.ts"))
    assert "@" not in code.replace("@vite-ignore", "") and "@PREFIX@" not in types and "@ARRAY@" not in types
    declared = set(
        re.findall(r"^  (?:static |readonly |get |set )*(\w+)[(:]", types[types.index("class LSTM") :], re.M)
    )
    body = code[code.index("export class LSTM") :]
    members = set(re.findall(r"^  (?:static |async |get |set )*(\w+)\(", body, re.M))
    members |= set(re.findall(r"^    this\.(\w+) =", body, re.M))
    assert members == declared and len(members) > 15


def test_the_code_of_the_page_about_it_runs(amplifier):
    """The first example of docs/web.md, with numbers of a sine; it ends with a state of zeros."""
    folder, module = amplifier
    text = (Path(__file__).parents[2] / "docs" / "web.md").read_text("utf-8")
    code = text.partition("```js\n")[2].partition("```")[0]
    given = "const x = [0.5], steps = 9, xs = Float32Array.from({ length: 9 }, (_, n) => n / 10);\n"
    (folder / "page.mjs").write_text(
        given + code + "export const results = () => ({ y: [...y], ys: [...ys], h: [...lstm.h] });"
    )
    told = Node(folder).call("page.mjs", "results", None)
    xs = np.concatenate([[0.5], np.arange(9) / 10]).astype(np.float32)
    want = module(xs.reshape(-1, 1, 1)).ravel()
    assert np.abs(np.array([*told["y"], *told["ys"]]) - want).max() < TOLERANCE
    assert len(told["h"]) == 40 and not any(told["h"])
