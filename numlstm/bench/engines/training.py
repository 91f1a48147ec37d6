"""Forward and backward pass in numlstm and in the frameworks that train on a CPU.

Every engine gives the gradients of the input and of all parameters, from a gradient of the output. Arrays are handed
over before the clock starts, so that each works on its own kind of tensor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from numlstm.base.typing import Array
from numlstm.bench.engines import own as this
from numlstm.bench.engines import pytorch
from numlstm.bench.engines.pytorch import torch_setting
from numlstm.bench.engines.task import LeftOutError, check_supported, package_version
from numlstm.bench.grid import Workload
from numlstm.sequences.packing import pack_padded_sequence

UNROLLED = (1, 8)  # steps of a turn of JAX's loop


@dataclass(frozen=True)
class Task:
    """What an engine is given; with lengths, input and gradient are padded, and to be packed."""

    workload: Workload
    threads: int
    parameters: Mapping[str, Array]
    input: Array
    d_output: Array
    lengths: Array | None = None


@dataclass(frozen=True)
class Passes:
    """One way to make both passes. ``gradients`` turns what ``call`` returns into arrays, by ``input`` and names."""

    call: Callable[[], Any]
    gradients: Callable[[Any], dict[str, Array]]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


def packed(task: Task) -> tuple[Any, Any]:
    """Input and gradient of the output as numlstm takes them."""
    if task.lengths is None:
        return task.input, task.d_output
    of_input, of_output = (pack_padded_sequence(array, task.lengths) for array in (task.input, task.d_output))
    return of_input, of_output


def own_model(task: Task) -> Any:
    """The LSTM of the task."""
    return this.model(task.workload, task.parameters, task.threads)


def numlstm(task: Task) -> dict[str, Passes]:
    """This package."""
    lstm, (x, d_output) = own_model(task), packed(task)

    def call() -> Any:
        _, backward = lstm.vjp(x)
        return backward(d_output)

    def gradients(found: Any) -> dict[str, Array]:
        return {"input": found.input if task.lengths is None else found.input.data, **found.parameters}

    return {"vjp": Passes(call, gradients)}


def torch(task: Task) -> dict[str, Passes]:
    """PyTorch's autograd, with oneDNN's LSTM and with its own."""
    lstm = pytorch.model(task.workload, task.parameters)
    import torch

    names, leaves = zip(*lstm.named_parameters(), strict=True)
    x, d_output = packed(task)
    sizes = None if task.lengths is None else torch.from_numpy(np.array(x.batch_sizes))
    data = torch.from_numpy(np.array(x if sizes is None else x.data)).requires_grad_()
    gradient = torch.from_numpy(np.array(d_output if sizes is None else d_output.data))

    def call() -> Any:
        given = data if sizes is None else torch.nn.utils.rnn.PackedSequence(data, sizes)
        output, _ = lstm(given)
        return torch.autograd.grad(output if sizes is None else output.data, (data, *leaves), gradient)

    def gradients(found: Any) -> dict[str, Array]:
        return {name: array.numpy() for name, array in zip(("input", *names), found, strict=True)}

    own = {"its own kernels": Passes(call, gradients, partial(torch_setting, task.threads, onednn=False))}
    backends: Any = torch.backends
    if not backends.mkldnn.is_available() or task.workload.dtype != "float32" or task.workload.proj_size:
        return own  # oneDNN's LSTM has neither float64 nor a projection
    return {"oneDNN": Passes(call, gradients, partial(torch_setting, task.threads, onednn=True)), **own}


def _jax(task: Task) -> Any:
    """The module, on as many threads as it was first imported for."""
    package_version("jax")
    if task.lengths is not None:
        raise LeftOutError("JAX has no packed sequences")
    if task.workload.dtype != "float32":
        raise LeftOutError("JAX computes in float32 unless that is changed for the whole process")
    os.environ.setdefault("NPROC", str(task.threads))  # the size of its thread pool
    if task.threads == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    import jax

    return jax


def jax(task: Task) -> dict[str, Passes]:
    """An LSTM of ``lax.scan``, compiled, with the products of the input ahead of the loop."""
    jax = _jax(task)
    workload = task.workload
    parameters = {name: jax.numpy.asarray(array) for name, array in task.parameters.items()}
    x, d_output = jax.numpy.asarray(task.input), jax.numpy.asarray(task.d_output)

    def cell(p: Any, suffix: str, seq: Any, unroll: int) -> Any:
        ahead = seq @ p[f"weight_ih{suffix}"].T + (p[f"bias_ih{suffix}"] + p[f"bias_hh{suffix}"])
        recurrent, projection = p[f"weight_hh{suffix}"].T, p.get(f"weight_hr{suffix}")

        def step(state: Any, of_input: Any) -> Any:
            h, c = state
            i, f, g, o = jax.numpy.split(of_input + h @ recurrent, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jax.numpy.tanh(g)
            h = jax.nn.sigmoid(o) * jax.numpy.tanh(c)
            if projection is not None:
                h = h @ projection.T
            return (h, c), h

        zeros = [jax.numpy.zeros((seq.shape[1], size)) for size in (workload.config.output_size, workload.hidden_size)]
        return jax.lax.scan(step, tuple(zeros), ahead, reverse=suffix.endswith("reverse"), unroll=unroll)[1]

    def forward(p: Any, given: Any, unroll: int) -> Any:
        seq = given.swapaxes(0, 1) if workload.batch_first else given
        for layer in range(workload.num_layers):
            suffixes = [suffix for of, _, suffix in workload.config.cells() if of == layer]
            seq = jax.numpy.concatenate([cell(p, suffix, seq, unroll) for suffix in suffixes], axis=-1)
        return seq.swapaxes(0, 1) if workload.batch_first else seq

    def gradients(found: Any) -> dict[str, Array]:
        of_parameters, of_input = found
        return {"input": np.asarray(of_input), **{name: np.asarray(array) for name, array in of_parameters.items()}}

    def passes(unroll: int) -> Passes:
        def both(p: Any, given: Any, gradient: Any) -> Any:
            return jax.vjp(lambda p, given: forward(p, given, unroll), p, given)[1](gradient)

        compiled = jax.jit(both)
        return Passes(lambda: jax.block_until_ready(compiled(parameters, x, d_output)), gradients)

    return {f"lax.scan, unroll={unroll}": passes(unroll) for unroll in UNROLLED}


def keras(task: Task) -> dict[str, Passes]:
    """The LSTM layer of Keras 3 on JAX, compiled."""
    package_version("keras")
    check_supported(task.workload, "keras")
    jax = _jax(task)
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if (backend := keras.backend.backend()) != "jax":
        raise LeftOutError(f"its backend is {backend}; it is measured on jax (KERAS_BACKEND=jax)")
    workload, config = task.workload, task.workload.config
    layers: list[Any] = []
    for _ in range(workload.num_layers):
        layer = keras.layers.LSTM(workload.hidden_size, return_sequences=True)
        layers.append(keras.layers.Bidirectional(layer) if workload.directions == 2 else layer)
    model = keras.Sequential([keras.Input((workload.sequence_length, workload.input_size)), *layers])
    cells = [(f"weight_ih{suffix}", f"weight_hh{suffix}", f"bias_ih{suffix}") for _, _, suffix in config.cells()]
    weights = []
    for w_ih, w_hh, bias in cells:
        added = task.parameters[bias] + task.parameters[bias.replace("_ih", "_hh")]
        weights += [task.parameters[w_ih].T, task.parameters[w_hh].T, added]
    model.set_weights(weights)
    first = (0, 1) if workload.batch_first else (1, 0)
    x, d_output = (jax.numpy.asarray(array.transpose(*first, 2)) for array in (task.input, task.d_output))
    both_kinds = model.trainable_variables, model.non_trainable_variables
    trained, rest = ([variable.value for variable in variables] for variables in both_kinds)

    def both(variables: Any, given: Any, gradient: Any) -> Any:
        return jax.vjp(lambda v, x: model.stateless_call(v, rest, x, training=True)[0], variables, given)[1](gradient)

    compiled = jax.jit(both)

    def gradients(found: Any) -> dict[str, Array]:
        of_weights, of_input = [np.asarray(array) for array in found[0]], np.asarray(found[1]).transpose(*first, 2)
        named = {"input": of_input}
        for at, (w_ih, w_hh, bias) in enumerate(cells):
            kernel, recurrent, of_bias = of_weights[3 * at : 3 * at + 3]
            named |= {w_ih: kernel.T, w_hh: recurrent.T, bias: of_bias, bias.replace("_ih", "_hh"): of_bias}
        return named

    return {
        "stateless_call, compiled": Passes(lambda: jax.block_until_ready(compiled(trained, x, d_output)), gradients)
    }


ENGINES: dict[str, Callable[[Task], dict[str, Passes]]] = {
    "numlstm": numlstm,
    "torch": torch,
    "jax": jax,
    "keras": keras,
}
BASELINES = tuple(name for name in ENGINES if name != "numlstm")
