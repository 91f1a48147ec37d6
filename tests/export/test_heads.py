"""Exported models with Linear layers and activations behind the LSTM: the bits of Python, and damaged files."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import invoke
from exported import Library, changed, sealed
from judge import same_bits

import numlstm
from numlstm import LSTM, nn
from numlstm.export import _parts, export
from numlstm.export.model_file import model_bytes
from numlstm.export.model_layout import HEAD_BYTES, Code, HeadWords, Model

pytestmark = [pytest.mark.slow, pytest.mark.cpu_level]

FOLDER = Path(__file__).parents[1] / "fixtures" / "json"


@pytest.fixture(scope="module", params=["float32", "float64"])
def loaded(request, tmp_path_factory):
    return Library(request.param, tmp_path_factory.mktemp("library"))


def models(dtype):
    def lstm(*sizes, **flags):
        return LSTM(*sizes, dtype=dtype, seed=0, **flags)

    def linear(*sizes, **flags):
        return nn.Linear(*sizes, dtype=dtype, seed=1, **flags)

    yield nn.Sequential(lstm(1, 40), linear(40, 1), skip=0.5)
    yield nn.Sequential(lstm(2, 13, num_layers=2), linear(13, 5), nn.relu, nn.Dropout(), linear(5, 70), nn.softmax)
    yield nn.Sequential(lstm(6, 20), nn.tanh, linear(20, 3, bias=False), nn.sigmoid, nn.relu, skip=1)
    yield nn.Sequential(lstm(3, 9, bidirectional=True), linear(18, 33), nn.tanh)


def content_of(model, level):
    lstm, stages = _parts(model)
    return model_bytes(lstm._panels, level, [stage.packed(level.lanes(lstm.dtype.name)) for stage in stages])


def results(loaded, content, x, room, piece):
    """The outputs of a C library for (steps, batch, features), ``piece`` steps a call; 0: single steps."""
    code, at, _model = loaded.model(content)
    assert code == Code.OK
    steps, rows, _ = x.shape
    _, state, _memory = loaded.state(at, rows, room)
    y = np.full((steps, rows, loaded.output_size(at)), np.nan, x.dtype)
    for first in range(0, steps, piece or 1):
        read, written = x[first:].ctypes.data, y[first:].ctypes.data
        count = min(piece, steps - first)
        code = loaded.forward(state, count, read, written) if piece else loaded.step(state, read, written)
        assert code == Code.OK
    return y


def test_the_bits_of_python(loaded):
    for model in models(loaded.number.name):
        content = content_of(model.eval(), loaded.level)
        bidirectional = model.lstms[0].bidirectional
        for rows in (1, 3):
            x = np.random.default_rng(rows).standard_normal((7, rows, model.lstms[0].input_size)).astype(loaded.number)
            want = model(x)
            ways = [(7, 7)] if bidirectional else [(7, 7), (3, 7), (4, 5), (1, 0)]
            for room, piece in ways:
                assert same_bits(results(loaded, content, x, room, piece), want), (model, rows, room, piece)


def test_damaged_and_forged_heads_are_refused(loaded):
    first, second, *_ = models(loaded.number.name)
    good = content_of(second, loaded.level)
    at = len(content_of(nn.Sequential(second.lstms[0]), loaded.level)) // 8
    assert loaded.model(good)[0] == Code.OK
    forged = [
        changed(good, Model.HEADS, 3),
        changed(good, Model.HEADS, 1),
        changed(good, Model.HEADS, -1),
        changed(good, Model.HEADS, 1 << 40),
        changed(good, Model.OUTPUT_SIZE, 71),
        changed(good, at + HeadWords.OUTPUTS, 6),
        changed(good, at + HeadWords.OUTPUTS, 0),
        changed(good, at + HeadWords.OUTPUTS, 1 << 40),
        changed(good, at + HeadWords.LINEAR, 0),
        changed(good, at + HeadWords.LINEAR, 2),
        changed(good, at + HeadWords.ACTIVATION, 5),
        changed(good, at + HeadWords.SKIP, 1),  # five numbers of an input of two
        changed(good, at + HeadWords.SKIP, 2),
    ]
    for content in forged:
        assert loaded.model(sealed(content))[0] == Code.SIZES
    short = good[: 8 * at + HEAD_BYTES - 8]
    assert loaded.model(sealed(changed(short, Model.BYTES, len(short))))[0] == Code.SIZES
    assert loaded.model(content_of(first, loaded.level))[0] == Code.OK


def test_the_command_exports_an_amplifier(loaded, tmp_path):
    if loaded.number != np.float32:
        pytest.skip("JSON is float32")
    path = FOLDER / "guitarml.json"
    invoke("export", path, "-o", tmp_path)
    model = numlstm.load_model(path)
    x = np.random.default_rng(0).standard_normal((9, 1, 2)).astype(np.float32)
    assert same_bits(results(loaded, (tmp_path / "model.numlstm").read_bytes(), x, 1, 0), model(x))
    invoke("export", path, "-o", tmp_path, "--hidden")
    hidden = results(loaded, (tmp_path / "model.numlstm").read_bytes(), x, 4, 9)
    assert same_bits(hidden, numlstm.load(path)(x)[0])


@pytest.mark.parametrize(
    "layers, says",
    [
        ([nn.Embedding(3, 2), LSTM(2, 3)], "layer '0' comes before the LSTM"),
        ([LSTM(2, 3), LSTM(3, 2)], "layer '1' cannot be exported"),
        ([LSTM(2, 3), nn.log_softmax], "layer '1' cannot be exported: it is log_softmax"),
        ([LSTM(2, 3), nn.last_state, nn.Linear(3, 1)], "layer '0' cannot be exported: last_state follows it"),
    ],
)
def test_what_a_library_has_not_is_named(layers, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        export(nn.Sequential(*layers), tmp_path)
    assert not list(tmp_path.iterdir())


def test_states_to_begin_with_are_named(tmp_path):
    with pytest.raises(ValueError, match="begins with states of its own"):
        export(numlstm.load_model(FOLDER / "amp.nam"), tmp_path)


def test_the_example_is_such_a_model():
    example = Path(numlstm.__file__).parents[1] / "examples" / "amplifier.json"
    assert "lin.weight" in json.loads(example.read_text())["state_dict"]
    assert len(_parts(numlstm.load_model(example))[1]) == 1
