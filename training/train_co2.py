"""Train the model of ``numlstm demo`` with numlstm alone, in a minute, and compare it with the one that ships.

    python training/train_co2.py                      # choose a recipe, train, show the errors
    python training/train_co2.py model.safetensors    # and write the model

The years are fixed here, before anything is trained:

- May 1964 to December 1984: each candidate recipe is trained on these,
- 1985 to 1993: and judged on these; the recipe of the smallest error is trained again on all months to December 1993,
- 1994 to 2001: unseen. They are read for the first and only time when the finished model's errors are shown.

The weights in numlstm/demo/data came from PyTorch, by the same steps: train_co2_torch.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from numlstm.demo.forecast import HORIZONS, Forecaster, Record, root_mean_square, simple_forecasts
from numlstm.demo.training import Recipe, train

CHOOSE_TO = "1984-12"
TRAIN_TO = "1993-12"
UNSEEN_FROM, UNSEEN_TO = "1994-01", "2001-12"
YEARS = {"train_to": TRAIN_TO, "unseen_from": UNSEEN_FROM, "unseen_to": UNSEEN_TO}

SEEDS = (0, 1, 2)  # each candidate is judged by its mean error over these; the final model has the first
SIZES, SLOPES, EPOCHS = [(16, 1), (32, 1), (32, 2)], [0.0, 0.3, 0.6], [80, 150]
CANDIDATES = [Recipe(*size, slope, epochs) for size, slope, epochs in product(SIZES, SLOPES, EPOCHS)]
Train = Callable[[Record, Recipe, int, int | None], Forecaster]


def choose(record: Record, train: Train = train) -> Recipe:
    """The candidate of the smallest error on the years between CHOOSE_TO and UNSEEN_FROM."""
    known = record.until(TRAIN_TO)
    after = str(np.datetime64(CHOOSE_TO, "M") + 1)
    judged, measured = known.between(after, TRAIN_TO), known.measured()
    print(f"RMSE in ppm, {after} to {TRAIN_TO}, {judged.sum()} origins x {HORIZONS} horizons")
    for name, simple in simple_forecasts(known, CHOOSE_TO).items():
        print(f"{root_mean_square((simple - measured)[judged]):.3f}  {name}")
    mean_error = {}
    for recipe in CANDIDATES:
        models = [train(known.until(CHOOSE_TO), recipe, seed, None) for seed in SEEDS]
        errors = [root_mean_square((model.forecast(known) - measured)[judged]) for model in models]
        mean_error[recipe] = float(np.mean(errors))
        print(f"{mean_error[recipe]:.3f}  {recipe}", flush=True)
    return min(CANDIDATES, key=mean_error.__getitem__)


def finish(record: Record, recipe: Recipe, epochs: int | None = None, train: Train = train) -> Forecaster:
    """The finished model: the recipe on every month to TRAIN_TO and on none after it."""
    model = train(record.until(TRAIN_TO), recipe, SEEDS[0], epochs)
    model.metadata = YEARS | {name: str(value) for name, value in asdict(recipe).items()}
    return model


def unseen_error(record: Record, model: Forecaster) -> float:
    """RMSE in ppm over the unseen years."""
    unseen = record.between(UNSEEN_FROM, UNSEEN_TO)
    return root_mean_square((model.forecast(record) - record.measured())[unseen])


def main(arguments: list[str]) -> None:
    """Choose, train, compare, save."""
    record = Record.load()
    model = finish(record, choose(record))
    print(f"RMSE in ppm, {UNSEEN_FROM} to {UNSEEN_TO}")
    print(f"{unseen_error(record, model):.3f}  trained here: {model.lstm}")
    print(f"{unseen_error(record, Forecaster.load()):.3f}  trained with PyTorch, as shipped")
    for path in map(Path, arguments):
        save_file(model.tensors(), path, model.metadata)
        print(f"{path} written")


if __name__ == "__main__":
    main(sys.argv[1:])
