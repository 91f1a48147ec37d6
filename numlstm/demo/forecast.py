"""A forecast of the CO2 record by a trained LSTM, and the simple forecasts that it is compared with.

At a month called the origin, the next twelve months are forecast from that month and those before it. `features` and
the simple forecasts are plain NumPy; training uses them too, so that it agrees with the model.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from safetensors import safe_open

from numlstm.base.typing import Array
from numlstm.lstm import LSTM

DATA = Path(__file__).parent / "data"
HORIZONS = 12  # months ahead
HISTORY = 23  # months before the first origin, for the mean of the year before the last
FEATURES = ("season", "month's rise", "year's rise", "mean year's rise", "sin", "cos", "sin 2", "cos 2")


@dataclass(frozen=True)
class Record:
    """Monthly means without gaps.

    Parameters
    ----------
    months : ndarray of datetime64[M], shape (months,)
        Consecutive months.
    ppm : ndarray of float64, shape (months,)
        Parts per million by volume.
    """

    months: Array
    ppm: Array

    @classmethod
    def load(cls, path: Path = DATA / "co2_monthly.csv") -> Self:
        """Read the columns ``month`` and ``co2_ppm`` of a CSV file; ValueError if a month is missing."""
        with path.open(encoding="ascii", newline="") as file:
            rows = list(csv.DictReader(file))
        months = np.array([row["month"] for row in rows], "datetime64[M]")
        if (np.diff(months) != np.timedelta64(1, "M")).any():
            raise ValueError(f"{path} skips or repeats a month; every month from the first to the last is expected")
        return cls(months, np.array([row["co2_ppm"] for row in rows], np.float64))

    def until(self, month: str) -> Self:
        """The record up to and including a month such as ``"1993-12"``."""
        keep = self.months <= np.datetime64(month, "M")
        return type(self)(self.months[keep], self.ppm[keep])

    @property
    def origins(self) -> Array:
        """Months from which a forecast can be made: all but the first `HISTORY`."""
        return self.months[HISTORY:]

    def measured(self) -> Array:
        """Measurements of the months after each origin, (origins, HORIZONS); NaN beyond the end of the record."""
        padded = np.concatenate([self.ppm[HISTORY + 1 :], np.full(HORIZONS, np.nan)])
        return sliding_window_view(padded, HORIZONS)

    def between(self, first: str, last: str) -> Array:
        """Which origins have all forecast months between ``first`` and ``last``, as booleans (origins,)."""
        inside: Array = (self.origins + 1 >= np.datetime64(first, "M")) & (
            self.origins + HORIZONS <= np.datetime64(last, "M")
        )
        return inside


def features(months: Array, ppm: Array) -> Array:
    """The LSTM's input at each origin, from that month and those before it.

    Parameters
    ----------
    months : ndarray of datetime64[M], shape (T, ...)
        Consecutive months along the first axis.
    ppm : ndarray, shape (T, ...)
        The measurements.

    Returns
    -------
    ndarray of float64, shape (T - HISTORY, ..., 8)
        In ppm: the month's difference from the mean of its year, from the month before and from the same month of the
        year before, and the rise of that mean over a year; then the season as two sines and cosines. No feature is a
        level, so that the model works beyond the levels it was trained on.

    Examples
    --------
    >>> months = np.arange("2000-01", "2002-02", dtype="datetime64[M]")
    >>> features(months, np.arange(25.0)).round(2).tolist()[0]
    [5.5, 1.0, 12.0, 12.0, -0.5, 0.87, -0.87, 0.5]
    """
    year = sliding_window_view(ppm, 12, axis=0).mean(-1)  # year[i] is the mean of months i to i + 11
    angle = (months[HISTORY:].astype(np.int64) % 12) * (2 * np.pi / 12)
    now = ppm[HISTORY:]
    return np.stack(
        [
            now - year[12:],
            now - ppm[HISTORY - 1 : -1],
            now - ppm[HISTORY - 12 : -12],
            year[12:] - year[:-12],
            np.sin(angle),
            np.cos(angle),
            np.sin(2 * angle),
            np.cos(2 * angle),
        ],
        axis=-1,
    )


def seasonal_naive(ppm: Array) -> Array:
    """Forecast each month as the same month of the year before.

    Parameters
    ----------
    ppm : ndarray, shape (T, ...)
        The measurements.

    Returns
    -------
    ndarray, shape (T - HISTORY, ..., HORIZONS)
        For each origin the twelve months up to it.

    Examples
    --------
    >>> seasonal_naive(np.arange(24.0))
    array([[12., 13., 14., 15., 16., 17., 18., 19., 20., 21., 22., 23.]])
    """
    return sliding_window_view(ppm, HORIZONS, axis=0)[HISTORY - HORIZONS + 1 :]


def with_drift(ppm: Array) -> Array:
    """`seasonal_naive` plus the origin's rise over the same month of the year before.

    Examples
    --------
    >>> with_drift(np.arange(24.0))
    array([[24., 25., 26., 27., 28., 29., 30., 31., 32., 33., 34., 35.]])
    """
    raised: Array = seasonal_naive(ppm) + (ppm[HISTORY:] - ppm[HISTORY - 12 : -12])[..., None]
    return raised


def mean_rise(record: Record) -> float:
    """Mean rise of a month over the same month of the year before, in ppm."""
    return float(np.nanmean(record.measured() - seasonal_naive(record.ppm)))


def simple_forecasts(record: Record, train_to: str) -> dict[str, Array]:
    """The forecasts that the model is compared with, by name, each (origins, HORIZONS).

    ``"seasonal-naive"``; ``"+ drift"``, of `with_drift`; and ``"+ mean rise"``, `seasonal_naive` plus the `mean_rise`
    of the record up to `train_to`, the last month that the model was trained on.
    """
    naive = seasonal_naive(record.ppm)
    return {
        "seasonal-naive": naive,
        "+ drift": with_drift(record.ppm),
        "+ mean rise": naive + mean_rise(record.until(train_to)),
    }


class Forecaster:
    """The trained model: an LSTM over `features`, and a linear head that corrects `seasonal_naive`.

    Parameters
    ----------
    tensors : dict of str to ndarray
        ``lstm.*``, the LSTM's state dict; ``head.weight`` (HORIZONS, hidden_size) and ``head.bias`` (HORIZONS,) in
        ppm; ``input.mean`` and ``input.scale`` (features,), which the features are standardised with.
    metadata : dict of str to str
        Which months it was trained on: ``train_to``, ``unseen_from``, ``unseen_to``.
    """

    def __init__(self, tensors: dict[str, Array], metadata: dict[str, str]) -> None:
        state = {name.removeprefix("lstm."): value for name, value in tensors.items() if name.startswith("lstm.")}
        layers = sum(name.startswith("weight_ih") for name in state)
        four_gates, input_size = state["weight_ih_l0"].shape
        self.lstm = LSTM(input_size, four_gates // 4, num_layers=layers)
        self.lstm.load_state_dict(state)
        self.lstm.eval()
        self.weight, self.bias = tensors["head.weight"], tensors["head.bias"]
        self.mean, self.scale = tensors["input.mean"], tensors["input.scale"]
        self.metadata = metadata

    @classmethod
    def load(cls, path: Path = DATA / "model.safetensors") -> Self:
        """Read the model from a safetensors file."""
        with safe_open(path, framework="numpy") as file:
            return cls({name: file.get_tensor(name) for name in file.keys()}, file.metadata())  # noqa: SIM118

    def tensors(self) -> dict[str, Array]:
        """What the constructor takes."""
        own = {f"lstm.{name}": array for name, array in self.lstm.state_dict().items()}
        head = {"head.weight": self.weight, "head.bias": self.bias}
        return own | head | {"input.mean": self.mean, "input.scale": self.scale}

    def input(self, record: Record) -> Array:
        """The LSTM's input: standardised features of every origin as one sequence, (origins, 1, features) float32."""
        standard = (features(record.months, record.ppm) - self.mean) / self.scale
        return standard.astype(np.float32)[:, None]

    def head(self, output: Array) -> Array:
        """Corrections in ppm, (..., HORIZONS), from the LSTM's output, (..., hidden_size)."""
        corrections: Array = output @ self.weight.T + self.bias
        return corrections

    def forecast(self, record: Record) -> Array:
        """Forecast in ppm from every origin of the record, (origins, HORIZONS).

        The LSTM reads the record once from its start, so its output at an origin depends on no later month.
        """
        output, _ = self.lstm(self.input(record))
        corrected: Array = seasonal_naive(record.ppm) + self.head(output[:, 0])
        return corrected


def mean_absolute(error: Array) -> Array:
    """Mean absolute error of each horizon, (HORIZONS,), of errors (origins, HORIZONS)."""
    mean: Array = np.abs(error).mean(axis=0)
    return mean


def root_mean_square(error: Array) -> float:
    """Root mean square of all errors."""
    return float(np.sqrt(np.square(error).mean()))
