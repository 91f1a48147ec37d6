"""Parameters on the device, packed once: matrices as [k][column], the bias summed as in the CPU's panels."""

from typing import NamedTuple

import numpy as np

from . import device


class CellWeights(NamedTuple):
    """Offsets of a cell's parts in the flat array, counted in numbers."""

    ih: int
    hh: int
    bias: int
    hr: int


def pack(config, dtype, parameter):
    """(flat array, [CellWeights]) on the host; ``parameter(name)`` returns a parameter.

    ``weight_ih`` and ``weight_hh`` become [k][gate][unit], ``weight_hr`` [k][output]; the bias is b_ih + b_hh.
    """
    parts, places, end = [], [], 0

    def put(array):
        nonlocal end
        start = end
        parts.append(np.ascontiguousarray(array, dtype).reshape(-1))
        end += parts[-1].size
        return start

    for _, _, suffix in config.cells():
        ih, hh = put(parameter("weight_ih" + suffix).T), put(parameter("weight_hh" + suffix).T)
        bias = np.zeros(4 * config.hidden_size, dtype)
        if config.bias:
            bias = parameter("bias_ih" + suffix) + parameter("bias_hh" + suffix)
        at_bias = put(bias)
        hr = put(parameter("weight_hr" + suffix).T) if config.proj_size else 0
        places.append(CellWeights(ih, hh, at_bias, hr))
    return np.concatenate(parts), places


class Weights:
    """Packed weights on the device, of one set of panels."""

    def __init__(self, panels):
        self.panels = panels
        flat, self.places = pack(panels.config, panels.dtype, panels.parameter)
        self.flat = device.upload(flat)
        device.synchronize(0)  # before another stream reads them
