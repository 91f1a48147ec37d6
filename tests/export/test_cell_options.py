"""Exported libraries of cells with options: built for one cell, they refuse the models of any other."""

import numpy as np
import pytest
from exported import Library, content_of
from judge import same_bits

import numlstm
from numlstm.export.model_layout import VERSION, Code, Model
from numlstm.kernels.loading import registry

OPTIONS = numlstm.CellOptions(f="HardSigmoid", clip=1.0, peepholes=True)


def test_models_of_other_cells_have_another_version():
    """So libraries from before options existed refuse them."""
    level = registry.level()
    plain, other = (
        np.frombuffer(content_of(numlstm.LSTM(3, 4, seed=0, cell_options=options), level)[:128], np.int64)
        for options in (None, OPTIONS)
    )
    assert plain[Model.VERSION] == VERSION and plain[Model.CELL] == 0
    assert other[Model.VERSION] > VERSION and other[Model.CELL] & 1


@pytest.mark.slow
def test_a_library_computes_the_cell_that_it_was_built_for(tmp_path):
    lstm = numlstm.LSTM(3, 20, 2, seed=0, cell_options=OPTIONS).eval()
    built = Library(OPTIONS.kernel("float32"), tmp_path)
    code, model, _kept = built.model(content_of(lstm, built.level))
    assert code == Code.OK
    code, state, _memory = built.state(model, 2, 5)
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    got = np.empty((5, 2, 20), np.float32)
    assert code == built.forward(state, 5, x.ctypes.data, got.ctypes.data) == Code.OK
    assert same_bits(got, lstm(x)[0])
    for options in (None, OPTIONS._replace(clip=2.0), OPTIONS._replace(peepholes=False)):
        other = numlstm.LSTM(3, 20, 2, seed=0, cell_options=options)
        assert built.model(content_of(other, built.level))[0] == Code.CELL
