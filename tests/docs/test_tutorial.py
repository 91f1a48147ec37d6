"""docs/tutorial.md runs as a doctest; here: that it says what it must, and that its stored numbers are PyTorch's."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from needs import need
from scripts import script

import numlstm

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
STORED = ROOT / "examples" / "multilayer_lstm.npz"

SHAPES = {
    **{"weight_ih_l0": (16, 6), "weight_hh_l0": (16, 4), "bias_ih_l0": (16,), "bias_hh_l0": (16,)},
    **{"weight_ih_l1": (16, 4), "weight_hh_l1": (16, 4), "bias_ih_l1": (16,), "bias_hh_l1": (16,)},
    **{"x": (5, 1, 6), "h_0": (2, 1, 4), "c_0": (2, 1, 4)},
    **{"output": (5, 1, 4), "h_n": (2, 1, 4), "c_n": (2, 1, 4)},
}


def examples():
    return doctest.DocTestParser().get_examples(TUTORIAL)


def run(text):
    """How many examples of a text fail."""
    test = doctest.DocTestParser().get_doctest(text, {}, "tutorial", None, 0)
    return doctest.DocTestRunner(verbose=False).run(test, out=lambda _: None).failed


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_it_takes_every_step():
    given = {example.want.strip() for example in examples()}
    assert {
        "LSTM(6, 4, num_layers=2)",
        "(5, 1, 6)",
        "(5, 1, 4)",
        "((2, 1, 4), (2, 1, 4))",
        "(True, True, True)",
    } <= given
    parameters = "\n".join(f"{name:12} {shape}" for name, shape in list(SHAPES.items())[:8])
    assert parameters in given
    assert "i | f | g | o" in TUTORIAL
    for argument in (
        "input_size",
        "hidden_size",
        "num_layers",
        "seed",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
    ):
        assert f"`{argument}`" in TUTORIAL


def test_its_examples_run_and_can_fail(at_root):
    assert run(TUTORIAL) == 0
    for right, wrong in (
        ("np.array_equal(output[-1], h_n[-1])", "np.array_equal(output[0], h_n[-1])"),
        ("i, f, g, o = np.split", "i, g, f, o = np.split"),
        ("lstm(x[3:], state)", "lstm(x[3:])"),
        ("[[ 0.1704,", "[[ 0.1705,"),
    ):
        assert TUTORIAL.count(right) > 0
        assert run(TUTORIAL.replace(right, wrong)) > 0


def test_continued_means_the_same_bits():
    lstm = numlstm.LSTM(6, 4, num_layers=2, seed=0)
    x = np.random.default_rng(7).standard_normal((5, 1, 6), dtype=np.float32)
    whole, last = lstm(x)
    for cut in range(1, 5):
        first, state = lstm(x[:cut])
        second, end = lstm(x[cut:], state)
        for one, other in ((np.concatenate([first, second]), whole), (end[0], last[0]), (end[1], last[1])):
            assert np.array_equal(one.view(np.uint32), other.view(np.uint32))


def test_stored_file_has_the_shapes_it_should():
    with np.load(STORED) as stored:
        assert {name: array.shape for name, array in stored.items()} == SHAPES
        assert {array.dtype.name for array in stored.values()} == {"float32"}


def test_stored_numbers_are_pytorchs(tmp_path, monkeypatch):
    need("torch")
    maker = script(ROOT / "examples" / "make_multilayer_lstm.py")
    monkeypatch.setattr(maker, "NPZ", tmp_path / "again.npz")
    maker.main()
    with np.load(maker.NPZ) as again, np.load(STORED) as stored:
        assert list(again) == list(stored) == list(SHAPES)
        for name in SHAPES:
            assert np.abs(again[name] - stored[name]).max() < 2**-22

    monkeypatch.setattr(maker.torch, "__version__", "2.12.0")
    with pytest.raises(SystemExit, match=r"torch is 2\.12\.0; the committed file comes from 2\.13\.0"):
        maker.main()
