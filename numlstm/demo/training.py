"""Train the demo's model: an LSTM, dropout and a linear head, by `vjp`, `numlstm.nn` and `numlstm.optim`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from numlstm import nn, optim
from numlstm.base.typing import Array
from numlstm.demo.forecast import (
    FEATURES,
    HISTORY,
    HORIZONS,
    Forecaster,
    Record,
    features,
    mean_rise,
    seasonal_naive,
)
from numlstm.lstm import LSTM

SPAN = 96  # origins in a training sequence
WARM_UP = 12  # origins at its start that do not count: the LSTM has seen too little by then
BATCH = 16
SEED = 0
Told = Callable[[int, float], None]  # the number of an epoch, and its loss in ppm squared


@dataclass(frozen=True)
class Recipe:
    """What is chosen before the final training."""

    hidden_size: int
    num_layers: int
    slope: float  # ppm a year, standard deviation of the trend that is added to a training sequence
    epochs: int
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    dropout: float = 0.2

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """The recipe of a model that was trained by one."""
        whole = ("hidden_size", "num_layers", "epochs")
        values: dict[str, Any] = {
            field.name: (int if field.name in whole else float)(metadata[field.name]) for field in fields(cls)
        }
        return cls(**values)


def sequences(known: Record, slope: float, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Random stretches of a record: months and measurements (months, BATCH), and the corrections that are wanted.

    Each gets a trend of its own: there are too few years to learn that growth is not always the same.
    """
    length = HISTORY + SPAN + HORIZONS
    at = np.arange(length)[:, None] + rng.integers(0, len(known.ppm) - length + 1, BATCH)
    ppm = known.ppm[at] + rng.normal(0, slope, BATCH) * np.arange(length)[:, None] / 12
    seen = length - HORIZONS
    ahead = np.stack([ppm[HISTORY + h : seen + h] for h in range(1, HORIZONS + 1)], axis=-1)
    return known.months[at[:seen]], ppm[:seen], ahead - seasonal_naive(ppm[:seen])


def train(known: Record, recipe: Recipe, seed: int, epochs: int | None = None, told: Told | None = None) -> Forecaster:
    """Train on random stretches of a record, every month of which may be used.

    Parameters
    ----------
    known : Record
        The months that may be read.
    recipe : Recipe
    seed : int
        Of the first parameters, of dropout and of the stretches.
    epochs : int, optional
        Fewer than the recipe's, to see that it works.
    told : callable, optional
        Called after each epoch.
    """
    rng, inputs = np.random.default_rng(seed), features(known.months, known.ppm)
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    between = recipe.dropout if recipe.num_layers > 1 else 0.0
    lstm = LSTM(len(FEATURES), recipe.hidden_size, recipe.num_layers, dropout=between, seed=seed)
    head = nn.Linear(recipe.hidden_size, HORIZONS, seed=seed)
    head.bias = np.full(HORIZONS, mean_rise(known))  # to start from the mean rise, not from none
    model = nn.Sequential({"lstm": lstm, "dropout": nn.Dropout(recipe.dropout, seed=seed), "head": head})
    optimiser = optim.AdamW(model, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    for epoch in range(recipe.epochs if epochs is None else epochs):
        months, ppm, wanted = sequences(known, recipe.slope, rng)
        prediction, backward = model.vjp((features(months, ppm) - mean) / scale)
        loss, gradient = nn.mse_loss(prediction[WARM_UP:], wanted[WARM_UP:])
        grads = backward(np.concatenate([np.zeros_like(prediction[:WARM_UP]), gradient]), input_grad=False).parameters
        optim.clip_grad_norm_(grads, 1.0)
        cosine = (1 + np.cos(np.pi * epoch / recipe.epochs)) / 2  # from the learning rate down to 0
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * cosine
        optimiser.step(grads)
        if told is not None:
            told(epoch, loss)
    return Forecaster({**model.state_dict(), "input.mean": mean, "input.scale": scale}, {})


def trained_again(record: Record, metadata: Mapping[str, str], told: Told | None = None) -> Forecaster:
    """The model that ships, trained here: by its recipe, on the months that it was trained on."""
    recipe = Recipe.from_metadata(metadata)
    model = train(record.until(metadata["train_to"]), recipe, SEED, told=told)
    model.metadata = {name: value for name, value in metadata.items() if name != "torch"}
    return model
