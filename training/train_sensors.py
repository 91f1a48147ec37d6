"""Train the model of ``examples/sensors.py`` with PyTorch 2.13.0, on the CPU, in a minute.

    pip install torch==2.13.0
    python training/train_sensors.py

Sound sensors alone, simulated with seeds that the example does not use. What is written: examples/sensors.safetensors.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

EXAMPLES = Path(__file__).parents[1] / "examples"
UNITS, SENSORS, HOURS, STEPS = 32, 256, 24 * 14, 600


def example() -> object:
    """The module whose readings these are."""
    spec = importlib.util.spec_from_file_location("sensors", EXAMPLES / "sensors.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["sensors"] = module
    spec.loader.exec_module(module)
    return module


class Model(nn.Module):
    """An LSTM, and what it expects the reading to change by until the next hour."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, UNITS)
        self.head = nn.Linear(UNITS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Changes (hours, sensors) of (hours, sensors, 3)."""
        output, _ = self.lstm(x)
        return self.head(output)[..., 0]


def batch(sensors: object, seed: int) -> Tensor:
    """(hours, sensors, 3), as the example makes its features."""
    values = sensors.simulated(SENSORS, HOURS, seed).values
    first = values[: sensors.SETTLING]
    level, scale = first.mean(0), first.std(0)
    return torch.from_numpy(np.stack([sensors.features(row, n, level, scale) for n, row in enumerate(values)]))


def errors(model: Model, x: Tensor, settling: int) -> Tensor:
    """Squared errors of the forecasts after the first days."""
    expected = x[:-1, :, 0] + model(x[:-1])
    return (expected - x[1:, :, 0])[settling:] ** 2


def main() -> None:
    """Train, measure the usual error, write."""
    torch.manual_seed(0)
    sensors = example()
    model = Model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        loss = errors(model, batch(sensors, 1000 + step % 40), sensors.DAY).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: squared error {loss.item():.4f}", flush=True)
    model.eval()
    with torch.no_grad():
        usual = errors(model, batch(sensors, 2000), sensors.SETTLING).mean().item()
    print(f"unseen sensors: {usual:.4f}")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, EXAMPLES / "sensors.safetensors", metadata={"squared_error": f"{usual:.6f}"})


if __name__ == "__main__":
    main()
