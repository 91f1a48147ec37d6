"""Train the model of ``numlstm demo`` with PyTorch 2.13.0, on the CPU, in half a minute.

    pip install torch==2.13.0
    python training/train_co2.py

The years are fixed here, before anything is trained:

- May 1964 to December 1984: each candidate recipe is trained on these,
- 1985 to 1993: and judged on these; the recipe of the smallest error is trained again on all months to December 1993,
- 1994 to 2001: unseen. They are read for the first and only time when the finished model's forecasts are saved, to
  compare numlstm's with.

What is written: numlstm/demo/data/model.safetensors (weights, and these years as metadata) and training/co2_torch.npz
(PyTorch's forecasts from every origin of the unseen years).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from numlstm.demo.forecast import (
    DATA,
    FEATURES,
    HISTORY,
    HORIZONS,
    Record,
    features,
    mean_rise,
    root_mean_square,
    seasonal_naive,
    simple_forecasts,
)

Array = NDArray[Any]

CHOOSE_TO = "1984-12"
TRAIN_TO = "1993-12"
UNSEEN_FROM, UNSEEN_TO = "1994-01", "2001-12"

WEIGHTS = DATA / "model.safetensors"
FORECASTS = Path(__file__).parent / "co2_torch.npz"

SPAN = 96  # origins in a training sequence
WARM_UP = 12  # origins at its start that do not count: the LSTM has seen too little by then
BATCH = 16
SEEDS = (0, 1, 2)  # each candidate is judged by its mean error over these; the final model has the first


@dataclass(frozen=True)
class Recipe:
    """What is chosen on the years 1985 to 1993."""

    hidden_size: int
    num_layers: int
    slope: float  # ppm a year, standard deviation of the trend that is added to a training sequence
    epochs: int
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    dropout: float = 0.2


SIZES, SLOPES, EPOCHS = [(16, 1), (32, 1), (32, 2)], [0.0, 0.3, 0.6], [80, 150]
CANDIDATES = [Recipe(*size, slope, epochs) for size, slope, epochs in product(SIZES, SLOPES, EPOCHS)]


class Model(nn.Module):
    """An LSTM over standardised features, dropout, and a head that corrects the seasonal-naive forecast."""

    def __init__(self, recipe: Recipe, mean: Array, scale: Array, correction: float) -> None:
        super().__init__()
        self.mean, self.scale = mean, scale
        between = recipe.dropout if recipe.num_layers > 1 else 0.0
        self.lstm = nn.LSTM(len(FEATURES), recipe.hidden_size, recipe.num_layers, dropout=between)
        self.dropout = nn.Dropout(recipe.dropout)
        self.head = nn.Linear(recipe.hidden_size, HORIZONS)
        nn.init.constant_(self.head.bias, correction)  # to start from the mean rise, not from none

    def forward(self, months: Array, ppm: Array) -> Tensor:
        """Corrections in ppm, (origins, batch, HORIZONS), of records (months, batch)."""
        standard = (features(months, ppm) - self.mean) / self.scale
        output, _ = self.lstm(torch.from_numpy(standard.astype(np.float32)))
        return self.head(self.dropout(output))

    def tensors(self) -> dict[str, Tensor]:
        """What numlstm reads."""
        own = {name: value.contiguous() for name, value in self.state_dict().items()}
        return own | {"input.mean": torch.from_numpy(self.mean), "input.scale": torch.from_numpy(self.scale)}


def train(known: Record, recipe: Recipe, seed: int, epochs: int | None = None) -> Model:
    """Train on random stretches of a record, every month of which may be used."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    inputs = features(known.months, known.ppm)
    model = Model(recipe, inputs.mean(axis=0), inputs.std(axis=0), mean_rise(known))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    length = HISTORY + SPAN + HORIZONS
    for _ in range(recipe.epochs if epochs is None else epochs):
        starts = rng.integers(0, len(known.ppm) - length + 1, BATCH)
        at = np.arange(length)[:, None] + starts
        # A trend of its own for every stretch: there are too few years to learn that growth is not always the same.
        ppm = known.ppm[at] + rng.normal(0, recipe.slope, BATCH) * np.arange(length)[:, None] / 12
        seen = length - HORIZONS
        ahead = np.stack([ppm[HISTORY + h : seen + h] for h in range(1, HORIZONS + 1)], axis=-1)
        wanted = torch.from_numpy((ahead - seasonal_naive(ppm[:seen])).astype(np.float32))
        error = model(known.months[at[:seen]], ppm[:seen]) - wanted
        optimizer.zero_grad()
        error[WARM_UP:].square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def forecast(model: Model, record: Record) -> Array:
    """Forecast in ppm from every origin of the record, (origins, HORIZONS)."""
    with torch.inference_mode():
        correction = model(record.months[:, None], record.ppm[:, None])[:, 0].numpy()
    return seasonal_naive(record.ppm) + correction


def choose(record: Record) -> Recipe:
    """The candidate of the smallest error on the years between CHOOSE_TO and UNSEEN_FROM."""
    known = record.until(TRAIN_TO)
    after = str(np.datetime64(CHOOSE_TO, "M") + 1)
    judged, measured = known.between(after, TRAIN_TO), known.measured()
    print(f"RMSE in ppm, {after} to {TRAIN_TO}, {judged.sum()} origins x {HORIZONS} horizons")
    for name, simple in simple_forecasts(known, CHOOSE_TO).items():
        print(f"{root_mean_square((simple - measured)[judged]):.3f}  {name}")
    mean_error = {}
    for recipe in CANDIDATES:
        models = [train(known.until(CHOOSE_TO), recipe, seed) for seed in SEEDS]
        errors = [root_mean_square((forecast(model, known) - measured)[judged]) for model in models]
        mean_error[recipe] = float(np.mean(errors))
        print(f"{mean_error[recipe]:.3f}  {recipe}")
    return min(CANDIDATES, key=mean_error.__getitem__)


def finish(record: Record, recipe: Recipe, epochs: int | None = None) -> Model:
    """The model that ships: the recipe on every month to TRAIN_TO and on none after it."""
    return train(record.until(TRAIN_TO), recipe, SEEDS[0], epochs)


def main() -> None:
    """Choose, train, save."""
    if torch.__version__.split("+")[0] != "2.13.0":
        raise SystemExit(f"torch is {torch.__version__}; the committed weights come from 2.13.0")
    torch.set_num_threads(1)
    record = Record.load()
    recipe = choose(record)
    model = finish(record, recipe)
    metadata = {"train_to": TRAIN_TO, "unseen_from": UNSEEN_FROM, "unseen_to": UNSEEN_TO, "torch": "2.13.0"}
    metadata |= {name: str(value) for name, value in asdict(recipe).items()}
    WEIGHTS.write_bytes(save(model.tensors(), metadata))
    unseen = record.between(UNSEEN_FROM, UNSEEN_TO)
    np.savez_compressed(
        FORECASTS, origins=record.origins[unseen].astype(str), forecasts=forecast(model, record)[unseen]
    )
    print(f"{recipe}: {WEIGHTS.name} and {FORECASTS.name} written")


if __name__ == "__main__":
    main()
