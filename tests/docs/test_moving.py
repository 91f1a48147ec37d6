"""docs/moving.md: what its tables say of Keras is evaluated and compared with what Keras gives."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from needs import need

import numlstm

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "moving.md").read_text("utf-8")
FIXTURES = ROOT / "tests" / "fixtures"
MODEL = FIXTURES / "keras" / "keras3_moving.keras"
WITHIN = 1e-6
pytestmark = pytest.mark.filterwarnings("ignore:.*Keras skips the steps")  # the page's lengths= is the answer to it


def cell(layer):
    """What the page says of a layer of Keras, without the quotes of its code."""
    (said,) = re.findall(rf"^\| `{re.escape(layer)}`[^|]* \| (.+) \|$", PAGE, re.M)
    return said


def code(layer):
    return cell(layer).strip("`")


def returned(layer, name, masked):
    """What the page's code makes of the layer of that name in the model file."""
    with np.load(FIXTURES / "keras" / "keras3_moving.npz") as kept:
        x = kept["x"]
    lstm = numlstm.load(MODEL, name)
    call = code("Masking()") if masked else "lstm(x)"
    output, (h_n, c_n) = eval(call, {"lstm": lstm, "x": x})
    return eval(code(layer), {"np": np, "output": output, "h_n": h_n, "c_n": c_n})


LAYERS = {
    "last": "LSTM(64)",
    "steps": "LSTM(64, return_sequences=True)",
    "both": "Bidirectional(LSTM(64))",
    "both_steps": "Bidirectional(LSTM(64, return_sequences=True))",
}


def furthest(given, name, masked):
    """The largest difference from Keras, over the steps that are not masked."""
    got, want = returned(LAYERS[name], f"masked_{name}" if masked else name, masked), given
    if masked and name.endswith("steps"):
        got, want = got.copy(), want.copy()
        assert not got[1, 3:].any()  # as the page says
        if name == "steps":
            assert (want[1, 3:] == want[1, 2]).all()
        got[1, 3:] = want[1, 3:] = 0
    assert got.shape == want.shape
    return np.abs(got - want).max()


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_page_gives_what_keras_gave(name, masked):
    with np.load(FIXTURES / "keras" / "keras3_moving.npz") as kept:
        want = kept[f"masked_{name}" if masked else name]
    assert furthest(want, name, masked) < WITHIN


@pytest.mark.slow
def test_the_page_gives_what_keras_gives(monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "torch")
    need("torch")
    keras = need("keras")
    monkeypatch.syspath_prepend(str(FIXTURES))
    from keras_models import padded

    model = keras.models.load_model(MODEL)
    given = {name: keras.ops.convert_to_numpy(value) for name, value in model(padded()).items()}
    for name in LAYERS:
        assert furthest(given[name], name, False) < WITHIN
        assert furthest(given[f"masked_{name}"], name, True) < WITHIN
    state = keras.layers.LSTM(2, return_state=True)
    output, h, c = (keras.ops.convert_to_numpy(array) for array in state(padded()))
    ours = numlstm.LSTM(3, 2, batch_first=True).eval()
    kernel, recurrent, bias = (keras.ops.convert_to_numpy(weight) for weight in state.weights)
    ours.load_state_dict(
        {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T, "bias_ih_l0": bias, "bias_hh_l0": 0 * bias}
    )
    _, (h_n, c_n) = ours(padded())
    said = cell("LSTM(64, return_state=True)").replace("`", "")
    for got, want in zip(eval(f"({said})", {"h_n": h_n, "c_n": c_n}), (output, h, c), strict=True):
        assert np.abs(got - want).max() < WITHIN
    sys.modules.pop("keras_models", None)


@pytest.mark.parametrize(
    "name, masked, wrong",
    [("both", False, "output[:, -1]"), ("last", True, "output[:, -1]"), ("both", False, "h_n[-1]"),
     ("both", True, "np.concatenate([h_n[-1], h_n[-2]], axis=-1)")],
)  # fmt: skip
def test_another_mapping_is_noticed(name, masked, wrong, monkeypatch):
    right = code(LAYERS[name])
    monkeypatch.setattr(sys.modules[__name__], "PAGE", PAGE.replace(f"| `{right}` |", f"| `{wrong}` |"))
    with np.load(FIXTURES / "keras" / "keras3_moving.npz") as kept:
        want = kept[f"masked_{name}" if masked else name]
    try:
        apart = furthest(want, name, masked)
    except AssertionError:
        return
    assert apart > 1e-3


def test_lengths_of_tokens():
    """`mask_zero`: the page's lengths are those that Keras's mask leaves."""
    tokens, embedded = np.array([[3, 1, 2, 0, 0], [1, 2, 3, 4, 5]]), np.ones((2, 5, 3), np.float32)
    lstm = numlstm.LSTM(3, 4, batch_first=True, seed=0).eval()
    call = code("Embedding(..., mask_zero=True)")
    _, (h_n, _) = eval(call, {"lstm": lstm, "tokens": tokens, "embedded": embedded})
    _, (alone, _) = lstm(embedded[:1, :3])
    assert np.array_equal(h_n[:, :1].view(np.int32), alone.view(np.int32))
