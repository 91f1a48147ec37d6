"""The names of parameters, for type checkers only: nothing imports this at run time.

`Module` looks parameters up by name. A type checker must know the names to report misspelt ones. Listed are those of
the first four layers; use ``named_parameters()`` for deeper ones.
"""

from typing import Generic, TypeVar

import numpy as np

from numlstm.base.typing import Array
from numlstm.module import Module

T = TypeVar("T")


class Parameter(Generic[T]):
    """Reads as an array; any array-like can be assigned."""

    def __get__(self, module: Module, kind: type[Module]) -> T: ...  # type: ignore[empty-body]

    def __set__(self, module: Module, value: np.typing.ArrayLike) -> None: ...


class LSTMParameters(Module):
    """The parameters of an `LSTM`."""

    weight_ih_l0: Parameter[Array]
    weight_hh_l0: Parameter[Array]
    bias_ih_l0: Parameter[Array]
    bias_hh_l0: Parameter[Array]
    weight_hr_l0: Parameter[Array]
    weight_ch_l0: Parameter[Array]
    weight_ih_l0_reverse: Parameter[Array]
    weight_hh_l0_reverse: Parameter[Array]
    bias_ih_l0_reverse: Parameter[Array]
    bias_hh_l0_reverse: Parameter[Array]
    weight_hr_l0_reverse: Parameter[Array]
    weight_ch_l0_reverse: Parameter[Array]
    weight_ih_l1: Parameter[Array]
    weight_hh_l1: Parameter[Array]
    bias_ih_l1: Parameter[Array]
    bias_hh_l1: Parameter[Array]
    weight_hr_l1: Parameter[Array]
    weight_ch_l1: Parameter[Array]
    weight_ih_l1_reverse: Parameter[Array]
    weight_hh_l1_reverse: Parameter[Array]
    bias_ih_l1_reverse: Parameter[Array]
    bias_hh_l1_reverse: Parameter[Array]
    weight_hr_l1_reverse: Parameter[Array]
    weight_ch_l1_reverse: Parameter[Array]
    weight_ih_l2: Parameter[Array]
    weight_hh_l2: Parameter[Array]
    bias_ih_l2: Parameter[Array]
    bias_hh_l2: Parameter[Array]
    weight_hr_l2: Parameter[Array]
    weight_ch_l2: Parameter[Array]
    weight_ih_l2_reverse: Parameter[Array]
    weight_hh_l2_reverse: Parameter[Array]
    bias_ih_l2_reverse: Parameter[Array]
    bias_hh_l2_reverse: Parameter[Array]
    weight_hr_l2_reverse: Parameter[Array]
    weight_ch_l2_reverse: Parameter[Array]
    weight_ih_l3: Parameter[Array]
    weight_hh_l3: Parameter[Array]
    bias_ih_l3: Parameter[Array]
    bias_hh_l3: Parameter[Array]
    weight_hr_l3: Parameter[Array]
    weight_ch_l3: Parameter[Array]
    weight_ih_l3_reverse: Parameter[Array]
    weight_hh_l3_reverse: Parameter[Array]
    bias_ih_l3_reverse: Parameter[Array]
    bias_hh_l3_reverse: Parameter[Array]
    weight_hr_l3_reverse: Parameter[Array]
    weight_ch_l3_reverse: Parameter[Array]


class CellParameters(Module):
    """The parameters of an `LSTMCell`; its biases are None if it has none."""

    weight_ih: Parameter[Array]
    weight_hh: Parameter[Array]
    bias_ih: Parameter[Array | None]
    bias_hh: Parameter[Array | None]
    weight_ch: Parameter[Array]
