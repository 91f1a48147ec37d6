"""The order of an LSTM's gates: i, o, f, c in ONNX, i, f, g, o in PyTorch; c and g are the same gate.

Peepholes have i, o, f in ONNX, i, f, o here.
"""

from __future__ import annotations

import numpy as np

from numlstm.base.typing import Array


def gates_iofc(parameter: Array) -> Array:
    """Reorder gate blocks along the first axis from PyTorch's i, f, g, o to ONNX's i, o, f, c.

    Examples
    --------
    >>> gates_iofc(np.array([1, 2, 3, 4])).tolist()
    [1, 4, 2, 3]
    """
    i, f, g, o = np.split(parameter, 4)
    return np.concatenate([i, o, f, g])


def gates_ifgo(parameter: Array) -> Array:
    """Reorder gate blocks along the first axis from ONNX's i, o, f, c to PyTorch's i, f, g, o.

    Examples
    --------
    >>> gates_ifgo(gates_iofc(np.array([1, 2, 3, 4]))).tolist()
    [1, 2, 3, 4]
    """
    i, o, f, g = np.split(parameter, 4)
    return np.concatenate([i, f, g, o])


def gates_ifo(peepholes: Array) -> Array:
    """Reorder peepholes along the first axis from i, o, f to i, f, o, or back.

    Examples
    --------
    >>> gates_ifo(np.array([1, 2, 3])).tolist()
    [1, 3, 2]
    """
    i, second, third = np.split(peepholes, 3)
    return np.concatenate([i, third, second])
