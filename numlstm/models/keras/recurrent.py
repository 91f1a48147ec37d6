"""Keras' recurrent layers of LSTM cells, with masks, initial states and all that they return.

A masked step leaves the state as it is. So a row is run over its unmasked steps alone, moved to the front, and the
results are put back to the steps that they belong to. At a masked step Keras repeats the output before it, or zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numlstm import files
from numlstm.base.typing import Array
from numlstm.formats.keras.layers import Layer as Described
from numlstm.formats.keras.reader import found_of, parts_of
from numlstm.lstm import LSTM
from numlstm.models.keras.signal import Context, Function, Json, Signal, Signals
from numlstm.models.keras.weights import Slot, of_cell
from numlstm.nn.functions import last_state

MERGES: dict[str, Callable[[Array, Array], Array]] = {
    "concat": lambda a, b: np.concatenate([a, b], axis=-1),
    "sum": lambda a, b: a + b,
    "ave": lambda a, b: (a + b) / 2,
    "mul": lambda a, b: a * b,
}
Pairs = list[tuple[Array, Array]]  # h and c of each cell, (batch, units)


def lstms_of(layer: Described, slots: dict[int, list[Slot]]) -> list[LSTM]:
    """The LSTMs of a layer: one, or one a cell where its cells do not fit into one. Forward ones come first.

    Raises
    ------
    ValueError
        The layer does something that no LSTM here does.
    """
    parts = parts_of(layer, {cell: of_cell(own) for cell, own in slots.items()}, "", "")
    lstms = []
    for part in parts:
        found = found_of([part])
        if found.problem:
            raise ValueError(found.problem)
        module, _ = files.built(found)
        lstms.append(files.as_lstm(module))
    return lstms


class Direction:
    """The cells of one direction from input to output, or one LSTM that has both directions."""

    def __init__(self, lstms: list[LSTM]) -> None:
        self.lstms = lstms

    def __call__(self, x: Array, states: Pairs | None, lengths: Array | None) -> tuple[Array, Pairs]:
        """Outputs of all steps, and the last states."""
        last: Pairs = []
        for lstm in self.lstms:
            hx = None
            if states is not None:
                own = states[len(last) : len(last) + lstm.num_layers * lstm._config.num_directions]
                hx = np.stack([h for h, _ in own]), np.stack([c for _, c in own])
            x, (h_n, c_n) = lstm(x, hx) if lengths is None else lstm(x, hx, lengths=lengths)
            last += zip(h_n, c_n, strict=True)
        return x, last


class Recurrent:
    """A recurrent layer of one direction or two.

    Attributes
    ----------
    lstms : list of LSTM
    forward, backward : Direction
        ``backward`` is None if there is one direction.
    both : LSTM or None
        The LSTM that has both directions, if one has.
    """

    def __init__(self, lstms: list[LSTM], config: Json, inner: Json, cells: tuple[int, int], context: Context) -> None:
        self.lstms, self.cells = lstms, cells
        self.both = lstms[0] if cells[1] and len(lstms) == 1 else None
        self.forward = Direction(lstms if self.both is not None or not cells[1] else lstms[: cells[0]])
        self.backward = Direction(lstms[cells[0] :]) if cells[1] and self.both is None else None
        self.merge = config.get("merge_mode", "concat") if cells[1] else None
        self.sequences = inner.get("return_sequences") is True
        self.returns_states = (config if "return_state" in config else inner).get("return_state") is True
        self.zeros = self.sequences if cells[1] else inner.get("zero_output_for_mask") is True
        self.goes_back = inner.get("go_backwards") is True and not cells[1]
        if self.goes_back:  # the first one turns the steps around, for all
            for lstm in lstms[1:]:
                lstm.direction = "forward"
        self.time_major = inner.get("time_major") is True
        self.kept: Pairs | None = None
        self.stateful = inner.get("stateful") is True
        # Keras 3 gives an array's own mask to a call that takes no other arrays alone
        self.is_unmasked_with_states = context.version >= (3, 0)

    def __call__(self, x: Any, initial_state: Any = None, mask: Signal | None = None, **_: Any) -> Signals:
        """Run over the steps of a batch."""
        if type(x) is not Signal:  # Keras 2 gives initial states as further inputs
            x, *more = x
            initial_state = initial_state if initial_state is not None else more or None
        states = self._states(initial_state)
        kept = x.mask if mask is None else mask.array.astype(bool)
        handed_on = kept
        if self.is_unmasked_with_states and initial_state is not None and mask is None:
            kept = None
        if kept is not None and (kept.ndim != 2 or self.time_major):
            raise ValueError(f"its mask must be (batch, steps) of a batch-first input; the shape is {kept.shape}")
        if kept is not None and kept.all():
            outputs, last = self._run(x.array, states, None)
        elif kept is not None:
            outputs, last = self._masked(x.array, states, kept)
        else:
            outputs, last = self._run(x.array, states, None)
        if self.stateful:
            self.kept = last
        return self._returned(outputs, last, kept, handed_on)

    def reset(self) -> None:
        """Forget the state that a stateful layer keeps."""
        self.kept = None

    def parts(self) -> dict[str, Any]:
        """The LSTMs as layers of `numlstm.nn`; ValueError if the layer does more than they."""
        if self.returns_states or self.time_major or self.stateful:
            raise ValueError("returns its states, keeps them, or has its time axis first")
        if self.cells[1] and (self.both is None or self.merge != "concat"):
            raise ValueError("merges its directions otherwise than side by side")
        found: dict[str, Any] = {}
        for number, lstm in enumerate(self.lstms):
            found[f"_{number}" if number else ""] = lstm
        return found if self.sequences else found | {": last state": last_state}

    def stream(self, batch_size: int) -> Function:
        """The function of the layer for the steps of a stream, with a state of its own; ValueError if it has none."""
        if self.cells[1] or self.goes_back:
            raise ValueError("it begins with the last step")
        if self.returns_states or self.time_major:
            raise ValueError("it returns its states" if self.returns_states else "its time axis comes first")
        parts = [lstm.stream(batch_size) for lstm in self.lstms]

        def run(x: Any, initial_state: Any = None, **_: Any) -> Signal:
            if initial_state is not None or type(x) is not Signal:
                raise ValueError("its initial states come from another layer")
            if x.mask is not None and not x.mask.all():
                raise ValueError("a step of the stream is masked; leave it out instead")
            y = x.array
            for part in parts:
                y = part(y)
            return Signal(y if self.sequences else y[:, -1])

        run.parts = parts  # type: ignore[attr-defined]
        return run

    def _states(self, given: Any) -> Pairs | None:
        """Initial states in pairs, from Keras' flat list: h and c of each cell, forward cells first."""
        if given is None:
            return self.kept if self.stateful else None
        flat: list[Array] = []
        waiting = [given]
        while waiting:
            each = waiting.pop(0)
            if type(each) is Signal:
                flat.append(each.array)
            else:
                waiting[:0] = each
        count = sum(self.cells)
        if len(flat) != 2 * count:
            raise ValueError(f"it takes {2 * count} initial states; {len(flat)} are given")
        return list(zip(flat[::2], flat[1::2], strict=True))

    def _run(self, x: Array, states: Pairs | None, lengths: Array | None) -> tuple[list[Array], Pairs]:
        """The outputs of each direction at all steps, or side by side in one array; and the last states."""
        if self.both is not None:
            output, last = self.forward(x, states, lengths)
            return [output], last
        count = self.cells[0]
        output, last = self.forward(x, None if states is None else states[:count], lengths)
        if self.backward is None:
            return [output], last
        other, more = self.backward(x, None if states is None else states[count:], lengths)
        return [output, other], last + more

    def _masked(self, x: Array, states: Pairs | None, mask: Array) -> tuple[list[Array], Pairs]:
        """As `_run`, over the unmasked steps alone."""
        if not (mask[:, :-1] >= mask[:, 1:]).all():  # not just padding at the end
            order = np.argsort(~mask, axis=1, kind="stable")
            x = np.take_along_axis(x, order[..., None], axis=1)
        outputs, last = self._run(x, states, mask.sum(axis=1))
        if self.sequences:
            outputs = [self._placed(output, mask[:, ::-1] if self.goes_back else mask) for output in outputs]
        return outputs, last

    def _placed(self, output: Array, mask: Array) -> Array:
        """The outputs of unmasked steps at their steps, and what Keras has at the others."""
        index = mask.cumsum(axis=1) - 1
        placed = np.take_along_axis(output, np.maximum(index, 0)[..., None], axis=1)
        empty = ~mask if self.zeros else index < 0
        placed[empty] = 0
        return placed

    def _returned(self, outputs: list[Array], last: Pairs, mask: Array | None, handed_on: Array | None) -> Signals:
        count = self.cells[0]
        if self.sequences:
            if self.both is not None and self.merge != "concat":
                outputs = np.split(outputs[0], 2, axis=-1)
        else:
            outputs = [last[count - 1][0], *([last[-1][0]] if self.cells[1] else [])]
            if mask is not None:
                outputs = [self._last(h, mask, direction) for direction, h in enumerate(outputs)]
        kept = handed_on if self.sequences else None
        merge = MERGES.get(self.merge) if self.merge is not None else None
        if len(outputs) == 2 and merge is not None:
            outputs = [merge(*outputs)]
        returned = [Signal(output, kept) for output in outputs]
        if self.returns_states:
            returned += [Signal(state) for pair in last for state in pair]
        return returned if len(returned) > 1 else returned[0]

    def _last(self, h: Array, mask: Array, direction: int) -> Array:
        """The output of the last step that is computed: 0 for a row without steps, whatever its state is."""
        ends_first = direction == 1 or self.goes_back
        counts = np.asarray(mask[:, 0 if ends_first else -1] if self.zeros else mask.any(axis=1))
        return h if counts.all() else np.where(counts[:, None], h, h.dtype.type(0))
