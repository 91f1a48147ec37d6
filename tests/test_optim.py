"""Optimisers against torch.optim: as written down, in training for 200 steps, and through each other's state dicts."""

import numpy as np
import pytest
from golden import make_training
from needs import need

import numlstm
from numlstm import nn, optim
from numlstm.runtime import packed_weights

GOLDEN = make_training.load()


class Held:
    """A module of the parameters that it is given."""

    def __init__(self, arrays, dtype=np.float64):
        self.arrays, self.dtype = dict(arrays), np.dtype(dtype)

    def state_dict(self):
        return {name: array.copy() for name, array in self.arrays.items()}

    def load_state_dict(self, state_dict, strict=True):
        self.arrays |= state_dict


@pytest.mark.parametrize("name", make_training.OPTIMISERS)
def test_steps_and_state_are_those_of_torch(name):
    start, steps = make_training.optimiser_inputs()
    modules = [Held(arrays) for arrays in start]
    optimiser = getattr(optim, name.split(maxsplit=1)[0])(modules, **make_training.OPTIMISERS[name])
    found = {}
    for done, gradients in enumerate(steps, 1):
        optimiser.step(gradients)
        if done in (1, 2, make_training.OPTIMISER_STEPS):
            arrays = [array for module in modules for array in module.arrays.values()]
            found |= {f"{done} {n}": array for n, array in enumerate(arrays)}
    for n, state in optimiser.state_dict()["state"].items():
        found |= {f"state {n} {key}": np.asarray(value) for key, value in state.items()}
    prefix = f"optimiser {name}/"
    want = {key.removeprefix(prefix): array for key, array in GOLDEN.items() if key.startswith(prefix)}
    assert found.keys() == want.keys()
    for key, array in want.items():
        assert np.abs(found[key] - array).max() <= 1e-14 * max(1, np.abs(array).max()), key


TRAINED = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": 0.01, "amsgrad": True},
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", TRAINED)
def test_200_steps_with_clipping_are_those_of_torch(kind, dtype):
    torch = need("torch")
    random = np.random.default_rng(5)
    x = random.standard_normal((40, 6)).astype(dtype)
    y = x[:, :3].argmax(axis=1)
    layers = [nn.Linear(6, 5, dtype=dtype, seed=0), nn.Linear(5, 3, dtype=dtype, seed=1)]
    twins = [torch.nn.Linear(6, 5, dtype=getattr(torch, dtype)), torch.nn.Linear(5, 3, dtype=getattr(torch, dtype))]
    for layer, twin in zip(layers, twins, strict=True):
        twin.load_state_dict({name: torch.tensor(array) for name, array in layer.state_dict().items()})
    ours = getattr(optim, kind)(layers, **TRAINED[kind])
    leaves = [leaf for twin in twins for leaf in twin.parameters()]
    theirs = getattr(torch.optim, kind)(leaves, **TRAINED[kind])
    losses, norms = [], []
    for _ in range(200):
        hidden, first = layers[0].vjp(x)
        logits, second = layers[1].vjp(hidden)
        value, d_logits = nn.cross_entropy(logits, y)
        of_second = second(d_logits)
        grads = [first(of_second.input).parameters, of_second.parameters]
        norm = optim.clip_grad_norm_(grads, 0.3)
        ours.step(grads)
        loss = torch.nn.functional.cross_entropy(twins[1](twins[0](torch.tensor(x))), torch.tensor(y))
        theirs.zero_grad()
        loss.backward()
        norms.append(abs(norm - float(torch.nn.utils.clip_grad_norm_(leaves, 0.3))))
        theirs.step()
        losses.append((value, loss.item()))
    distance = np.abs(np.diff(losses)).max()
    assert losses[-1][0] < 0.8 * losses[0][0]
    assert max(distance, *norms) < (1e-13 if dtype == "float64" else 1e-5)
    assert ours.state_dict()["param_groups"][0].keys() == theirs.state_dict()["param_groups"][0].keys()


def test_state_dicts_go_to_torch_and_come_from_there():
    torch = need("torch")
    head, gradient = nn.Linear(2, 1, dtype="float64", seed=0), np.array([[0.5, -1.0]])
    grads = {"weight": gradient, "bias": np.array([2.0])}
    twin = torch.nn.Linear(2, 1, dtype=torch.float64)
    twin.load_state_dict({name: torch.tensor(array) for name, array in head.state_dict().items()})
    theirs, ours = torch.optim.Adam(twin.parameters(), lr=0.5), optim.Adam(head, lr=0.1)

    def their_step():
        for leaf, array in zip(twin.parameters(), grads.values(), strict=True):
            leaf.grad = torch.tensor(array)
        theirs.step()

    their_step()
    ours.load_state_dict(theirs.state_dict())
    head.load_state_dict(twin.state_dict())
    assert ours.param_groups[0]["lr"] == 0.5
    for _ in range(3):
        ours.step(grads)
        their_step()
    assert np.abs(head.weight - twin.weight.detach().numpy()).max() < 1e-15
    state = ours.state_dict()
    state["state"] = {
        n: {key: torch.tensor(value) for key, value in of_parameter.items()}
        for n, of_parameter in state["state"].items()
    }
    theirs.load_state_dict(state)
    ours.step(grads)
    their_step()
    assert np.abs(head.weight - twin.weight.detach().numpy()).max() < 1e-15
    ours.state_dict()["state"][0]["exp_avg"][...] = 9  # a copy
    assert not (ours.state[0]["exp_avg"] == 9).any()


def test_an_lstm_takes_steps_and_frozen_parameters_stay():
    lstm = numlstm.LSTM(2, 3, seed=0)
    before = lstm.state_dict()
    optimiser = optim.SGD(lstm, lr=1)
    optimiser.step({"weight_hh_l0": np.ones((12, 3), np.float32)})
    after = lstm.state_dict()
    assert (after["weight_hh_l0"] == before["weight_hh_l0"] - 1).all()
    assert all((after[name] == before[name]).all() for name in before if name != "weight_hh_l0")
    optimiser.param_groups[0]["lr"] = 0.5
    optimiser.step({"weight_hh_l0": np.ones((12, 3), np.float32)})
    assert (lstm.weight_hh_l0 == after["weight_hh_l0"] - 0.5).all()


@pytest.mark.cpu_level
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("indexed", [True, False])
def test_an_update_in_the_panels_has_the_bits_of_one_through_state_dicts(indexed, dtype, monkeypatch):
    monkeypatch.setattr(packed_weights, "INDEXED", packed_weights.INDEXED if indexed else 0)
    random = np.random.default_rng(7)
    for sizes in ({"num_layers": 2, "bidirectional": True, "proj_size": 3}, {"bias": False}):
        for kind, options in TRAINED.items():
            lstm = numlstm.LSTM(5, 37, dtype=dtype, seed=0, **sizes)
            plain = Held(lstm.state_dict(), dtype)
            ours, theirs = (getattr(optim, kind)(module, **options) for module in (lstm, plain))
            for n in range(4):
                grads = {
                    name: random.standard_normal(array.shape).astype(dtype)
                    for name, array in plain.arrays.items()
                    if n != 1 or "hh" not in name  # some stay
                }
                if n == 2:  # assigned in between
                    plain.arrays["weight_hh_l0"] = grads["weight_hh_l0"]
                    lstm.weight_hh_l0 = grads["weight_hh_l0"]
                ours.step(grads)
                theirs.step(grads)
                for name, array in lstm.state_dict().items():
                    assert array.tobytes() == plain.arrays[name].tobytes(), (kind, n, name)
                packed = packed_weights.Panels.pack(lstm._panels.config, lstm.dtype, plain.arrays.items())
                assert lstm._panels.data.tobytes() == packed.data.tobytes()


def test_a_sequential_takes_the_steps_of_its_layers():
    """To the bit, whether it is given whole or layer by layer, and whatever is assigned in between."""
    random = np.random.default_rng(3)
    pairs = [(numlstm.LSTM(3, 4, seed=0), nn.Linear(4, 2, seed=1)) for _ in range(2)]
    whole = nn.Sequential({"lstm": pairs[0][0], "drop": nn.Dropout(0.5), "head": pairs[0][1]})
    ours, theirs = optim.AdamW(whole, lr=0.1), optim.AdamW(list(pairs[1]), lr=0.1)
    for n in range(4):
        grads = {name: random.standard_normal(array.shape, np.float32) for name, array in whole.state_dict().items()}
        if n == 2:
            for lstm, head in pairs:
                lstm.bias_hh_l0, head.weight = np.ones(16), np.ones((2, 4))
        ours.step(grads)
        theirs.step([{name.removeprefix(prefix): array for name, array in grads.items() if name.startswith(prefix)}
                     for prefix in ("lstm.", "head.")])  # fmt: skip
        for one, other in zip(*pairs, strict=True):
            for name, array in one.state_dict().items():
                assert array.tobytes() == other.state_dict()[name].tobytes(), (n, name)


def test_a_call_under_way_keeps_its_weights_when_they_are_updated():
    lstm, x = numlstm.LSTM(2, 3, seed=0), np.ones((4, 2), np.float32)
    (output, _), backward = lstm.vjp(x)
    grads = backward(np.ones_like(output))
    optim.SGD(lstm, lr=1).step(grads.parameters)
    assert (backward(np.ones_like(output)).input == grads.input).all()
    assert (lstm(x)[0] != output).any()


HEAD = nn.Linear(2, 1, seed=0)
FINE = {"weight": np.ones((1, 2), np.float32), "bias": np.ones(1, np.float32)}


@pytest.mark.parametrize(
    ("grads", "error", "says"),
    [
        ([FINE, FINE], ValueError, "of 1 modules\nIt was given 2"),
        ([FINE["weight"]], TypeError, "a dictionary of arrays by name, not a ndarray"),
        ({**FINE, "wieght": FINE["weight"]}, KeyError, "no parameter 'wieght'"),
        ({**FINE, "bias": np.ones(2, np.float32)}, ValueError, r"of bias must have the shape \(1,\)"),
        ({**FINE, "bias": np.ones(1)}, TypeError, "must be an array of float32"),
        ({**FINE, "bias": [1.0]}, TypeError, "It is list"),
        ({**FINE, "bias": np.full(1, np.nan, np.float32)}, ValueError, "of bias holds NaN or infinity"),
        ({**FINE, "bias": np.full(1, np.inf, np.float32)}, ValueError, "clip_grad_norm_"),
    ],
)
def test_gradients_that_cannot_be_right_change_nothing(grads, error, says):
    optimiser, before = optim.Adam(HEAD), HEAD.state_dict()
    with pytest.raises(error, match=says):
        optimiser.step(grads)
    assert optimiser.state == {} and all((HEAD.state_dict()[name] == before[name]).all() for name in before)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: optim.SGD(HEAD, lr=-1), ValueError, "Invalid learning rate: -1"),
        (lambda: optim.SGD(HEAD, nesterov=True), ValueError, "Nesterov momentum requires"),
        (lambda: optim.SGD(HEAD, momentum=-0.1), ValueError, "Invalid momentum value"),
        (lambda: optim.Adam(HEAD, betas=(0.9, 1.0)), ValueError, "Invalid beta parameter at index 1: 1.0"),
        (lambda: optim.Adam(HEAD, eps=-1.0), ValueError, "Invalid epsilon value"),
        (lambda: optim.AdamW(HEAD, weight_decay=-1), ValueError, "Invalid weight_decay value"),
        (lambda: optim.Adam([]), ValueError, "empty parameter list"),
        (lambda: optim.Adam([HEAD, HEAD]), ValueError, "twice"),
        (lambda: optim.Adam(HEAD.parameters()), TypeError, "Pass the LSTM itself"),
        (lambda: optim.Adam(HEAD).load_state_dict(optim.Adam([HEAD, nn.Linear(1, 1)]).state_dict()),
         ValueError, "doesn't match the size"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_clipping():
    grads = [{"a": np.array([3.0, 0.0])}, {"b": np.array([[4.0]])}]
    assert optim.clip_grad_norm_(grads, 10.0) == 5 and grads[0]["a"][0] == 3
    assert optim.clip_grad_norm_(grads, 1.0, norm_type=np.inf) == 4
    assert grads[0]["a"][0] == pytest.approx(0.75) and grads[1]["b"][0, 0] == pytest.approx(1)
    grads[0]["a"][0] = np.nan
    with pytest.raises(RuntimeError, match="non-finite"):
        optim.clip_grad_norm_(grads, 1.0, error_if_nonfinite=True)
    assert grads[1]["b"][0, 0] == pytest.approx(1)
    assert np.isnan(optim.clip_grad_norm_(grads, 1.0)) and np.isnan(grads[1]["b"][0, 0])
    assert optim.clip_grad_norm_({}, 1.0) == 0
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(TypeError, match="written to"):
        optim.clip_grad_norm_({"a": frozen}, 1.0)
