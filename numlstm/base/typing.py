"""Types that annotations name all over the package."""

import os
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
States = tuple[Array, Array]  # h and c
Result = tuple[Array, States]  # of a call: output, (h_n, c_n)
StatesLike = tuple[np.typing.ArrayLike, np.typing.ArrayLike]  # h_0 and c_0, as callers pass them
Path = str | os.PathLike[str]
