"""The order of an LSTM's gates in ONNX: i, o, f, c, where PyTorch has i, f, g, o, and c is g."""

from __future__ import annotations

import numpy as np

from numlstm.base.typing import Array


def gates_iofc(parameter: Array) -> Array:
    """Gate blocks i, f, g, o along the first axis to i, o, f, g.

    Examples
    --------
    >>> gates_iofc(np.array([1, 2, 3, 4])).tolist()
    [1, 4, 2, 3]
    """
    i, f, g, o = np.split(parameter, 4)
    return np.concatenate([i, o, f, g])


def gates_ifgo(parameter: Array) -> Array:
    """Gate blocks i, o, f, c along the first axis to i, f, c, o: the way back.

    Examples
    --------
    >>> gates_ifgo(gates_iofc(np.array([1, 2, 3, 4]))).tolist()
    [1, 2, 3, 4]
    """
    i, o, f, g = np.split(parameter, 4)
    return np.concatenate([i, f, g, o])
