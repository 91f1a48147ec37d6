"""An LSTM as a primitive of `autograd <https://github.com/HIPS/autograd>`_, for models with any head and any loss.

In: arrays, and boxes of arrays while autograd records. Out: the same. Needs the extra ``autograd``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from numlstm.autodiff.stateless import SECOND, Passes, checked_call, config_of, passes_of, run_in_layout
from numlstm.base.requirements import install
from numlstm.base.typing import Array
from numlstm.base.validation.arguments import parameter_dtype
from numlstm.base.validation.arrays import as_dtype, real_array

try:
    from autograd.builtins import tuple as boxed_tuple
    from autograd.extend import defvjp_argnums, primitive
    from autograd.tracer import isbox
except ImportError as error:
    raise ImportError(f"numlstm.autograd needs autograd ({error}); install it with: {install('autograd')}") from error

__all__ = ["lstm"]


def lstm(parameters: Mapping[str, Any], input: Any, hx: Any = None, *, batch_first: bool = False) -> Any:
    """Run an LSTM, so that autograd differentiates it by its parameters, its input and its states.

    Parameters
    ----------
    parameters : mapping of str to array
        By the names of a state dict, float32 or float64: ``numlstm.LSTM(...).state_dict()``. Sizes and directions
        follow from the shapes.
    input : array
        (steps, batch, input_size), or (batch, steps, input_size) with ``batch_first``, or unbatched
        (steps, input_size).
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
        The parameters are not those of an LSTM, or have several dtypes.
    RuntimeError, TypeError
        Input or states do not fit; as from ``numlstm.LSTM``.
    NotImplementedError
        A second derivative is asked for.

    Examples
    --------
    >>> import autograd
    >>> import autograd.numpy as np
    >>> import numlstm
    >>> parameters = numlstm.LSTM(3, 4, seed=0).state_dict()
    >>> def loss(parameters, x):
    ...     output, _ = lstm(parameters, x)
    ...     return np.mean(output**2)
    >>> autograd.grad(loss)(dict(parameters), np.ones((5, 2, 3), np.float32))["weight_ih_l0"].shape
    (16, 3)
    """
    config = config_of({name: np.shape(array) for name, array in parameters.items()})
    weights = [parameters[name] for name in config.parameter_shapes()]
    dtypes = {np.dtype(weight.dtype) for weight in weights}
    if len(dtypes) > 1:
        raise ValueError(f"parameters must have one dtype\nTheirs are {', '.join(sorted(map(str, dtypes)))}.")
    passes = passes_of(config, parameter_dtype(dtypes.pop()))
    hx = tuple(hx) if isbox(hx) else hx
    call = checked_call(config._replace(batch_first=batch_first), np.shape(input), hx, passes.dtype)
    tape: list[Array] = []

    def run(x: Any, states: Any) -> Any:
        return _run(tape, passes, x, *((None, None) if states is None else states), *weights)

    return run_in_layout(run, call, input if isbox(input) else real_array("input", input), hx)


@primitive
def _run(tape: list[Array], passes: Passes, x: Array, h_0: Any, c_0: Any, *weights: Array) -> tuple[Array, ...]:
    """Output, h_n and c_n; what `_gradients` needs is put on the tape."""
    hx = None if h_0 is None else (h_0, c_0)
    *results, kept = passes.forward(passes.panels(weights), as_dtype(x, passes.dtype), hx)
    tape[:] = [kept]
    return tuple(results)


@primitive
def _gradients(tape: list[Array], passes: Passes, by_results: Any, x: Array, *rest: Any) -> tuple[Array | None, ...]:
    """Gradients of x, h_0, c_0 and the weights, each in the dtype of what it is of."""
    _, _, *weights = rest
    by_own = [as_dtype(np.asarray(by_result), passes.dtype) for by_result in by_results]
    gradients = passes.backward(passes.panels(weights), tape[0], by_own, *x.shape[:2])
    return tuple(
        None if of is None or gradient is None else gradient.astype(np.asarray(of).dtype, copy=False)
        for gradient, of in zip(gradients, (x, *rest), strict=True)
    )


def _of_run(argnums: Sequence[int], _: Any, given: tuple[Any, ...], named: Any) -> Any:
    tape, passes, *arrays = given

    def back(by_results: Any) -> list[Any]:
        gradients = _gradients(tape, passes, boxed_tuple(by_results), *arrays)
        return [gradients[n - 2] for n in argnums]

    return back


def _of_gradients(*_: Any) -> NoReturn:
    raise NotImplementedError(SECOND.format("autograd.numpy, written with it,"))


defvjp_argnums(_run, _of_run)
defvjp_argnums(_gradients, _of_gradients)
