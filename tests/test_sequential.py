"""numlstm.nn.Sequential: against torch, by finite differences, as a file, and what it refuses."""

import copy
import pickle

import numpy as np
import pytest
from needs import need

import numlstm
from numlstm import LSTM, nn, optim

WORDS = np.array([[4, 0, 9, 2], [1, 3, 3, 7], [5, 8, 0, 0]])


def tagger(dtype="float32", **lstm):
    """A model of all kinds of layers."""
    return nn.Sequential(
        {
            "embed": nn.Embedding(10, 6, padding_idx=0, dtype=dtype, seed=0),
            "rnn": LSTM(6, 5, bidirectional=True, batch_first=True, dtype=dtype, seed=1, **lstm),
            "norm": nn.LayerNorm(10, dtype=dtype),
            "drop": nn.Dropout(0.5, seed=0),
            "hidden": nn.Linear(10, 7, dtype=dtype, seed=2),
            "relu": nn.relu,
            "head": nn.Linear(7, 3, bias=False, dtype=dtype, seed=3),
            "softmax": nn.log_softmax,
        }
    )


def classifier(directions, dtype="float64"):
    rnn = LSTM(3, 4, num_layers=2, bidirectional=directions == 2, dtype=dtype, seed=0)
    return nn.Sequential(rnn, nn.last_state, nn.Linear(4 * directions, 2, dtype=dtype, seed=1), nn.sigmoid)


def in_torch(torch, model):
    """The same layers in torch, with the same names."""

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, layer in model.layers.items():
                kind = type(layer).__name__
                if isinstance(layer, LSTM):
                    made = torch.nn.LSTM(6, 5, bidirectional=True, batch_first=True)
                elif kind == "Embedding":
                    made = torch.nn.Embedding(10, 6, padding_idx=0)
                elif kind == "Linear":
                    made = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
                elif kind == "LayerNorm":
                    made = torch.nn.LayerNorm(10)
                else:
                    continue
                setattr(self, name, made)

        def forward(self, words):
            y = self.norm(self.rnn(self.embed(words))[0])
            return torch.log_softmax(self.head(torch.relu(self.hidden(y))), dim=-1)

    return Twin().double()


def test_output_and_gradients_are_those_of_torch():
    torch = need("torch")
    model = tagger("float64").eval()
    rng = np.random.default_rng(0)
    model.load_state_dict({name: rng.standard_normal(a.shape) for name, a in model.state_dict().items()})
    twin = in_torch(torch, model)
    twin.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    want = twin(torch.tensor(WORDS))
    output, backward = model.vjp(WORDS)
    assert np.abs(output - want.detach().numpy()).max() < 1e-13 and np.abs(output - model(WORDS)).max() < 1e-13
    d = rng.standard_normal(output.shape)
    want.backward(torch.tensor(d))
    grads = backward(d)
    assert list(grads.parameters) == list(model.state_dict()) and grads.input is None
    for name, parameter in twin.named_parameters():
        assert np.abs(grads.parameters[name] - parameter.grad.numpy()).max() < 1e-12, name


@pytest.mark.parametrize("skip", [0.0, 0.5])
@pytest.mark.parametrize("directions", [1, 2])
def test_gradients_are_those_of_the_values(directions, skip):
    model = classifier(directions).eval()
    if skip:
        model = nn.Sequential(LSTM(3, 4, dtype="float64", seed=0), nn.Linear(4, 2, dtype="float64", seed=0), skip=skip)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 2, 3))
    output, backward = model.vjp(x)
    d = rng.standard_normal(output.shape)
    grads = backward(d)
    for at in [(0, 0, 0), (4, 1, 1), (2, 0, 2)]:
        more, less = x.copy(), x.copy()
        more[at] += 1e-6
        less[at] -= 1e-6
        assert abs(((model(more) - model(less)) * d).sum() / 2e-6 - grads.input[at]) < 1e-8
    for name, array in model.state_dict().items():
        changed = []
        for step in (1e-6, -1e-6):
            twin = copy.deepcopy(model)
            array = array.copy()
            array.flat[1] += step
            twin.load_state_dict({name: array}, strict=False)
            changed.append((twin(x) * d).sum())
            array.flat[1] -= step
        assert abs((changed[0] - changed[1]) / 2e-6 - grads.parameters[name].flat[1]) < 1e-8, name


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "softmax", "log_softmax", "layer_norm"])
def test_a_function_is_that_of_torch(name):
    torch = need("torch")
    function, x = getattr(nn, name), np.random.default_rng(0).standard_normal((4, 5)) * 3
    options = {"softmax": {"dim": -1}, "log_softmax": {"dim": -1}, "layer_norm": {"normalized_shape": (5,)}}
    given = torch.tensor(x, requires_grad=True)
    want = getattr(torch.nn.functional, name)(given, **options.get(name, {}))
    y, backward = function.vjp(x)
    assert np.abs(y - want.detach().numpy()).max() < 1e-14 and (y == function(x)).all()
    d = np.random.default_rng(1).standard_normal(y.shape)
    want.backward(torch.tensor(d))
    assert np.abs(backward(d).input - given.grad.numpy()).max() < 1e-13
    assert function([1, 2]).dtype == np.float32 and pickle.loads(pickle.dumps(function)) is function
    assert np.isfinite(function(np.float32([[-1e4, 1e4, 3e38, 0]]))).all() or name in ("relu", "layer_norm")


def test_dropout_drops_in_train_mode_alone():
    model = tagger()
    assert model.training and (model(WORDS) != model(WORDS)).any()
    assert (model.eval()(WORDS) == model(WORDS)).all() and not model.layers["rnn"].training
    drop = nn.Dropout(0.25, seed=0)
    y, backward = drop.vjp(np.ones((100, 100)))
    assert set(np.unique(y)) == {0.0, 1 / 0.75} and 0.7 < (y > 0).mean() < 0.8
    assert (backward(np.ones_like(y)).input == y).all()


def test_training_lowers_the_loss():
    model = nn.Sequential(LSTM(1, 8, seed=0), nn.Linear(8, 1, seed=0))
    optimiser = optim.Adam(model, lr=0.05)
    wave = np.sin(np.arange(30.0)).reshape(30, 1, 1)
    for _ in range(60):
        prediction, backward = model.vjp(wave[:-1])
        value, d = nn.mse_loss(prediction, wave[1:])
        optimiser.step(backward(d).parameters)
    assert value < 0.02


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_gives_the_model_back(dtype, tmp_path):
    model, path = tagger(dtype, dropout=0.1, num_layers=2), tmp_path / "tagger.safetensors"
    model.save(path)
    loaded = numlstm.load_model(path)
    assert repr(loaded) == repr(model) and loaded.dtype == dtype and not loaded.training
    assert (loaded(WORDS) == model.eval()(WORDS)).all()
    assert repr(numlstm.load(path)) == repr(model.lstms[0])
    both = nn.Sequential(LSTM(2, 3, batch_first=True), LSTM(3, 2), nn.layer_norm, nn.tanh, skip=0.5)
    both.save(path)
    assert repr(numlstm.load_model(path)) == repr(both)
    twin = pickle.loads(pickle.dumps(both.eval()))
    assert (twin(np.ones((4, 1, 2))) == both(np.ones((4, 1, 2)))).all()


def test_a_stream_has_the_bits_of_one_call():
    rnn, second = LSTM(2, 5, seed=0), LSTM(5, 4, seed=1)
    model = nn.Sequential(rnn, nn.Dropout(), second, nn.Linear(4, 2, seed=0), nn.tanh, skip=1).eval()
    x = np.random.default_rng(0).standard_normal((7, 1, 2)).astype(np.float32)
    stream = model.stream()
    pieces = [stream(x[0]), *stream(x[1:5]), stream(x[5]), stream(x[6])]
    assert (np.stack(pieces) == model(x)).all()
    stream.reset()
    assert (stream(x[0]) == pieces[0]).all()
    running = classifier(1, "float32").eval()
    x = np.ones((5, 1, 3), np.float32)
    assert (running.stream()(x)[-1] == running(x)).all()


def test_lengths_reach_the_lstms():
    model = tagger().eval()
    cut = model(WORDS, lengths=[4, 2, 1])
    assert (cut[1, :2] == model(WORDS[1:2, :2])[0]).all() and (cut[0] == model(WORDS)[0]).all()


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"layer '1' takes 4 features, and '0' gives 3"):
        nn.Sequential(LSTM(2, 3), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="layer '1' takes the last state of an LSTM, and does not follow one"):
        nn.Sequential(nn.Linear(2, 3), nn.last_state)
    with pytest.raises(ValueError, match="several dtypes: float32, float64"):
        nn.Sequential(LSTM(2, 3), nn.Linear(3, 1, dtype="float64"))
    with pytest.raises(TypeError, match="layer '1' is a str, which cannot be called"):
        nn.Sequential(LSTM(2, 3), "relu")
    with pytest.raises(ValueError, match="at least one layer"):
        nn.Sequential()
    with pytest.raises(ValueError, match="layer 'rnn' begins with the last step"):
        tagger().stream()
    own = nn.Sequential(LSTM(2, 3), np.abs)
    with pytest.raises(TypeError, match="layer '1' has no derivative"):
        own.vjp([[1.0, 2.0]])
    with pytest.raises(ValueError, match="layer '1' cannot be saved"):
        own.save(tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="is saved as"):
        tagger().save(tmp_path / "own.npz")
    before = (model := tagger()).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for head"):
        model.load_state_dict(before | {"embed.weight": np.ones((10, 6)), "head.weight": np.ones((2, 2))})
    assert all((array == before[name]).all() for name, array in model.state_dict().items())
    with pytest.raises(IndexError, match="num_embeddings - 1 = 9"):
        model([[10]])


def test_a_frame_of_sequences():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    lengths = {"b": 3, "a": 5, "d": 3, "c": 1}
    parts = {name: rng.standard_normal((length, 2)).astype(np.float32) for name, length in lengths.items()}
    rows = [(name, step, *values) for name, part in parts.items() for step, values in enumerate(part)]
    frame = pd.DataFrame(rows, columns=["who", "when", "x", "y"]).sample(frac=1, random_state=0)
    for batch_first in (False, True):
        model = nn.Sequential(LSTM(2, 4, batch_first=batch_first, seed=0), nn.Linear(4, 3, seed=0)).eval()
        result = model.forward_frame(frame, group="who", order="when")
        want = np.concatenate([model(parts[name]) for name in sorted(parts)])
        assert (result[["output_0", "output_1", "output_2"]].to_numpy() == want).all()
        assert result["who"].tolist() == [name for name in sorted(parts) for _ in range(lengths[name])]
    model = nn.Sequential(LSTM(2, 4, seed=0), nn.last_state, nn.Linear(4, 3, seed=0)).eval()
    result = model.forward_frame(frame, group="who", order="when", features=["x", "y"])
    assert list(result.columns) == ["who", "output_0", "output_1", "output_2"]
    assert (result.iloc[:, 1:].to_numpy() == np.stack([model(parts[name]) for name in sorted(parts)])).all()
    words = pd.DataFrame({"who": [1, 1, 2], "when": [0, 1, 0], "word": [4, 2, 9]})
    by_word = tagger().eval().forward_frame(words, group="who", order="when")
    assert (by_word.iloc[:2, 2:].to_numpy() == tagger().eval()([[4, 2]])[0]).all()
    with pytest.raises(ValueError, match="has two rows of when 1"):
        model.forward_frame(pd.concat([frame, frame[frame["when"] == 1]]), group="who", order="when")
    with pytest.raises(ValueError, match="there is no column 'where'"):
        model.forward_frame(frame, group="where", order="when")
