"""Train the model of ``numlstm demo`` with PyTorch 2.13.0, as the weights that ship were.

    pip install torch==2.13.0
    python training/train_co2_torch.py

Years, candidates and data are those of train_co2.py. What is written: numlstm/demo/data/model.safetensors (weights, and
the years as metadata) and training/co2_torch.npz (PyTorch's forecasts from every origin of the unseen years).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from train_co2 import UNSEEN_FROM, UNSEEN_TO, choose, finish

from numlstm.demo.forecast import DATA, FEATURES, HORIZONS, Forecaster, Record, features, mean_rise, seasonal_naive
from numlstm.demo.training import WARM_UP, Recipe, sequences

Array = NDArray[Any]

WEIGHTS = DATA / "model.safetensors"
FORECASTS = Path(__file__).parent / "co2_torch.npz"


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


class TorchForecaster(Forecaster):
    """A trained model that forecasts by PyTorch."""

    def __init__(self, model: Model) -> None:
        super().__init__({name: tensor.numpy().copy() for name, tensor in model.tensors().items()}, {})
        self.model = model

    def forecast(self, record: Record) -> Array:
        """As `Forecaster.forecast`."""
        with torch.inference_mode():
            correction = self.model(record.months[:, None], record.ppm[:, None])[:, 0].numpy()
        return seasonal_naive(record.ppm) + correction


def train(known: Record, recipe: Recipe, seed: int, epochs: int | None = None) -> TorchForecaster:
    """Train on random stretches of a record, every month of which may be used."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    inputs = features(known.months, known.ppm)
    model = Model(recipe, inputs.mean(axis=0), inputs.std(axis=0), mean_rise(known))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    for _ in range(recipe.epochs if epochs is None else epochs):
        months, ppm, wanted = sequences(known, recipe.slope, rng)
        error = model(months, ppm) - torch.from_numpy(wanted.astype(np.float32))
        optimizer.zero_grad()
        error[WARM_UP:].square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return TorchForecaster(model)


def main() -> None:
    """Choose, train, save."""
    if torch.__version__.split("+")[0] != "2.13.0":
        raise SystemExit(f"torch is {torch.__version__}; the committed weights come from 2.13.0")
    torch.set_num_threads(1)
    record = Record.load()
    forecaster = finish(record, choose(record, train), train=train)
    assert isinstance(forecaster, TorchForecaster)
    WEIGHTS.write_bytes(save(forecaster.model.tensors(), {**forecaster.metadata, "torch": "2.13.0"}))
    unseen = record.between(UNSEEN_FROM, UNSEEN_TO)
    np.savez_compressed(
        FORECASTS, origins=record.origins[unseen].astype(str), forecasts=forecaster.forecast(record)[unseen]
    )
    print(f"{forecaster.lstm}: {WEIGHTS.name} and {FORECASTS.name} written")


if __name__ == "__main__":
    main()
