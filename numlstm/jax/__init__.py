"""An LSTM as a function of JAX: under ``jit``, ``grad`` and ``vmap``, on the CPU.

In: arrays and tracers of JAX. Out: the same. Needs the extra ``jax``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

import numpy as np

from numlstm.autodiff.padded import Padded, back_padded, run_padded
from numlstm.autodiff.stateless import SECOND, checked_call, config_of, kept_size, passes_of, run_in_layout
from numlstm.base.config import Config
from numlstm.base.requirements import install
from numlstm.base.typing import Array, Shape
from numlstm.base.validation.arguments import parameter_dtype
from numlstm.base.validation.packed import checked_lengths
from numlstm.base.validation.shapes import CallShapes

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise ImportError(f"numlstm.jax needs JAX ({error}); install it with: {install('jax')}") from error

from numlstm.jax.host_calls import call as call_host

__all__ = ["lstm"]


def lstm(
    parameters: Mapping[str, Any],
    input: Any,
    hx: Any = None,
    *,
    batch_first: bool = False,
    lengths: Any = None,
    dropout: float = 0.0,
    key: Any = None,
) -> Any:
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
    lengths : array of int, (batch,), optional
        Of the sequences in a padded batch, from 0 to the number of steps, in any order. It may be traced. The padding
        is not read; output and gradients are 0 there, and h_n and c_n are those of each sequence's last step.
    dropout : float
        In training, the probability with which each output of a layer but the last is zeroed; what stays is scaled.
    key : jax.random.key, optional
        Draws the dropout.

    Returns
    -------
    output, (h_n, c_n)
        As from ``numlstm.LSTM``, in the dtype of the parameters.

    Raises
    ------
    ValueError
        The parameters are not those of an LSTM, or have several dtypes; the batch is empty; lengths are out of range;
        or dropout is no probability, or has no key.
    RuntimeError, TypeError
        Input, states or lengths do not fit; as from ``numlstm.LSTM``.
    NotImplementedError
        A second derivative is asked for. JAX itself refuses forward mode.
    jax.errors.JaxRuntimeError
        Traced lengths are out of range.

    Notes
    -----
    On the CPU a call works on the memory of JAX's arrays, by XLA's foreign function interface, and costs some tens of
    microseconds. Elsewhere, and with JAX before 0.5, it goes through ``jax.pure_callback``. ``vmap`` runs one call
    after the other; a batch is faster.

    Examples
    --------
    >>> import jax
    >>> import numlstm
    >>> parameters = {name: jax.numpy.asarray(array) for name, array in numlstm.LSTM(3, 4).state_dict().items()}
    >>> @jax.jit
    ... def loss(parameters, x, lengths):
    ...     output, _ = lstm(parameters, x, lengths=lengths)
    ...     return (output**2).mean()
    >>> x, lengths = jax.numpy.ones((5, 2, 3)), jax.numpy.array([5, 3])
    >>> jax.grad(loss)(parameters, x, lengths)["weight_ih_l0"].shape
    (16, 3)
    """
    config = config_of({name: np.shape(array) for name, array in parameters.items()})
    weights = tuple(jnp.asarray(parameters[name]) for name in config.parameter_shapes())
    dtypes = {weight.dtype for weight in weights}
    if len(dtypes) > 1:
        raise ValueError(f"parameters must have one dtype\nTheirs are {', '.join(sorted(map(str, dtypes)))}.")
    dtype = parameter_dtype(dtypes.pop())
    call = checked_call(config._replace(batch_first=batch_first), np.shape(input), hx, dtype)
    if lengths is not None:
        lengths = _lengths(lengths, call, np.shape(input))

    def run(x: Any, states: Any) -> Any:
        if states is None:
            states = tuple(jnp.zeros(shape, dtype) for shape in config.state_shapes(x.shape[1]))
        masks = _masks(config, x, dropout, key)
        kind = Kind(config, masks is not None, lengths is not None)
        return _run(kind, x, *(jnp.asarray(state, dtype) for state in states), weights, masks, lengths)

    return run_in_layout(run, call, jnp.asarray(input, dtype), hx)


class Kind(NamedTuple):
    """What distinguishes functions: sizes, and whether they are given masks of dropout and lengths."""

    config: Config
    drops: bool
    ragged: bool

    def name(self, of: str) -> str:
        """The name of a function."""
        return "_".join(["numlstm", of, *(str(int(size)) for size in (*_sizes(self.config), self.drops, self.ragged))])

    def given(self, masks: Any, lengths: Any, weights: Sequence[Any]) -> tuple[Any, ...]:
        """The arrays that a function is given, behind its own."""
        return *((masks,) if self.drops else ()), *((lengths,) if self.ragged else ()), *weights

    def taken(self, arrays: Sequence[Array], steps: int, rows: int) -> tuple[Array | None, Padded | None, list[Array]]:
        """Masks, lengths and weights among those."""
        rest = list(arrays)
        masks = rest.pop(0) if self.drops else None
        padded = Padded(rest.pop(0), steps, rows) if self.ragged else None
        return masks, padded, rest


def _sizes(config: Config) -> tuple[int, ...]:
    return (
        config.input_size,
        config.hidden_size,
        config.num_layers,
        config.bias,
        config.bidirectional,
        config.proj_size,
    )


def _lengths(lengths: Any, call: CallShapes, shape: Shape) -> Any:
    """Lengths as JAX has them; those that are known are checked here."""
    known = lengths
    if isinstance(lengths, jax.core.Tracer):
        if not jnp.issubdtype(lengths.dtype, jnp.integer):
            raise TypeError(f"lengths must be whole numbers\nTheir dtype is {lengths.dtype}.")
        known = np.zeros(lengths.shape, np.int64)
    checked_lengths(known if isinstance(known, list | tuple) else np.asarray(known), call, shape)
    return jnp.asarray(lengths, np.int32)


def _masks(config: Config, x: Any, dropout: float, key: Any) -> Any:
    """What the outputs of all layers but the last are multiplied by; None without dropout."""
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout should be a number in range [0, 1]\nIt is {dropout!r}.")
    if dropout == 0 or config.num_layers == 1:
        return None
    if key is None:
        raise ValueError(
            "dropout is drawn from a key\nPass key=jax.random.key(seed), or leave dropout out to evaluate."
        )
    shape = config.num_layers - 1, *x.shape[:2], config.num_directions * config.output_size
    if dropout == 1:
        return jnp.zeros(shape, x.dtype)
    return jax.random.bernoulli(key, 1 - dropout, shape).astype(x.dtype) / (1 - dropout)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(kind: Kind, x: Any, h_0: Any, c_0: Any, weights: Any, masks: Any, lengths: Any) -> Any:
    """Output, h_n and c_n."""

    def infer(x: Array, h_0: Array, c_0: Array, *rest: Array) -> Sequence[Array]:
        masks, padded, weights = kind.taken(rest, *x.shape[:2])
        passes = passes_of(kind.config, x.dtype)
        panels = passes.panels(weights)
        if masks is None and padded is None:
            return passes.infer(panels, x, (h_0, c_0))
        return run_padded(passes, panels, x, (h_0, c_0), masks, padded)[:3]

    return call_host(kind.name("infer"), infer, _results(kind, x), x, h_0, c_0, *kind.given(masks, lengths, weights))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _keep(kind: Kind, x: Any, h_0: Any, c_0: Any, weights: Any, masks: Any, lengths: Any) -> Any:
    """The same, and what `_gradients` needs."""
    steps, rows, _ = x.shape
    size = kept_size(kind.config, np.dtype(x.dtype), steps * rows, rows, kind.drops)

    def forward(x: Array, h_0: Array, c_0: Array, *rest: Array) -> Sequence[Array]:
        masks, padded, weights = kind.taken(rest, *x.shape[:2])
        passes = passes_of(kind.config, x.dtype)
        *results, kept = run_padded(passes, passes.panels(weights), x, (h_0, c_0), masks, padded)
        if padded is not None:
            (steps, rows, _), kept_by_fewer = x.shape, kept
            kept = np.zeros(kept_size(kind.config, x.dtype, steps * rows, rows, kind.drops), x.dtype)
            kept[: kept_by_fewer.size] = kept_by_fewer
        return *results, kept

    shapes = *_results(kind, x), jax.ShapeDtypeStruct((size,), x.dtype)
    return call_host(kind.name("forward"), forward, shapes, x, h_0, c_0, *kind.given(masks, lengths, weights))


def _forward(kind: Kind, x: Any, h_0: Any, c_0: Any, weights: Any, masks: Any, lengths: Any) -> Any:
    *results, kept = _keep(kind, x, h_0, c_0, weights, masks, lengths)
    return tuple(results), (kept, weights, masks, lengths)


def _back(kind: Kind, residuals: Any, by_results: Any) -> Any:
    return *_gradients(kind, *residuals, *by_results), None, None


_run.defvjp(_forward, _back)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(kind: Kind, kept: Any, weights: Any, masks: Any, lengths: Any, d_output: Any, d_h: Any, d_c: Any) -> Any:
    """Those of x, h_0, c_0 and the weights."""
    steps, rows, _ = d_output.shape

    def back(kept: Array, d_output: Array, d_h: Array, d_c: Array, *rest: Array) -> Sequence[Array]:
        masks, padded, weights = kind.taken(rest, *d_output.shape[:2])
        passes = passes_of(kind.config, kept.dtype)
        return back_padded(passes, passes.panels(weights), kept, (d_output, d_h, d_c), masks, padded)

    shapes = (steps, rows, kind.config.input_size), d_h.shape, d_c.shape, *(weight.shape for weight in weights)
    structs = tuple(jax.ShapeDtypeStruct(shape, kept.dtype) for shape in shapes)
    given = kept, d_output, d_h, d_c, *kind.given(masks, lengths, weights)
    d_x, d_h_0, d_c_0, *d_weights = call_host(kind.name("back"), back, structs, *given)
    return d_x, d_h_0, d_c_0, tuple(d_weights)


def _second(*_: Any) -> NoReturn:
    raise NotImplementedError(SECOND.format("jax.lax.scan"))


_keep.defvjp(_second, _second)
_gradients.defvjp(_second, _second)


def _results(kind: Kind, x: Any) -> tuple[Any, ...]:
    """Shapes and dtypes of output, h_n and c_n."""
    (steps, rows, _), config = x.shape, kind.config
    output = steps, rows, config.num_directions * config.output_size
    return tuple(jax.ShapeDtypeStruct(shape, x.dtype) for shape in (output, *config.state_shapes(rows)))
