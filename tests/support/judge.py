"""How tests judge an LSTM: against the reference in higher precision, and bit for bit."""

import sys
from typing import Any

import numpy as np
from needs import leave_out

from numlstm import reference

Result = tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]
DTYPES = (np.float32, np.float64)
UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}  # the rounding of 1.0
EDGE = {np.dtype(np.float32): -87.0, np.dtype(np.float64): -708.0}  # below it a gate is exactly 0


def flat(result: Result) -> tuple[np.ndarray, ...]:
    """Output, h_n and c_n."""
    return result[0], *result[1]


def counted(*held: Any) -> list[Any]:
    """Those of the objects whose references are counted: from Python 3.12 on not all of those to None are."""
    return [one for one in held if one is not None or sys.version_info < (3, 12)]


def need_longdouble() -> None:
    """Leave the test out where longdouble is float64, as with MSVC and on Apple's ARM."""
    if np.finfo(np.longdouble).nmant < 63:
        leave_out("needs a longdouble of 64 bits or more to judge float64")


def exact(net: Any, x: np.ndarray, hx: Any = None, dtype: Any = np.longdouble) -> Result:
    """What the LSTM's own parameters give in higher precision, by the engine's rule for vanishing numbers."""
    options = getattr(net, "cell_options", None)
    return reference.lstm(
        net.state_dict(), x, hx, dtype=dtype, batch_first=net.batch_first, flush=net.dtype, options=options
    )


def error(got: Result, want: Result) -> float:
    """The largest absolute error over output, h_n and c_n; NaN if any is."""
    return max(float(np.abs(g - w).max(initial=0)) for g, w in zip(flat(got), flat(want), strict=True))


def bits(array: np.ndarray) -> np.ndarray:
    """The numbers as unsigned integers of their size."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def same_bits(got: np.ndarray, want: np.ndarray) -> bool:
    """Whether shape, dtype and every bit agree."""
    return got.shape == want.shape and got.dtype == want.dtype and bool((bits(got) == bits(want)).all())


def equal(got: Any, want: Any) -> bool:
    """Whether two results, of arrays in tuples in whatever way, are the same to the bit."""
    return all(same_bits(g, w) for g, w in zip(_arrays(got), _arrays(want), strict=True))


def _arrays(result: Any) -> list[np.ndarray]:
    return [result] if isinstance(result, np.ndarray) else [array for part in result for array in _arrays(part)]


def flip_one_bit(array: np.ndarray) -> np.ndarray:
    """A copy with the last bit of its last number flipped: what `same_bits` must notice."""
    copy = np.array(array, order="C")
    bits(copy).reshape(-1)[-1] ^= 1
    assert np.count_nonzero(bits(copy) != bits(array)) == 1
    return copy


def driven(units: int, dtype: Any) -> Any:
    """An LSTM of one layer whose input is its gates: features [0, 4 units) times 1, as many again times 2**40.

    The second half overflows a gate to an infinity without any infinity in the input, whose product with the
    zero weights of the other gates would be NaN.
    """
    import numlstm

    net = numlstm.LSTM(8 * units, units, bias=False, dtype=dtype)
    eye = np.eye(4 * units)
    net.load_state_dict(
        {
            "weight_ih_l0": np.concatenate([eye, 2.0**40 * eye], axis=1).astype(dtype),
            "weight_hh_l0": np.zeros((4 * units, units), dtype),
        }
    )
    return net


def drive(net: Any, gates: tuple[Any, Any, Any, Any], c: Any) -> tuple[np.ndarray, np.ndarray]:
    """h and c after one step with these gates i, f, g, o before activation: one number for each result."""
    units, dtype = net.hidden_size, net.dtype
    *wanted, c = (np.ravel(a).astype(dtype) for a in np.broadcast_arrays(*gates, c))
    rows = -(-c.size // units)
    *wanted, c_0 = (np.resize(a, (rows, units)) for a in (*wanted, c))
    ordinary = np.concatenate(wanted, axis=1)
    infinite = np.isinf(ordinary)
    huge = np.where(infinite, np.copysign(np.finfo(dtype).max / 2, ordinary), 0)
    x = np.concatenate([np.where(infinite, 0, ordinary), huge], axis=1)[None].astype(dtype)
    _, (h_n, c_n) = net(x, (np.zeros((1, rows, units), dtype), c_0[None]))
    return h_n.reshape(-1)[: c.size], c_n.reshape(-1)[: c.size]


def close(got: Any, want: Any) -> bool:
    """Whether two arrays have one shape and differ by less than a float32 LSTM of another framework does."""
    return got.shape == want.shape and bool(np.abs(got - want).max() < 1e-6)
