"""What torch 2.13.0 gives in training, written down: gradients of an LSTM, losses, and steps of optimisers.

    python tests/golden/make_training.py            # write training-torch-2.13.0.npz anew
    python tests/golden/make_training.py --check    # regenerate, and say how far the committed file is from it

All in float64. What goes in comes from NumPy's RandomState, whose stream is frozen, so that the file holds results
alone: an array a name, no pickle. `load` reads it and needs no torch.
"""

from __future__ import annotations

import io
import sys
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

TORCH = "2.13.0"
FILE = Path(__file__).with_name(f"training-torch-{TORCH}.npz")
STEPS, BATCH, INPUTS, HIDDEN = 5, 3, 2, 3
LENGTHS = [3, 5, 1]
Arrays = dict[str, np.ndarray]

# every pair of flags, and no more of their product: layers, directions, proj_size, bias, kind, hx
LSTMS = [
    (layers, directions, proj, bias, kind, hx)
    for layers, directions, proj, bias, kind, hx in product(
        (1, 2), (1, 2), (0, 2), (True, False), ("plain", "lengths", "dropout"), (True, False)
    )
    if (bias or hx) and not (kind == "dropout" and layers == 1) and (hx or not proj)
]
OPTIMISERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1},
    "SGD momentum": {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01},
    "SGD nesterov": {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    "SGD maximize": {"lr": 0.01, "maximize": True, "momentum": 0.5},
    "Adam": {},
    "Adam decay": {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    "Adam amsgrad": {"lr": 0.05, "amsgrad": True, "maximize": True},
    "AdamW": {"lr": 0.02},
    "AdamW amsgrad": {"lr": 0.02, "betas": (0.7, 0.9), "weight_decay": 0.2, "amsgrad": True},
}
OPTIMISER_STEPS = 20


def name_of(case: tuple[Any, ...]) -> str:
    """One of `LSTMS` in words."""
    layers, directions, proj, bias, kind, hx = case
    return f"{layers} layers {directions} directions proj {proj} bias {bias} {kind} hx {hx}"


def inputs_of(case: tuple[Any, ...]) -> tuple[Arrays, Arrays]:
    """Parameters of a case, and its x, h_0, c_0, d_output, d_h_n, d_c_n and, for dropout, masks."""
    layers, directions, proj, bias, kind, _ = case
    random, out = np.random.RandomState(LSTMS.index(case)), proj or HIDDEN
    parameters, features = {}, INPUTS
    for layer in range(layers):
        for suffix in ("", "_reverse")[:directions]:
            shapes = {"weight_ih": (4 * HIDDEN, features), "weight_hh": (4 * HIDDEN, out)}
            shapes |= {"bias_ih": (4 * HIDDEN,), "bias_hh": (4 * HIDDEN,)} if bias else {}
            shapes |= {"weight_hr": (proj, HIDDEN)} if proj else {}
            parameters |= {f"{n}_l{layer}{suffix}": random.uniform(-1, 1, shape) for n, shape in shapes.items()}
        features = directions * out
    cells = layers * directions
    shapes = {"x": (STEPS, BATCH, INPUTS), "d_output": (STEPS, BATCH, directions * out)}
    for name, size in (("h_0", out), ("c_0", HIDDEN), ("d_h_n", out), ("d_c_n", HIDDEN)):
        shapes[name] = (cells, BATCH, size)
    arrays = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    if kind == "dropout":
        arrays["masks"] = (random.random_sample((layers - 1, *shapes["d_output"])) < 0.6) / 0.6
    return parameters, arrays


def lstm_gradients(torch: Any, case: tuple[Any, ...]) -> Arrays:
    """Output, states and gradients by torch.autograd; dropout as products between LSTMs of a layer each."""
    layers, directions, proj, bias, kind, hx = case
    parameters, arrays = inputs_of(case)
    given = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items() if name != "masks"}
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in parameters.items()}
    seq, h_n, c_n = given["x"], [], []
    if kind == "lengths":
        seq = torch.nn.utils.rnn.pack_padded_sequence(seq, torch.tensor(LENGTHS), enforce_sorted=False)
    for layer in range(layers):
        net = torch.nn.LSTM(
            INPUTS if layer == 0 else directions * (proj or HIDDEN), HIDDEN, bias=bias,
            proj_size=proj, bidirectional=directions == 2, dtype=torch.float64,
        )  # fmt: skip
        own = {n.replace(f"_l{layer}", "_l0"): leaf for n, leaf in leaves.items() if f"_l{layer}" in n}
        cells = slice(layer * directions, (layer + 1) * directions)
        state = ((given["h_0"][cells], given["c_0"][cells]),) if hx else ()
        seq, (h, c) = torch.func.functional_call(net, own, (seq, *state))
        if kind == "dropout" and layer < layers - 1:
            seq = seq * torch.tensor(arrays["masks"][layer])
        h_n.append(h)
        c_n.append(c)
    if kind == "lengths":
        seq, _ = torch.nn.utils.rnn.pad_packed_sequence(seq, total_length=STEPS)
    results = {"output": seq, "h_n": torch.cat(h_n), "c_n": torch.cat(c_n)}
    loss = sum((results[name] * given[f"d_{name}"]).sum() for name in results)
    wanted = {"x": given["x"], **leaves} | ({name: given[name] for name in ("h_0", "c_0")} if hx else {})
    gradients = torch.autograd.grad(loss, list(wanted.values()))
    named = {f"d {name}": gradient for name, gradient in zip(wanted, gradients, strict=True)}
    return {name: tensor.detach().numpy() for name, tensor in (results | named).items()}


def losses() -> dict[str, tuple[Arrays, dict[str, Any]]]:
    """Arguments of torch.nn.functional by a case's name: arrays, and options."""
    random = np.random.RandomState(7)
    logits, other = random.standard_normal((2, 4, 5))
    classes, chances = random.randint(0, 5, 4), random.random_sample((4, 5))
    images, labels = random.standard_normal((3, 5, 2, 2)), random.randint(0, 5, (3, 2, 2))
    labels[0, 1, 0] = classes[2] = -100
    weight, positive = random.random_sample(5) + 0.5, random.random_sample(5) + 0.5
    cases: dict[str, tuple[Arrays, dict[str, Any]]] = {}
    for reduction in ("mean", "sum"):
        option = {"reduction": reduction}
        cases[f"mse_loss {reduction}"] = ({"input": logits, "target": other}, option)
        cases[f"l1_loss {reduction}"] = ({"input": logits, "target": np.where(chances < 0.2, logits, other)}, option)
        cases[f"cross_entropy {reduction}"] = ({"input": logits, "target": classes}, option)
        cases[f"cross_entropy weight {reduction}"] = ({"input": logits, "target": classes, "weight": weight}, option)
        smooth = {"label_smoothing": 0.3, **option}
        cases[f"cross_entropy smooth {reduction}"] = ({"input": logits, "target": classes, "weight": weight}, smooth)
        cases[f"cross_entropy chances {reduction}"] = ({"input": logits, "target": chances, "weight": weight}, smooth)
        cases[f"cross_entropy axes {reduction}"] = ({"input": images, "target": labels}, option)
        binary = {"input": 30 * logits, "target": chances}
        cases[f"binary_cross_entropy_with_logits {reduction}"] = (binary, option)
        weighted = binary | {"weight": weight, "pos_weight": positive}
        cases[f"binary_cross_entropy_with_logits weights {reduction}"] = (weighted, option)
    return cases


def loss_and_gradient(torch: Any, name: str) -> Arrays:
    """The value of a case of `losses`, and its gradient by the input."""
    arrays, options = losses()[name]
    tensors = {key: torch.tensor(array) for key, array in arrays.items()}
    tensors["input"].requires_grad_()
    value = getattr(torch.nn.functional, name.split(maxsplit=1)[0])(**tensors, **options)
    value.backward()
    return {"value": value.detach().numpy(), "gradient": tensors["input"].grad.numpy()}


def optimiser_inputs() -> tuple[list[Arrays], list[list[Arrays]]]:
    """Parameters of two modules, and gradients for `OPTIMISER_STEPS` steps."""
    random = np.random.RandomState(11)
    shapes: list[dict[str, tuple[int, ...]]] = [{"weight": (2, 3), "bias": (2,)}, {"weight": (3, 1)}]

    def drawn() -> list[Arrays]:
        return [{name: random.standard_normal(shape) for name, shape in of.items()} for of in shapes]

    return drawn(), [drawn() for _ in range(OPTIMISER_STEPS)]


def optimised(torch: Any, name: str) -> Arrays:
    """Parameters after a few numbers of steps of a case of `OPTIMISERS`, and the state at the end."""
    start, steps = optimiser_inputs()
    tensors = [torch.tensor(array, requires_grad=True) for module in start for array in module.values()]
    optimiser = getattr(torch.optim, name.split(maxsplit=1)[0])(tensors, **OPTIMISERS[name])
    found = {}
    for done, gradients in enumerate(steps, 1):
        for tensor, gradient in zip(tensors, [g for module in gradients for g in module.values()], strict=True):
            tensor.grad = torch.tensor(gradient)
        optimiser.step()
        if done in (1, 2, OPTIMISER_STEPS):
            found |= {f"{done} {n}": tensor.detach().numpy().copy() for n, tensor in enumerate(tensors)}
    for n, state in optimiser.state_dict()["state"].items():
        found |= {f"state {n} {key}": np.asarray(value) for key, value in state.items() if value is not None}
    return found


def made() -> Arrays:
    """All results by name."""
    import torch

    assert torch.__version__.split("+")[0] == TORCH, f"torch is {torch.__version__}"
    torch.set_num_threads(1)
    cases = {f"lstm {name_of(case)}": lstm_gradients(torch, case) for case in LSTMS}
    cases |= {f"loss {name}": loss_and_gradient(torch, name) for name in losses()}
    cases |= {f"optimiser {name}": optimised(torch, name) for name in OPTIMISERS}
    return {f"{case}/{name}": array for case, arrays in cases.items() for name, array in arrays.items()}


def save(arrays: Arrays, path: Path = FILE) -> None:
    """Write all numbers as one array and an index; the same numbers give the same bytes."""
    index = "\n".join(f"{name}|{','.join(map(str, array.shape))}" for name, array in arrays.items())
    members = {
        "numbers": np.concatenate([array.ravel() for array in arrays.values()]),
        "index": np.frombuffer(index.encode(), np.uint8),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in members.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue(), zipfile.ZIP_DEFLATED, 9)


def load(path: Path = FILE) -> Arrays:
    """Read what `save` has written."""
    with np.load(path, allow_pickle=False) as archive:
        numbers, index = archive["numbers"], archive["index"].tobytes().decode()
    arrays, at = {}, 0
    for line in index.split("\n"):
        name, sizes = line.split("|")
        shape = tuple(map(int, filter(None, sizes.split(","))))
        size = int(np.prod(shape, dtype=int))
        arrays[name] = numbers[at : at + size].reshape(shape)
        at += size
    return arrays


if __name__ == "__main__":
    new = made()
    if "--check" in sys.argv:
        old = load()
        assert list(old) == list(new), "other cases"
        print("largest difference:", max(float(np.abs(old[name] - new[name]).max(initial=0)) for name in new))
    else:
        save(new)
        print(f"{len(new)} arrays, {FILE.stat().st_size} bytes")
