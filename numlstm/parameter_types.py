"""The parameters of an LSTM by name, for type checkers alone: nothing imports this at run time.

`Module` finds a parameter by its name when it is asked for. A type checker must be told the names, or take any name
and let a misspelt one pass. Those of the first four layers are here; of deeper ones there is ``named_parameters()``.
"""

from typing import Generic, TypeVar

import numpy as np

from numlstm.base.typing import Array
from numlstm.module import Module

T = TypeVar("T")


class Parameter(Generic[T]):
    """Read as an array; assigned whatever can be read as one."""

    def __get__(self, module: Module, kind: type[Module]) -> T: ...  # type: ignore[empty-body]

    def __set__(self, module: Module, value: np.typing.ArrayLike) -> None: ...


class LSTMParameters(Module):
    """Those of an `LSTM`."""

    weight_ih_l0: Parameter[Array]
    weight_hh_l0: Parameter[Array]
    bias_ih_l0: Parameter[Array]
    bias_hh_l0: Parameter[Array]
    weight_hr_l0: Parameter[Array]
    weight_ih_l0_reverse: Parameter[Array]
    weight_hh_l0_reverse: Parameter[Array]
    bias_ih_l0_reverse: Parameter[Array]
    bias_hh_l0_reverse: Parameter[Array]
    weight_hr_l0_reverse: Parameter[Array]
    weight_ih_l1: Parameter[Array]
    weight_hh_l1: Parameter[Array]
    bias_ih_l1: Parameter[Array]
    bias_hh_l1: Parameter[Array]
    weight_hr_l1: Parameter[Array]
    weight_ih_l1_reverse: Parameter[Array]
    weight_hh_l1_reverse: Parameter[Array]
    bias_ih_l1_reverse: Parameter[Array]
    bias_hh_l1_reverse: Parameter[Array]
    weight_hr_l1_reverse: Parameter[Array]
    weight_ih_l2: Parameter[Array]
    weight_hh_l2: Parameter[Array]
    bias_ih_l2: Parameter[Array]
    bias_hh_l2: Parameter[Array]
    weight_hr_l2: Parameter[Array]
    weight_ih_l2_reverse: Parameter[Array]
    weight_hh_l2_reverse: Parameter[Array]
    bias_ih_l2_reverse: Parameter[Array]
    bias_hh_l2_reverse: Parameter[Array]
    weight_hr_l2_reverse: Parameter[Array]
    weight_ih_l3: Parameter[Array]
    weight_hh_l3: Parameter[Array]
    bias_ih_l3: Parameter[Array]
    bias_hh_l3: Parameter[Array]
    weight_hr_l3: Parameter[Array]
    weight_ih_l3_reverse: Parameter[Array]
    weight_hh_l3_reverse: Parameter[Array]
    bias_ih_l3_reverse: Parameter[Array]
    bias_hh_l3_reverse: Parameter[Array]
    weight_hr_l3_reverse: Parameter[Array]


class CellParameters(Module):
    """Those of an `LSTMCell`; without biases, None stands in their place."""

    weight_ih: Parameter[Array]
    weight_hh: Parameter[Array]
    bias_ih: Parameter[Array | None]
    bias_hh: Parameter[Array | None]
