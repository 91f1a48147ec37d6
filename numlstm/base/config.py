"""The sizes and flags of an LSTM, and the names and shapes of its parameters.

Code that packs, loads, checks or prints parameters takes them from here.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from numlstm.base.cell_options import PLAIN, CellOptions
from numlstm.base.typing import Shape

QUANTIZED = ("bfloat16", "int8")  # kinds of weights that have fewer bits than the numbers of the LSTM
DIRECTIONS = ("forward", "reverse", "go_backwards")


class Config(NamedTuple):
    """Sizes and flags, as the constructor of ``torch.nn.LSTM`` takes them.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
        Features of a step, hidden units, stacked layers.
    bias, batch_first, bidirectional : bool
        As in ``torch.nn.LSTM``.
    dropout : float
        Probability of zeroing an output between layers, in training mode.
    proj_size : int
        Size of the projected hidden state; 0 for none.
    direction : {"forward", "reverse", "go_backwards"}
        The order of the steps in an LSTM that is not bidirectional. "reverse", as in ONNX: from the last to the first,
        each output at the step that it belongs to. "go_backwards", as in Keras: the same, and the output in the order
        in which it is computed.
    cell_options : CellOptions
        Activations and other variants of the cell.
    weights : str
        "bfloat16" or "int8" for matrices that are kept in 16 or 8 bits; empty for those in the LSTM's dtype.
    """

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    direction: str = "forward"
    cell_options: CellOptions = PLAIN
    weights: str = ""

    def number(self, dtype: np.dtype[Any]) -> str:
        """The number type of the kernel for states of this dtype."""
        return self.weights or dtype.name

    def kernel(self, dtype: np.dtype[Any]) -> str:
        """The name of the kernel for states of this dtype."""
        return self.cell_options.kernel(self.number(dtype))

    @property
    def needs_whole_sequences(self) -> bool:
        """Whether a call begins with the last step, at least in one direction."""
        return self.bidirectional or self.direction != "forward"

    @property
    def num_directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Output features of one direction: ``proj_size``, or ``hidden_size`` if that is 0."""
        return self.proj_size or self.hidden_size

    def state_shapes(self, *rows: int) -> tuple[Shape, Shape]:
        """Shapes of h and c: (num_layers * num_directions, rows, features), without rows for an unbatched call."""
        cells = self.num_layers * self.num_directions
        return (cells, *rows, self.output_size), (cells, *rows, self.hidden_size)

    def layer_input_size(self, layer: int) -> int:
        """Input features of a layer: the LSTM's, or both directions of the layer below."""
        return self.input_size if layer == 0 else self.num_directions * self.output_size

    def cells(self) -> Iterator[tuple[int, int, str]]:
        """Every (layer, direction, suffix of its parameters' names), in the order of ``state_dict``."""
        for layer in range(self.num_layers):
            for direction in range(self.num_directions):
                yield layer, direction, f"_l{layer}" + ("_reverse" if direction else "")

    @staticmethod
    def place(name: str) -> tuple[int, int, str]:
        """Layer, direction and name without suffix of a parameter.

        Examples
        --------
        >>> Config.place("weight_hh_l12_reverse")
        (12, 1, 'weight_hh')
        """
        own, _, suffix = name.partition("_l")
        layer, _, reverse = suffix.partition("_")
        return int(layer), int(reverse == "reverse"), own

    def cell_shapes(self, layer: int) -> dict[str, Shape]:
        """Shapes of one cell's parameters by name without suffix; gate blocks are in the order i, f, g, o."""
        gates = 4 * self.hidden_size
        shapes: dict[str, Shape] = {
            "weight_ih": (gates, self.layer_input_size(layer)),
            "weight_hh": (gates, self.output_size),
        }
        if self.bias:
            shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        if self.cell_options.peepholes:
            shapes["weight_ch"] = (3 * self.hidden_size,)
        return shapes

    def parameter_shapes(self) -> dict[str, Shape]:
        """Shapes of all parameters by full name, in the order of ``state_dict``.

        Examples
        --------
        >>> Config(6, 4).parameter_shapes()
        {'weight_ih_l0': (16, 6), 'weight_hh_l0': (16, 4), 'bias_ih_l0': (16,), 'bias_hh_l0': (16,)}
        """
        return {
            name + suffix: shape for layer, _, suffix in self.cells() for name, shape in self.cell_shapes(layer).items()
        }
