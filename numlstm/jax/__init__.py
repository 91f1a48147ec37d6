"""An LSTM as a function of JAX: under ``jit``, ``grad`` and ``vmap``, on the CPU.

In: arrays and tracers of JAX. Out: the same. Needs the extra ``jax``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import numpy as np

from numlstm.autodiff.stateless import SECOND, checked_call, config_of, kept_size, passes_of, run_in_layout
from numlstm.base.config import Config
from numlstm.base.requirements import install
from numlstm.base.typing import Array
from numlstm.base.validation.arguments import parameter_dtype

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise ImportError(f"numlstm.jax needs JAX ({error}); install it with: {install('jax')}") from error

__all__ = ["lstm"]


def lstm(parameters: Mapping[str, Any], input: Any, hx: Any = None, *, batch_first: bool = False) -> Any:
    """Run an LSTM; JAX differentiates it by its parameters, its input and its states.

    Parameters
    ----------
    parameters : mapping of str to array
        By the names of a state dict, float32 or float64: ``numlstm.LSTM(...).state_dict()``. Sizes and directions
        follow from the shapes.
    input : array
        (steps, batch, input_size), or (batch, steps, input_size) with ``batch_first``, or unbatched
        (steps, input_size). Converted to the dtype of the parameters.
    hx : (array, array), optional
        h_0 and c_0; zeros by default.
    batch_first : bool
        Whether the batch is the first axis of input and output.

    Returns
    -------
    output, (h_n, c_n)
        As from ``numlstm.LSTM``, in the dtype of the parameters.

    Raises
    ------
    ValueError
        The parameters are not those of an LSTM, or have several dtypes; or the batch is empty.
    RuntimeError, TypeError
        Input or states do not fit; as from ``numlstm.LSTM``.
    NotImplementedError
        A second derivative is asked for. JAX itself refuses forward mode.

    Notes
    -----
    A call leaves JAX's program by ``jax.pure_callback``, which costs about 0.2 ms, and copies its arrays. ``vmap`` runs
    one call after the other; a batch is faster.

    Examples
    --------
    >>> import jax
    >>> import numlstm
    >>> parameters = {name: jax.numpy.asarray(array) for name, array in numlstm.LSTM(3, 4).state_dict().items()}
    >>> @jax.jit
    ... def loss(parameters, x):
    ...     output, _ = lstm(parameters, x)
    ...     return (output**2).mean()
    >>> jax.grad(loss)(parameters, jax.numpy.ones((5, 2, 3)))["weight_ih_l0"].shape
    (16, 3)
    """
    config = config_of({name: np.shape(array) for name, array in parameters.items()})
    weights = tuple(jnp.asarray(parameters[name]) for name in config.parameter_shapes())
    dtypes = {weight.dtype for weight in weights}
    if len(dtypes) > 1:
        raise ValueError(f"parameters must have one dtype\nTheirs are {', '.join(sorted(map(str, dtypes)))}.")
    dtype = parameter_dtype(dtypes.pop())
    call = checked_call(config._replace(batch_first=batch_first), np.shape(input), hx, dtype)

    def run(x: Any, states: Any) -> Any:
        if states is None:
            states = tuple(jnp.zeros(shape, dtype) for shape in config.state_shapes(x.shape[1]))
        return _run(config, x, *(jnp.asarray(state, dtype) for state in states), weights)

    return run_in_layout(run, call, jnp.asarray(input, dtype), hx)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(config: Config, x: Any, h_0: Any, c_0: Any, weights: Any) -> Any:
    """Output, h_n and c_n."""

    def infer(*given: Any) -> tuple[Array, ...]:
        x, h_0, c_0, *weights = map(np.asarray, given)
        passes = passes_of(config, x.dtype)
        return passes.infer(passes.panels(weights), x, (h_0, c_0))

    return jax.pure_callback(infer, _results(config, x), x, h_0, c_0, *weights, vmap_method="sequential")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _keep(config: Config, x: Any, h_0: Any, c_0: Any, weights: Any) -> Any:
    """The same, and what `_gradients` needs."""

    def forward(*given: Any) -> tuple[Array, ...]:
        x, h_0, c_0, *weights = map(np.asarray, given)
        passes = passes_of(config, x.dtype)
        return passes.forward(passes.panels(weights), x, (h_0, c_0))

    steps, rows, _ = x.shape
    size = kept_size(config, np.dtype(x.dtype), steps * rows, rows, False)
    shapes = *_results(config, x), jax.ShapeDtypeStruct((size,), x.dtype)
    return jax.pure_callback(forward, shapes, x, h_0, c_0, *weights, vmap_method="sequential")


def _forward(config: Config, x: Any, h_0: Any, c_0: Any, weights: Any) -> Any:
    *results, kept = _keep(config, x, h_0, c_0, weights)
    return tuple(results), (kept, weights)


def _back(config: Config, residuals: Any, by_results: Any) -> Any:
    return _gradients(config, *residuals, *by_results)


_run.defvjp(_forward, _back)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(config: Config, kept: Any, weights: Any, d_output: Any, d_h: Any, d_c: Any) -> Any:
    """Those of x, h_0, c_0 and the weights."""
    steps, rows, _ = d_output.shape

    def back(*given: Any) -> Any:
        kept, d_output, d_h, d_c, *weights = map(np.asarray, given)
        passes = passes_of(config, kept.dtype)
        return passes.backward(passes.panels(weights), kept, (d_output, d_h, d_c), steps, rows)

    shapes = (steps, rows, config.input_size), d_h.shape, d_c.shape, *(weight.shape for weight in weights)
    structs = tuple(jax.ShapeDtypeStruct(shape, kept.dtype) for shape in shapes)
    given = kept, d_output, d_h, d_c, *weights
    d_x, d_h_0, d_c_0, *d_weights = jax.pure_callback(back, structs, *given, vmap_method="sequential")
    return d_x, d_h_0, d_c_0, tuple(d_weights)


def _second(*_: Any) -> NoReturn:
    raise NotImplementedError(SECOND.format("jax.lax.scan"))


_keep.defvjp(_second, _second)
_gradients.defvjp(_second, _second)


def _results(config: Config, x: Any) -> tuple[Any, ...]:
    """Shapes and dtypes of output, h_n and c_n."""
    steps, rows, _ = x.shape
    output = steps, rows, config.num_directions * config.output_size
    return tuple(jax.ShapeDtypeStruct(shape, x.dtype) for shape in (output, *config.state_shapes(rows)))
