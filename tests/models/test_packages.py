"""Models that packages on PyPI ship give their packages' own predictions, without the frameworks that these need.

What the frameworks computed is written down here: Keras 3.15 for the files of Keras; PyTorch is asked again.
"""

import numpy as np
import pytest
from needs import need, need_files

import numlstm
from numlstm import LSTM, nn

pytestmark = pytest.mark.system

PROTEINS = [  # tokens of amino acids, for which asmscan-bilstm sees the motif that it looks for
    [int(token) for token in line.split()] + [0] * padding
    for line, padding in (
        ("17 13 12 8 6 20 11 2 19 14 10 7 14 19 2 14 14 13 5 4 18 3 6 9 8 17 2 6 17 5 14 8 17 13 15 6 9 17 10 11", 0),
        ("20 2 3 7 17 15 9 12 13 14 6 2 14 1 17 6 6 3 8 5 6 7 5 3 9 14 10 17 13 5 17 6 9 2 12 10 16 14 6 12", 0),
        ("5 6 12 11 4 12 17 13 8 17 13 10 11 14 10 10 13 5 2 6 9 5 2 17 9 8 17 17 6 5", 10),
    )
]
BY_KERAS = {
    1: [0.9986593723297119, 0.9980564117431641, 0.9960753321647644],
    2: [0.9993404746055603, 0.9993404746055603, 0.6228366494178772],
    3: [0.9994701743125916, 0.9975255131721497, 0.9930566549301147],
    4: [0.9993293285369873, 0.9954298734664917, 0.9939336180686951],
    5: [0.9985178112983704, 0.9782310128211975, 0.5301643013954163],
    6: [0.9993896484375, 0.9990915060043335, 0.32899874448776245],
}


@pytest.mark.parametrize("number", BY_KERAS)
def test_asmscan_bilstm(number):
    """Six models of Keras 2: Embedding, a bidirectional LSTM, an LSTM, Dense."""
    path = need_files("asmscan") / "bilstm" / "resources" / "model" / "cvms" / f"bass-model{number}.h5"
    model = numlstm.load_model(path)
    found = model(PROTEINS)
    np.testing.assert_allclose(found[:, 0], BY_KERAS[number], rtol=0, atol=2e-6)
    np.testing.assert_allclose(model.sequential()(PROTEINS), found, rtol=0, atol=2e-6)


def test_flavorfetcher():
    """Two inputs, each with an LSTM and a Dense layer of its own, from Keras 2."""
    (path,) = (need_files("flavorfetcher") / "data").glob("*.h5")
    rng = np.random.default_rng(0)
    words = {name: rng.standard_normal((3, n, 300)).astype(np.float32) for name, n in (("input_1", 1), ("input_2", 7))}
    expected = [
        [0.9999504089355469, 4.962846651324071e-05],
        [0.9997082352638245, 0.00029172140057198703],
        [0.9989469647407532, 0.0010530248982831836],
    ]
    np.testing.assert_allclose(numlstm.load_model(path)(words), expected, rtol=2e-4, atol=1e-6)


def test_arabic_morph_segmenter():
    """A checkpoint of PyTorch: Embedding, two bidirectional layers and a Linear layer in front of a CRF."""
    path = need_files("arabic_morph_segmenter") / "assets" / "arabic_morph_segmenter_bilstm_crf.pt"
    tensors = {key: array for key, array in numlstm.load_tensors(path).items() if not key.startswith("crf.")}
    model = nn.Sequential(
        {
            "embedding": nn.Embedding(176, 128),
            "lstm": LSTM(128, 256, num_layers=2, batch_first=True, bidirectional=True),
            "classifier": nn.Linear(512, 3),
        }
    ).eval()
    model.load_state_dict(tensors)
    words = np.array([[3, 14, 15, 92, 65, 35, 89]])
    torch = need("torch")
    theirs = torch.nn.LSTM(128, 256, num_layers=2, batch_first=True, bidirectional=True)
    theirs.load_state_dict({k.removeprefix("lstm."): torch.tensor(a) for k, a in tensors.items() if "lstm" in k})
    with torch.no_grad():
        states = theirs(torch.tensor(tensors["embedding.weight"][words]))[0]
        expected = states @ torch.tensor(tensors["classifier.weight"]).T + torch.tensor(tensors["classifier.bias"])
    np.testing.assert_allclose(model(words), expected.numpy(), rtol=0, atol=3e-6)
