"""The LSTM in plain NumPy at any precision: the judge of the engine, so it shares nothing with it.

Every line is an equation of Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (1999)
and the projection of Sak et al. (2014), in the conventions of ``torch.nn.LSTM``. Nothing is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]
Backward = Callable[..., tuple[Array, tuple[Array, Array], dict[str, Array]]]


def lstm(
    parameters: Mapping[str, ArrayLike],
    x: ArrayLike,
    hx: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    dtype: DTypeLike = np.longdouble,
    batch_first: bool = False,
    flush: DTypeLike | None = None,
    options: Any = None,
    int8: bool = False,
) -> tuple[Array, tuple[Array, Array]]:
    """Run an LSTM over whole sequences.

    Parameters
    ----------
    parameters : mapping of str to array_like
        As in the ``state_dict`` of ``torch.nn.LSTM``: ``weight_ih_l{k}`` of shape (4 * hidden_size, in),
        ``weight_hh_l{k}`` of (4 * hidden_size, out), ``bias_ih_l{k}`` and ``bias_hh_l{k}`` of (4 * hidden_size,) or
        none, ``weight_hr_l{k}`` of (proj_size, hidden_size) or none, peepholes ``weight_ch_l{k}`` of (3 * hidden_size,)
        in the order i, f, o or none; the same with ``_reverse`` for a second direction.
        Gate blocks are in the order i, f, g, o. The names give the numbers of layers and directions.
    x : array_like
        (T, B, input_size), or (B, T, input_size) with `batch_first`, or (T, input_size) unbatched; T >= 1.
    hx : (array_like, array_like), optional
        h_0 of shape (layers * directions, B, proj_size or hidden_size) and c_0 of (layers * directions, B,
        hidden_size), both without B if unbatched. Zeros if left out.
    dtype : dtype
        Precision of every operation: float32, float64 or longdouble.
    batch_first : bool
        Whether B comes before T in `x` and in the output.
    flush : dtype, optional
        The dtype of the engine that is judged, or None for pure mathematics; see `cell`.
    options : object, optional
        As for `cell`.
    int8 : bool
        As for `cell`.

    Returns
    -------
    output : ndarray
        h of the last layer at every step, (T, B, directions * out) or laid out as `x`.
    (h_n, c_n) : tuple of ndarray
        The states after the last step, shaped like h_0 and c_0.

    Examples
    --------
    >>> weights = {"weight_ih_l0": np.ones((4, 1)), "weight_hh_l0": np.zeros((4, 1))}
    >>> lstm(weights, [[0.0], [1.0]], dtype=np.float64)[0].round(4).tolist()
    [[0.0], [0.3696]]
    """
    seq = np.asarray(x).astype(dtype)
    swap = batch_first and seq.ndim == 3
    suffixes, directions = _cells(parameters)
    seq, states = seq.swapaxes(0, 1) if swap else seq, []
    for layer in range(len(suffixes) // directions):
        outputs = []
        for n in range(layer * directions, (layer + 1) * directions):
            state = None if hx is None else (np.asarray(hx[0])[n], np.asarray(hx[1])[n])
            own, reverse = _of_cell(parameters, suffixes[n], dtype), n % directions == 1
            output, state = _direction(own, seq, state, reverse, flush, options, int8)
            outputs.append(output)
            states.append(state)
        seq = np.concatenate(outputs, axis=-1)
    h_n, c_n = (np.stack(part) for part in zip(*states, strict=True))
    return seq.swapaxes(0, 1) if swap else seq, (h_n, c_n)


def _cells(parameters: Mapping[str, ArrayLike]) -> tuple[list[str], int]:
    """The suffixes of all layers and directions in order, and the number of directions."""
    directions = 2 if "weight_ih_l0_reverse" in parameters else 1
    count = sum(name.startswith("weight_ih") for name in parameters)
    return [f"_l{n // directions}" + "_reverse" * (n % directions) for n in range(count)], directions


def _of_cell(parameters: Mapping[str, ArrayLike], suffix: str, dtype: DTypeLike) -> dict[str, Array]:
    """The parameters of one layer in one direction, by name without suffix."""
    return {
        name.removesuffix(suffix): np.asarray(value).astype(dtype)
        for name, value in parameters.items()
        if name.endswith(suffix)
    }


def _direction(
    parameters: Mapping[str, Array],
    seq: Array,
    state: Any,
    reverse: bool,
    flush: DTypeLike | None,
    options: Any,
    int8: bool,
) -> tuple[Array, tuple[Array, Array]]:
    """One layer in one direction: h of every step, and the state after the last one."""
    steps = []
    for step in seq[::-1] if reverse else seq:
        state = cell(parameters, step, state, dtype=seq.dtype, flush=flush, options=options, int8=int8)
        steps.append(state[0])
    return np.stack(steps[::-1] if reverse else steps), state


def vjp(
    parameters: Mapping[str, ArrayLike],
    x: ArrayLike,
    hx: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    lengths: ArrayLike | None = None,
    masks: Sequence[ArrayLike] | None = None,
    dtype: DTypeLike = np.longdouble,
    batch_first: bool = False,
) -> tuple[tuple[Array, tuple[Array, Array]], Backward]:
    """Run an LSTM as `lstm` does, and return its backward pass too: backpropagation through time.

    Parameters
    ----------
    parameters, x, hx, dtype, batch_first
        As for `lstm`.
    lengths : array_like of int, (B,), optional
        Steps of each sequence, in any order. Steps from a length on are padding: never read, with output 0 and
        gradient 0.
    masks : sequence of array_like, optional
        Dropout between layers: for every layer but the last an array of (T, B, directions * out) that its output is
        multiplied by before the next layer reads it.

    Returns
    -------
    (output, (h_n, c_n))
        As from `lstm`; h_n and c_n of a sequence are those after its own last step.
    backward : callable
        ``backward(d_output=None, d_hx=None)`` takes the gradients of a loss by output and by (h_n, c_n), zeros if
        left out, and gives those by x, by (h_0, c_0) and by the parameters, as a dictionary.

    Examples
    --------
    >>> weights = {"weight_ih_l0": np.ones((4, 1)), "weight_hh_l0": np.zeros((4, 1))}
    >>> _, backward = vjp(weights, [[0.0], [1.0]], dtype=np.float64)
    >>> dx, (dh_0, dc_0), gradients = backward([[0.0], [1.0]])
    >>> dx.round(4).tolist(), dc_0.round(4).tolist(), sorted(gradients)
    ([[0.1989], [0.348]], [[0.1989]], ['weight_hh_l0', 'weight_ih_l0'])
    """
    p = {name: np.asarray(value, dtype) for name, value in parameters.items()}
    seq = np.asarray(x).astype(dtype)
    unbatched = seq.ndim == 2

    def laid_out(sequence: Array) -> Array:
        """As the input is laid out, or an array that is laid out so as (T, B, features)."""
        if unbatched:
            return sequence[:, 0] if sequence.ndim == 3 else sequence[:, None]
        return sequence.swapaxes(0, 1) if batch_first else sequence

    seq = laid_out(seq)
    (steps, batch), (suffixes, _) = seq.shape[:2], _cells(p)
    live = np.arange(steps)[:, None, None] < (steps if lengths is None else np.asarray(lengths)[:, None])  # (T, B, 1)
    out, units = p["weight_hh_l0"].shape[1], len(p["weight_hh_l0"]) // 4
    shapes = (len(suffixes), batch, out), (len(suffixes), batch, units)
    h_n, c_n = (
        np.zeros(shape, dtype) if hx is None else np.array(hx[n], dtype).reshape(shape)
        for n, shape in enumerate(shapes)
    )
    factors = [np.asarray(mask, dtype) for mask in ([1] * len(suffixes) if masks is None else masks)]
    outputs, kept = _forward(p, seq, live, h_n, c_n, factors)

    def backward(
        d_output: ArrayLike | None = None, d_hx: tuple[ArrayLike, ArrayLike] | None = None
    ) -> tuple[Array, tuple[Array, Array], dict[str, Array]]:
        dy = np.zeros_like(outputs) if d_output is None else laid_out(np.asarray(d_output, dtype))
        dh, dc = (
            np.zeros(shape, dtype) if d_hx is None else np.array(d_hx[n], dtype).reshape(shape)
            for n, shape in enumerate(shapes)
        )
        dx, gradients = _backward(p, kept, live, dy, dh, dc, factors)
        return laid_out(dx), (dh[:, 0], dc[:, 0]) if unbatched else (dh, dc), {name: gradients[name] for name in p}

    final = (h_n[:, 0], c_n[:, 0]) if unbatched else (h_n, c_n)
    return (laid_out(outputs), final), backward


def _forward(
    p: Mapping[str, Array], seq: Array, live: Array, h: Array, c: Array, masks: Sequence[Array]
) -> tuple[Array, list[dict[str, Array]]]:
    """All layers: h and c are replaced by the final ones; the output, and what `_backward` needs of each cell."""
    (suffixes, directions), (steps, out), kept = _cells(p), (len(seq), h.shape[-1]), []
    outputs = seq
    for n, suffix in enumerate(suffixes):
        layer, reverse = divmod(n, directions)
        if not reverse:
            seq = np.where(live, outputs * masks[layer - 1] if layer else outputs, 0)
            outputs = np.zeros((*seq.shape[:2], directions * out), seq.dtype)
        order = range(steps)[::-1] if reverse else range(steps)
        part = outputs[..., reverse * out :][..., :out]
        kept.append(_steps_kept(_of_cell(p, suffix, seq.dtype), seq, live, order, h[n], c[n], part))
    return outputs, kept


def _backward(
    p: Mapping[str, Array],
    kept: Sequence[Mapping[str, Array]],
    live: Array,
    dy: Array,
    dh: Array,
    dc: Array,
    masks: Sequence[Array],
) -> tuple[Array, dict[str, Array]]:
    """All layers against their order: dh and dc are replaced by those by h_0 and c_0; dx and the gradients."""
    (suffixes, directions), (steps, out) = _cells(p), (len(dy), dh.shape[-1])
    gradients: dict[str, Array] = {}
    dx = dy
    for n in range(len(suffixes))[::-1]:
        layer, reverse = divmod(n, directions)
        if n % directions == directions - 1:
            dy = dx * masks[layer] if n + 1 < len(suffixes) else dy
            dx = np.zeros((), dy.dtype)
        order = range(steps) if reverse else range(steps)[::-1]  # against the direction
        part = dy[..., reverse * out :][..., :out]
        own = _of_cell(p, suffixes[n], dy.dtype)
        of_cell, own_gradients = _steps_back(own, kept[n], live, order, part, dh[n], dc[n])
        gradients |= {name + suffixes[n]: value for name, value in own_gradients.items()}
        dx = of_cell + dx
    return dx, gradients


def _steps_kept(
    own: Mapping[str, Array], seq: Array, live: Array, order: Iterable[int], h: Array, c: Array, output: Array
) -> dict[str, Array]:
    """One layer in one direction: h and c are replaced by the final ones, and what `_steps_back` needs is returned."""
    shape = (*seq.shape[:2], c.shape[-1])
    kept = {"x": seq, "h": np.zeros((*shape[:2], h.shape[-1]), seq.dtype), "sums": np.zeros((4, *shape), seq.dtype)}
    kept |= {name: np.zeros(shape, seq.dtype) for name in ("c", "new", "m")}
    for t in order:
        kept["h"][t], kept["c"][t] = h, c
        with np.errstate(all="ignore"):
            sums = seq[t] @ own["weight_ih"].T + h @ own["weight_hh"].T
            if "bias_ih" in own:
                sums = sums + (own["bias_ih"] + own["bias_hh"])
            i, f, g, o = kept["sums"][:, t] = np.stack(np.split(sums, 4, axis=-1))
            new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            m = sigmoid(o) * np.tanh(new)
            new_h = m @ own["weight_hr"].T if "weight_hr" in own else m
        kept["new"][t], kept["m"][t] = new, m
        h[...], c[...] = np.where(live[t], new_h, h), np.where(live[t], new, c)
        output[t] = np.where(live[t], new_h, 0)
    return kept


def _steps_back(
    own: Mapping[str, Array],
    kept: Mapping[str, Array],
    live: Array,
    order: Iterable[int],
    dy: Array,
    dh: Array,
    dc: Array,
) -> tuple[Array, dict[str, Array]]:
    """The backward pass of `_steps_kept`: dh and dc are replaced by those by h_0 and c_0; dx and the gradients."""
    dx, gradients = np.zeros_like(kept["x"]), {name: np.zeros_like(value) for name, value in own.items()}
    for t in order:
        with np.errstate(all="ignore"):
            i, f, g, o = kept["sums"][:, t]
            total = dh + dy[t]
            dm = total @ own["weight_hr"] if "weight_hr" in own else total
            d = dc + dm * sigmoid(o) * _tanh_derivative(kept["new"][t])
            da = np.concatenate(
                [
                    d * np.tanh(g) * _sigmoid_derivative(i),
                    d * kept["c"][t] * _sigmoid_derivative(f),
                    d * sigmoid(i) * _tanh_derivative(g),
                    dm * np.tanh(kept["new"][t]) * _sigmoid_derivative(o),
                ],
                axis=-1,
            )
            da = np.where(live[t], da, 0)
            dx[t] = np.where(live[t], da @ own["weight_ih"], 0)
            dh[...], dc[...] = np.where(live[t], da @ own["weight_hh"], dh), np.where(live[t], d * sigmoid(f), dc)
            gradients["weight_ih"] += da.T @ kept["x"][t]
            gradients["weight_hh"] += da.T @ kept["h"][t]
            for name in {"bias_ih", "bias_hh"} & set(own):
                gradients[name] += da.sum(axis=0)
            if "weight_hr" in own:
                gradients["weight_hr"] += np.where(live[t], total, 0).T @ kept["m"][t]
    return dx, gradients


def cell(
    parameters: Mapping[str, ArrayLike],
    x: ArrayLike,
    hx: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    dtype: DTypeLike = np.longdouble,
    flush: DTypeLike | None = None,
    options: Any = None,
    int8: bool = False,
) -> tuple[Array, Array]:
    """Run one step of one layer in one direction.

    Parameters
    ----------
    parameters : mapping of str to array_like
        ``weight_ih``, ``weight_hh``, and where there are any ``bias_ih``, ``bias_hh``, ``weight_hr``, ``weight_ch``;
        shapes as for `lstm`.
    x : array_like
        (B, in), or (in,) unbatched.
    hx : (array_like, array_like), optional
        h of shape (B, out) and c of (B, hidden_size), both without B if unbatched. Zeros if left out.
    dtype : dtype
        Precision of every operation.
    flush : dtype, optional
        None, or the dtype whose small numbers are to vanish as they do in the engine: c below its smallest
        normal number becomes 0, when read and when made, and so does h below 2**26 times that (with a projection:
        before it and after it); and a sigmoid whose argument is below -87 (float32) or -708 (float64), the whole
        number next to the logarithm of the smallest normal number, is 0, and so is a Softplus.
    options : object, optional
        Other functions than those of the plain cell, by ONNX's names: its ``f``, ``g`` and ``h`` are a name and its
        numbers each, ``clip`` limits the sums before f and g, and ``input_forget`` makes the forget gate 1 - i.
    int8 : bool
        Whether weights are rounded to int8, and x and h too, as `int8_products` does; the sums are float32 then.

    Returns
    -------
    h, c : ndarray
        The next states.
    """
    if hx is None:
        batch, (gates_size, output_size) = np.shape(x)[:-1], np.shape(parameters["weight_hh"])
        hx = (np.zeros((*batch, output_size)), np.zeros((*batch, gates_size // 4)))
    before = _flushed_c(np.asarray(hx[1], dtype), flush)
    with np.errstate(all="ignore"):  # infinities, NaN and underflow are values here, not accidents
        i, f, g, o = gate_sums(parameters, x, hx[0], dtype=dtype, flush=flush, int8=int8)
        p_i, p_f, p_o = np.split(np.asarray(parameters.get("weight_ch", (0, 0, 0)), dtype), 3)
        if "weight_ch" in parameters:  # without, 0 times an infinite c would be NaN
            i, f = i + p_i * before, f + p_f * before
        i, g = gate_of(i, options, "i", flush), gate_of(g, options, "g", flush)
        f = 1 - i if options is not None and options.input_forget else gate_of(f, options, "f", flush)
        c = _flushed_c(f * before + i * g, flush)
        o = gate_of(o + p_o * c if "weight_ch" in parameters else o, options, "o", flush)
        h = _flushed_h(o * (np.tanh(c) if options is None else activated(options.h, c, flush)), flush)
        if "weight_hr" in parameters:
            w_hr = np.asarray(parameters["weight_hr"], dtype)
            h = _flushed_h(int8_products(h, w_hr).astype(dtype) if int8 else h @ w_hr.T, flush)
        return h, c


def int8_rows(rows: ArrayLike) -> tuple[Array, Array]:
    """Inputs or states as int8: integers as float32, and the scale of each row, m / 127 with m its largest magnitude.

    A row of numbers below 2**-100 is zeros; the scale of one with NaN or an infinity is NaN.

    Examples
    --------
    >>> int8_rows([[1.0, -2.0, 0.01]])[0].tolist()
    [[64.0, -127.0, 1.0]]
    """
    x = np.asarray(rows, np.float32)
    most = np.abs(x).max(axis=-1, keepdims=True, initial=0)
    with np.errstate(all="ignore"):
        integers = np.rint(x * (np.float32(127) / most))
        faint, sound = most < np.float32(2.0**-100), np.isfinite(most)
        scales = np.where(sound, most / np.float32(127), np.float32(np.nan))
        return np.where(faint | ~sound, np.float32(0), integers), np.where(faint, np.float32(0), scales)


def int8_weights(matrix: ArrayLike) -> tuple[Array, Array]:
    """A matrix of finite weights as int8: integers as float32, and the scale of each row.

    The scale is the largest magnitude / 127, rounded up to 16 significant bits, or 0 for a row of numbers below
    2**-100. So integers times scales are float32 without rounding.

    Examples
    --------
    >>> int8_weights([[254.0, -3.0, 1.0]])
    (array([[127.,  -2.,   0.]], dtype=float32), array([2.], dtype=float32))
    """
    w = np.asarray(matrix, np.float32)
    most = np.abs(w).max(axis=1, initial=0)
    mantissa, exponent = np.frexp((most / np.float32(127)).astype(np.float64))
    scales = np.where(most < 2.0**-100, 0, np.ldexp(np.ceil(mantissa * 2**16), exponent - 16)).astype(np.float32)
    return np.rint(w / np.where(scales > 0, scales, np.float32(np.inf))[:, None]), scales


def int8_products(rows: ArrayLike, matrix: ArrayLike) -> Array:
    """``rows @ matrix.T`` of rounded numbers, in float32: an exact sum of integers, times the scales one by one."""
    (integers, of_row), (weights, of_weights) = int8_rows(rows), int8_weights(matrix)
    sums = integers.astype(np.int64) @ weights.astype(np.int64).T
    with np.errstate(all="ignore"):
        products: Array = sums.astype(np.float32) * of_row * of_weights
    return products


def gate_sums(
    parameters: Mapping[str, ArrayLike],
    x: ArrayLike,
    h: ArrayLike,
    *,
    dtype: DTypeLike = np.longdouble,
    flush: DTypeLike | None = None,
    int8: bool = False,
) -> list[Array]:
    """i, f, g and o before activation, without peepholes, each (B, hidden_size) or without B.

    Parameters
    ----------
    parameters, x, dtype, flush, int8
        As for `cell`.
    h : array_like
        Of the step before: (B, out), or (out,) unbatched.
    """
    p = {name: np.asarray(value, dtype) for name, value in parameters.items()}
    with np.errstate(all="ignore"):
        before = _flushed_h(np.asarray(h, dtype), flush)
        if int8:
            of_x, of_h = int8_products(x, p["weight_ih"]), int8_products(before, p["weight_hh"])
            if "bias_ih" in p:
                of_x = (p["bias_ih"].astype(np.float32) + p["bias_hh"].astype(np.float32)) + of_x
            return np.split((of_x + of_h).astype(dtype), 4, axis=-1)
        sums = np.asarray(x, dtype) @ p["weight_ih"].T + before @ p["weight_hh"].T
        if "bias_ih" in p:
            sums = sums + (p["bias_ih"] + p["bias_hh"])
        return np.split(sums, 4, axis=-1)


def gates(
    parameters: Mapping[str, ArrayLike],
    x: ArrayLike,
    h: ArrayLike,
    *,
    dtype: DTypeLike = np.longdouble,
    flush: DTypeLike | None = None,
) -> tuple[Array, Array, Array, Array]:
    """The gates i, f, g and o of one step of a plain cell; arguments as for `gate_sums`."""
    with np.errstate(all="ignore"):
        i, f, g, o = gate_sums(parameters, x, h, dtype=dtype, flush=flush)
        return sigmoid(i, flush), sigmoid(f, flush), np.tanh(g), sigmoid(o, flush)


def gate_of(sums: Array, options: Any, gate: str, flush: DTypeLike | None = None) -> Array:
    """The gate of that name from its sums, peepholes included; arguments as for `cell`."""
    if options is None:
        return np.tanh(sums) if gate == "g" else sigmoid(sums, flush)
    return activated(options.g if gate == "g" else options.f, np.clip(sums, -options.clip, options.clip), flush)


def activated(function: Sequence[Any], x: Array, flush: DTypeLike | None = None) -> Array:
    """A function of ONNX by its name and numbers, alpha and beta; `flush` as in `cell`.

    Examples
    --------
    >>> activated(("HardSigmoid", 0.2, 0.5), np.array([-9.0, 1.0, 9.0])).tolist()
    [0.0, 0.7, 1.0]
    """
    name, *numbers = function
    if name == "Sigmoid":
        return sigmoid(x, flush)
    alpha, beta = (x.dtype.type(number) for number in (*numbers, 0, 0)[:2])
    with np.errstate(all="ignore"):
        size = np.abs(x)
        softplus = np.maximum(x, 0) + np.log1p(np.exp(-size))
        if flush is not None:
            softplus = np.where(x < np.ceil(np.log(np.finfo(flush).tiny)), 0, softplus)
        values: dict[str, Array] = {
            "Tanh": np.tanh(x),
            "Relu": np.maximum(x, 0),
            "Softsign": np.where(np.isinf(x), np.sign(x), x / (1 + size)),
            "Softplus": softplus,
            "LeakyRelu": np.where(x < 0, alpha * x, x),
            "ThresholdedRelu": np.where(x <= alpha, 0, x),
            "Elu": np.where(x < 0, alpha * np.expm1(x), x),
            "HardSigmoid": np.clip(alpha * x + beta, 0, 1),
            "Affine": alpha * x + beta,
            "ScaledTanh": alpha * np.tanh(beta * x),
        }
    return values[name]


def sigmoid(x: Array, flush: DTypeLike | None = None) -> Array:
    """1 / (1 + e**-x) without overflow, to the last digits on both sides; `flush` as in `cell`.

    Examples
    --------
    >>> sigmoid(np.array([-np.inf, -100.0, 0.0, np.inf])).tolist()
    [0.0, 3.720075976020836e-44, 0.5, 1.0]
    >>> sigmoid(np.array([-100.0]), np.float32).tolist()
    [0.0]
    """
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
        gate: Array = np.where(x < 0, e, 1) / (1 + e)
    return gate if flush is None else np.where(x < np.ceil(np.log(np.finfo(flush).tiny)), 0, gate)


def _sigmoid_derivative(x: Array) -> Array:
    """Of the number before the activation: 1 - sigmoid would lose the digits of a saturated gate's derivative."""
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
    derivative: Array = e / (1 + e) ** 2
    return derivative


def _tanh_derivative(x: Array) -> Array:
    """Likewise for tanh."""
    with np.errstate(under="ignore"):
        e = np.exp(-2 * np.abs(x))
    derivative: Array = 4 * e / (1 + e) ** 2
    return derivative


def _flushed_c(c: Array, flush: DTypeLike | None) -> Array:
    """c with what is below the smallest normal number of `flush` made 0; NaN stays."""
    return c if flush is None else np.where(np.abs(c) < np.finfo(flush).tiny, 0, c)


def _flushed_h(h: Array, flush: DTypeLike | None) -> Array:
    """h with what is below 2**26 times the smallest normal number of `flush` made 0; NaN stays."""
    return h if flush is None else np.where(np.abs(h) < np.finfo(flush).tiny * 2**26, 0, h)


def head(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    activation: str = "identity",
    added: ArrayLike = 0,
    *,
    dtype: DTypeLike = np.longdouble,
) -> Array:
    """What follows an LSTM in each row by itself: a Linear layer, an activation, and something added.

    Parameters
    ----------
    x : array_like, (..., inputs)
    weight : array_like, (outputs, inputs), optional
        As in ``torch.nn.Linear``; none for the activation alone.
    bias : array_like, (outputs,), optional
    activation : {"identity", "relu", "sigmoid", "tanh", "softmax"}
        A softmax is along the last axis.
    added : array_like, (..., outputs)
    dtype : dtype
        All numbers are computed in it.

    Returns
    -------
    ndarray, (..., outputs)

    Examples
    --------
    >>> head([[1.0, 2.0]], weight=[[1.0, 1.0], [0.0, -1.0]], bias=[0.5, 0.0], activation="relu", dtype=float).tolist()
    [[3.5, 0.0]]
    """
    y = np.asarray(x, dtype)
    if weight is not None:
        y = y @ np.asarray(weight, dtype).T
    if bias is not None:
        y = y + np.asarray(bias, dtype)
    if activation == "relu":
        y = np.where(y < 0, np.zeros_like(y), y)
    elif activation == "sigmoid":
        y = sigmoid(y)
    elif activation == "tanh":
        y = np.tanh(y)
    elif activation == "softmax":
        y = np.exp(y - y.max(axis=-1, keepdims=True))
        y = y / y.sum(axis=-1, keepdims=True)
    result: Array = y + np.asarray(added, dtype)
    return result
