"""numlstm.load_model: which files hold a model, and what damaged ones say."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import numlstm
from numlstm import LSTM, nn

MODEL = "numlstm.model"


def test_a_file_of_weights_alone_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    LSTM(2, 3).save(path)
    with pytest.raises(ValueError, match=r"weights\.safetensors: this safetensors file holds weights, and does"):
        numlstm.load_model(path)


GOOD = {
    "layers": [{"name": "rnn", "kind": "LSTM"}, {"name": "fc", "kind": "Linear"}, {"name": "end", "kind": "tanh"}],
    "skip": 0,
}


@pytest.mark.parametrize(
    "spec, says",
    [
        (GOOD, None),
        ([], "is no list of layers"),
        ({"layers": [1]}, "a layer without a name of its own"),
        ({"layers": [GOOD["layers"][0]] * 2}, "a layer without a name of its own"),
        ({"layers": [{"name": "rnn", "kind": "GRU"}]}, "layer 'rnn' is of the kind 'GRU', which this release"),
        ({"layers": [{"name": "rnn", "kind": ["LSTM"]}]}, "layer 'rnn' is of the kind"),
        ({"layers": [{"name": "lstm", "kind": "LSTM"}]}, "layer 'lstm' is an LSTM, whose tensors the file lacks"),
        ({"layers": [{"name": "rnn", "kind": "LSTM", "batch_first": 2}]}, "batch_first"),
        ({"layers": [{"name": "rnn", "kind": "LSTM", "dropout": "1"}]}, "dropout"),
        (
            {"layers": [{"name": "rnn", "kind": "Linear"}]},
            "layer 'rnn' is of the kind Linear, which its tensors",
        ),
        ({"layers": [{"name": "fc", "kind": "LayerNorm"}]}, "layer 'fc' is of the kind LayerNorm, which its tensors"),
        ({"layers": [{"name": "fc", "kind": "Embedding"}]}, "layer 'fc' is of the kind Embedding, which its tensors"),
        ({"layers": [{"name": "fc", "kind": "Linear", "size": 2}]}, "layer 'fc' has flags that do not fit it"),
        ({"layers": GOOD["layers"][::-1]}, "layer 'rnn' takes 2 features, and 'fc' gives 1"),
        ({"layers": [{"name": "d", "kind": "Dropout", "p": "x"}]}, ""),
        ({"layers": [{"name": "d", "kind": "Dropout", "q": 1}]}, "layer 'd' has flags that do not fit it"),
        ({"layers": GOOD["layers"], "skip": "1"}, "skip='1', which is no number"),
        ({"layers": []}, "at least one layer"),
    ],
)
def test_metadata_that_does_not_fit_its_tensors_is_an_error(spec, says, tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {f"rnn.{name}": array for name, array in LSTM(2, 4).state_dict().items()}
    tensors |= {f"fc.{name}": array for name, array in nn.Linear(4, 1).state_dict().items()}
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, {MODEL: json.dumps(spec)})
    if says is None:
        assert numlstm.load_model(path)([[1.0, 2.0]]).shape == (1, 1)
    else:
        with pytest.raises(ValueError, match=f"model.safetensors: .*({says})"):
            numlstm.load_model(path)
