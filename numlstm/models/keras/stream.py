"""A Keras model step by step: its LSTMs go on where they were, and the layers around them take each step alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import ArrayLike

from numlstm.base.validation.arrays import real_array
from numlstm.models.keras.graph import Graph, Input, refs_in
from numlstm.models.keras.signal import Layer, Signal, Signals


class KerasStream:
    """A model that continues from call to call. `KerasModel.stream` makes one.

    Attributes
    ----------
    batch_size : int
        Sequences that run side by side.
    """

    def __init__(
        self,
        graph: Graph,
        layers: Mapping[str, Layer],
        batch_size: int,
        given: Input,
        checked: Callable[[Input, Any], Signal],
    ) -> None:
        if len(graph.inputs) > 1:
            raise ValueError("a model of several inputs cannot run step by step")
        self.batch_size, self._checked = batch_size, checked
        shape = given.shape
        self._rank = 3 if shape is None else len(shape)
        self._input = Input(given.name, None if shape is None else (None, None, *shape[2:]))
        steps = {given.name}  # whose outputs have an axis of steps
        self._parts: list[Any] = []
        own: dict[str, Layer] = {}
        for call in graph.calls:
            layer = layers[call.layer]
            has_steps = any(ref.layer in steps for ref in refs_in([call.args, call.kwargs]))
            if has_steps and layer.stream is not None:
                layer = self._streamed(layer, own)
            elif has_steps and not layer.steps:
                raise ValueError(
                    f"layer {layer.name!r} ({layer.kind}) needs later steps, or all at once: the model cannot run step "
                    "by step\nCall it with whole sequences."
                )
            own[call.layer] = layer
            if has_steps and (layer.stream is None or layer.sequences):
                steps.add(call.layer)
        self._run = graph.function(own)
        outputs = refs_in(graph.output)
        kinds = {ref.layer in steps for ref in outputs}
        if len(kinds) > 1:
            raise ValueError("some of its outputs are of each step and others of the last: it cannot run step by step")
        (self._has_steps,) = kinds

    def _streamed(self, layer: Layer, own: Mapping[str, Layer]) -> Layer:
        assert layer.stream is not None
        if layer.name in {each.name for each in own.values()}:
            raise ValueError(f"layer {layer.name!r} is called twice: the model cannot run step by step")
        try:
            function = layer.stream(self.batch_size)
        except ValueError as error:
            raise ValueError(
                f"layer {layer.name!r} ({layer.kind}) cannot run step by step: {error}\nCall the model with whole "
                "sequences."
            ) from error
        self._parts += function.parts  # type: ignore[attr-defined]
        return replace(layer, function=function)

    def __call__(self, input: ArrayLike) -> Any:
        """Run the next steps.

        Parameters
        ----------
        input : array_like
            One step: the input without the axis of steps, and without the batch if that is 1. Or a chunk of several
            steps, (batch, steps, ...).

        Returns
        -------
        ndarray, or a list or dict of these
            The model's output, with the axes that the input has.
        """
        array = real_array("input", input)
        is_alone = array.ndim == self._rank - 2
        if is_alone and self.batch_size != 1:
            raise ValueError(f"a step must have batch_size={self.batch_size} rows\nIts shape is {array.shape}.")
        if is_alone:
            array = array[None]
        is_step = array.ndim == self._rank - 1
        signal = self._checked(self._input, array[:, None] if is_step else array)
        found = self._run(signal)

        def own(each: Signals) -> Signals:
            if type(each) is not Signal:
                return (
                    {key: own(value) for key, value in each.items()} if isinstance(each, dict) else list(map(own, each))
                )
            y = each.array
            if is_step and self._has_steps:
                y = y[:, 0]
            return Signal(y[0] if is_alone else y)

        return returned(own(found))

    def reset(self, rows: object = None) -> None:
        """Set the states of all LSTMs to zeros, or those of some rows of the batch."""
        for part in self._parts:
            part.reset(rows)


def returned(signals: Signals) -> Any:
    """The arrays of a structure of signals."""
    if type(signals) is Signal:
        return signals.array
    if isinstance(signals, dict):
        return {key: returned(each) for key, each in signals.items()}
    return [returned(each) for each in signals]
