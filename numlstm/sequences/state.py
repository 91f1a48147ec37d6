"""What streams and sessions have in common: a state that can be read, set, saved and restored."""

from __future__ import annotations

from typing import Any

import numpy as np

from numlstm.base.config import Config
from numlstm.base.typing import Array, States
from numlstm.base.validation.sessions import snapshot_facts, snapshot_states, stream_states


class Stateful:
    """Base of `Stream` and `Session`, which say what the state is of and how to read and set it."""

    __slots__ = ()

    def _facts(self) -> tuple[Config, int, np.dtype[Any]]:
        """Config, rows and dtype of the state."""
        raise NotImplementedError

    def _get(self) -> States:
        """Copies of h and c."""
        raise NotImplementedError

    def _set(self, h: Array, c: Array) -> None:
        """Replace h and c by arrays of the right shapes, which may have another dtype."""
        raise NotImplementedError

    @property
    def state(self) -> States:
        """Copies of h and c, as `LSTM.forward` returns them: (num_layers, batch_size, features) each.

        Assign a pair of real arrays of these shapes, as for ``hx``, to continue from there. With one row, as in a
        session, the batch may be left out.
        """
        return self._get()

    @state.setter
    def state(self, states: object) -> None:
        config, rows, dtype = self._facts()
        self._set(*stream_states(config, rows, states, dtype))

    def snapshot(self) -> dict[str, Any]:
        """Return the state as plain values: to be pickled, saved by `numpy.savez`, or taken to another machine.

        Returns
        -------
        dict
            ``input_size``, ``hidden_size``, ``num_layers``, ``proj_size``, ``batch_size`` (1 of a session), ``dtype``
            (its name), and copies of ``h`` and ``c``. It does not hold the weights.

        Raises
        ------
        RuntimeError
            Another thread is using the stream.
        ValueError
            The session is closed.
        """
        h, c = self._get()
        return snapshot_facts(*self._facts()) | {"h": h, "c": c}

    def restore(self, snapshot: object) -> None:
        """Continue from a snapshot, with the weights of this stream or pool.

        Parameters
        ----------
        snapshot : mapping
            From a stream of the same sizes and dtype; a session counts as a stream of one row. All of it is checked
            before anything changes.

        Raises
        ------
        TypeError
            It is not a mapping, or a state in it does not hold real numbers.
        ValueError
            A part of it is missing or does not fit, or the session is closed.
        RuntimeError
            Another thread is using the stream.
        """
        self._set(*snapshot_states(*self._facts(), snapshot))
