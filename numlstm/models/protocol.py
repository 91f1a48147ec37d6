"""What every model can do, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numlstm.lstm import LSTM
from numlstm.nn.sequential import Sequential
from numlstm.nn.summary import Summary


class Model(Protocol):
    """A model that `numlstm.load_model` returns, in eval mode."""

    def __call__(self, *inputs: Any) -> Any:
        """The model's output for its inputs: what the framework's own model gives."""

    def stream(self, batch_size: int = 1) -> Any:
        """The model with a state of its own, step by step; ValueError names a layer that needs later steps."""

    def forward_frame(self, frame: Any, *, group: str, order: str, features: Sequence[str] | None = None) -> Any:
        """The model over the sequences of a pandas DataFrame."""

    def sequential(self) -> Sequential:
        """The model as a `Sequential` of the same weights; ValueError names a layer by which it is none."""

    @property
    def layers(self) -> Mapping[str, Any]:
        """The layers by name, in the order in which they run."""

    @property
    def lstms(self) -> Sequence[LSTM]:
        """The LSTMs among them."""

    def summary(self) -> Summary:
        """The layers in order, with output shapes and numbers of parameters."""
