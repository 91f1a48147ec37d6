"""Loading a model file: time and memory.

The files are written by numlstm, PyTorch (``.pt``) and h5py (``.h5`` in Keras' layout of weights).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from numlstm.base.config import Config
from numlstm.bench.costs.memory import high_water_above
from numlstm.lstm import LSTM

VOICE = Config(40, 256, num_layers=3)  # the grid's workload


def of_size(megabytes: float) -> Config:
    """An LSTM of one layer with about `megabytes` of float32 parameters.

    Examples
    --------
    >>> config = of_size(100)
    >>> sum(4 * np.prod(shape) for shape in config.parameter_shapes().values()).item() // 1_000_000
    99
    """
    hidden_size = int((megabytes * 1e6 / 4 / 8) ** 0.5)  # input_size is hidden_size: 8 H**2 weights
    return Config(hidden_size, hidden_size)


def write(path: Path, config: Config) -> None:
    """Write an LSTM of that configuration in the format of the path's suffix."""
    net = LSTM(config.input_size, config.hidden_size, config.num_layers, seed=0)
    if path.suffix == ".pt":
        _write_pt(path, net)
    elif path.suffix == ".h5":
        _write_h5(path, net)
    else:
        net.save(path)


def _write_pt(path: Path, net: LSTM) -> None:
    from numlstm.bench.engines import save_with_torch

    save_with_torch(path, net.state_dict())


def _write_h5(path: Path, net: LSTM) -> None:
    """In Keras' weights-only layout, in which bias_ih and bias_hh are one bias."""
    import h5py

    state = net.state_dict()
    with h5py.File(path, "w") as file:
        for layer in range(net.num_layers):
            group = file.create_group(f"layers/lstm_{layer}/cell/vars" if layer else "layers/lstm/cell/vars")
            group["0"] = np.ascontiguousarray(state[f"weight_ih_l{layer}"].T)
            group["1"] = np.ascontiguousarray(state[f"weight_hh_l{layer}"].T)
            group["2"] = state[f"bias_ih_l{layer}"] + state[f"bias_hh_l{layer}"]


SUFFIXES = (".safetensors", ".npz", ".pt", ".onnx", ".h5")

CHILD = """
import json, sys
from pathlib import Path
import numlstm
from numlstm.bench.costs.load import loaded, peak_of_load
small, large = map(Path, sys.argv[1:])
loaded(small)  # imports the modules of the format and loads the kernels
print(json.dumps(peak_of_load(large)))
"""


def loaded(path: Path) -> list[LSTM]:
    """Load every LSTM of a file, and make one call with each."""
    from numlstm.files import list_lstms, load

    nets = []
    for found in list_lstms(path):
        net = load(path, found.name)
        assert isinstance(net, LSTM)
        net(np.zeros((1, 1, net.input_size), np.float32))
        nets.append(net)
    return nets


def peak_of_load(path: Path) -> int:
    """Bytes of memory at the peak of loading beyond those before it, including the loaded LSTM."""
    return high_water_above(lambda: loaded(path))


def peak_in_fresh_process(small: Path, large: Path) -> int:
    """`peak_of_load` of a large file in a new process that has loaded a small one of the same format."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(small), str(large)], capture_output=True, text=True, check=True, timeout=600
    )
    peak: int = json.loads(done.stdout)
    return peak
