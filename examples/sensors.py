"""Find faults in many sensors at once: one LSTM, a live session for each of them.

    python examples/sensors.py
    python examples/sensors.py --sensors 2000 --days 20 --seed 3

Five hundred simulated temperature sensors report once an hour: a daily cycle of their own, the weather that all of them
share, and noise. Some get stuck, drift, or jump in the second half. A small LSTM, trained on sound sensors by
training/train_sensors.py, forecasts every next reading; a sensor whose forecasts fail is reported. The readings are
simulated, and so are the faults; what is real is the way: sessions of one pool, stepped together.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

import numlstm

MODEL = Path(__file__).parent / "sensors.safetensors"
DAY, SETTLING = 24, 72  # hours; a sensor's level and range are learned from its first three days
LIMIT = 5.5  # times a sensor's usual squared error, averaged over some hours: one sound sensor in 500 reaches it
MEMORY = 0.9  # of that average, from hour to hour
FAULTS = ("stuck", "drift", "jump")
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Readings:
    """What sensors report: (hours, sensors), and what is wrong with some, from which hour on."""

    values: Array
    fault: list[str]
    since: NDArray[np.int64]


def simulated(sensors: int, hours: int, seed: int, faulty: float = 0.0) -> Readings:
    """Readings in degrees, of which a share becomes faulty in the second half."""
    rng = np.random.default_rng(seed)
    hour = np.arange(hours)[:, None]
    weather = np.cumsum(rng.normal(0, 0.3, hours))
    weather = (weather - np.convolve(np.pad(weather, 48, "edge"), np.ones(97) / 97, "valid"))[:, None]
    swing, phase = rng.uniform(2, 8, sensors), rng.uniform(0, 2 * np.pi, sensors)
    values = rng.uniform(5, 25, sensors) + swing * np.sin(2 * np.pi * hour / DAY + phase)
    values += 0.3 * swing * np.sin(4 * np.pi * hour / DAY + rng.uniform(0, 2 * np.pi, sensors))
    values += rng.uniform(0.3, 1, sensors) * weather + rng.normal(0, 0.25, (hours, sensors))
    fault, since = ["none"] * sensors, np.full(sensors, hours)
    for sensor in np.flatnonzero(rng.random(sensors) < faulty):
        fault[sensor] = FAULTS[rng.integers(len(FAULTS))]
        since[sensor] = begin = rng.integers(hours // 2, hours - DAY)
        rest = values[begin:, sensor]
        if fault[sensor] == "stuck":
            rest[:] = rest[0]
        elif fault[sensor] == "drift":
            rest += swing[sensor] / DAY * np.arange(len(rest)) * rng.choice([-1, 1])
        else:
            rest += swing[sensor] * rng.choice([-1, 1])
    return Readings(values.astype(np.float32), fault, since)


def features(values: Array, hour: int, level: Array, scale: Array) -> Array:
    """(sensors, 3): each reading by its sensor's own scale, and the time of day."""
    angle = 2 * np.pi * hour / DAY
    clock = np.broadcast_to(np.float32([np.sin(angle), np.cos(angle)]), (len(values), 2))
    return np.concatenate([((values - level) / scale)[:, None], clock], axis=1).astype(np.float32)


class Watch:
    """Every sensor's session, and how well its next reading was foreseen of late."""

    def __init__(self, first_days: Array, path: Path = MODEL) -> None:
        lstm, tensors = numlstm.load(path), numlstm.load_tensors(path)
        with safe_open(path, "np") as file:
            usual = float(file.metadata()["squared_error"])  # of the sensors that the model was trained on
        self.weight, self.bias = tensors["head.weight"], tensors["head.bias"]
        self.level, self.scale = first_days.mean(0), first_days.std(0)
        self.pool = lstm.pool(capacity=first_days.shape[1])
        self.slots = np.array([self.pool.open().slot for _ in range(first_days.shape[1])])
        self.error = np.ones(first_days.shape[1], np.float32)
        self.expected = np.zeros(first_days.shape[1], np.float32)
        self.hour = 0
        missed = np.array([self.step(values) for values in first_days])[DAY:]  # a day for the LSTM to settle
        self.usual = 0.3 * usual + 0.7 * missed.mean(0)

    def step(self, values: Array) -> Array:
        """Hand on one reading of every sensor; the squared errors of what was expected of them."""
        standard = (values - self.level) / self.scale
        missed = (standard - self.expected) ** 2
        h = self.pool.step(self.slots, features(values, self.hour, self.level, self.scale))
        self.expected = standard + (h @ self.weight.T + self.bias)[:, 0]
        self.hour += 1
        return missed

    def take(self, values: Array) -> NDArray[np.bool_]:
        """One reading of every sensor; which of them are out of order now."""
        self.error += (1 - MEMORY) * (np.minimum(self.step(values) / self.usual, 50) - self.error)
        return self.error > LIMIT


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sensors", type=int, default=500)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.sensors < 1 or given.days < 7:
        parser.error("at least one sensor, and at least 7 days: three to learn from, and time for faults to show")
    readings = simulated(given.sensors, given.days * DAY, given.seed, faulty=0.05)
    watch = Watch(readings.values[:SETTLING])
    first = np.full(given.sensors, -1)
    begun = time.perf_counter()
    for hour in range(SETTLING, len(readings.values)):
        reported = watch.take(readings.values[hour])
        first[reported & (first < 0)] = hour
    taken = time.perf_counter() - begun
    for sensor in np.flatnonzero(first >= 0)[:10]:
        kind, since = readings.fault[sensor], readings.since[sensor]
        told = "false alarm" if first[sensor] < since else f"{kind} since hour {since}"
        print(f"sensor {sensor:4}: reported in hour {first[sensor]} ({told})")
    for kind in FAULTS:
        of_kind = [n for n, fault in enumerate(readings.fault) if fault == kind]
        found = [first[n] - readings.since[n] for n in of_kind if first[n] >= readings.since[n]]
        delay = f", half of them within {np.median(found):.0f} hours" if found else ""
        print(f"{kind}: {len(found)} of {len(of_kind)} found{delay}")
    early = int(((first >= 0) & (first < readings.since)).sum())
    steps = (len(readings.values) - SETTLING) * given.sensors
    print(f"false alarms: {early} of {given.sensors} sensors in {given.days - SETTLING // DAY} days")
    print(f"{steps:,} readings, {taken / steps * 1e6:.2f} microseconds each")


if __name__ == "__main__":
    main()
