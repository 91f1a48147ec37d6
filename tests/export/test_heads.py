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
from numlstm.export import export, parts
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
    lstm, stages = parts(model)
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
        ([LSTM(2, 3), LSTM(3, 2)], "layer '1' cannot be exported: .*hidden_size or flags"),
        ([LSTM(2, 3), nn.Linear(3, 2), LSTM(2, 3)], "layer '2' cannot be exported"),
        ([LSTM(2, 3, bidirectional=True), nn.last_state], "layer '0' cannot be exported: last_state follows it"),
        ([LSTM(2, 3), nn.log_softmax], "layer '1' cannot be exported: it is log_softmax"),
    ],
)
def test_what_a_library_has_not_is_named(layers, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        export(nn.Sequential(*layers), tmp_path)
    assert not list(tmp_path.iterdir())


MODELS = Path(__file__).parents[1] / "fixtures" / "models"


def test_models_of_other_frameworks_are_exported_with_their_heads(loaded, tmp_path):
    """A step gives what the model gives for the steps so far, also where it takes the last state."""
    if loaded.number != np.float32:
        pytest.skip("the fixtures are float32")
    pytest.importorskip("onnx", exc_type=ImportError)
    x = np.random.default_rng(0).standard_normal((7, 1, 2)).astype(np.float32)
    for name, count in (("forecaster_script.onnx", 2), ("amplifier_dynamo.onnx", 1)):
        path = MODELS / name
        done = invoke("export", path, "-o", tmp_path)
        assert "the LSTM alone" not in done.output
        model = numlstm.load_model(path)
        given = x if model.lstms[0].input_size == 2 else x[..., :1].copy()
        stream = model.stream()
        steps = np.stack([stream(frame if count == 2 else frame[0]) for frame in given]).reshape(7, 1, -1)
        assert same_bits(results(loaded, (tmp_path / "model.numlstm").read_bytes(), given, steps.shape[2], 0), steps)


def test_a_model_of_keras_is_exported_with_its_head(loaded, tmp_path):
    if loaded.number != np.float64:
        pytest.skip("the fixture is float64")
    path = MODELS / "float64.keras"
    assert "the LSTM alone" not in invoke("export", path, "-o", tmp_path).output
    model = numlstm.load_model(path)
    x = np.random.default_rng(0).standard_normal((5, 1, 2))
    steps = results(loaded, (tmp_path / "model.numlstm").read_bytes(), x, 2, 0)
    stream = model.sequential().stream()
    assert same_bits(steps[:, 0], np.stack([stream(frame) for frame in x[:, 0]]))
    np.testing.assert_allclose(steps[-1], model(x[:, 0][None]), rtol=1e-13)


def test_layers_that_follow_one_another_are_one_lstm(tmp_path):
    stack = nn.Sequential(LSTM(2, 3, bidirectional=True, seed=0), LSTM(6, 3, num_layers=2, bidirectional=True, seed=1))
    lstm, heads = parts(stack)
    x = np.random.default_rng(0).standard_normal((5, 2, 2))
    assert lstm.num_layers == 3 and not heads and same_bits(lstm(x)[0], stack(x))


def test_states_to_begin_with_are_named(tmp_path):
    with pytest.raises(ValueError, match="begins with states of its own"):
        export(numlstm.load_model(FOLDER / "amp.nam"), tmp_path)


def test_the_example_is_such_a_model():
    example = Path(numlstm.__file__).parents[1] / "examples" / "amplifier.json"
    assert "lin.weight" in json.loads(example.read_text())["state_dict"]
    assert len(parts(numlstm.load_model(example))[1]) == 1
