"""Make the input files that README and docs/ use: readings.csv (one sensor, a week) and readings/ (six, as Parquet).

    pip install -e '.[dask]'
    python examples/make_readings.py

The readings are simulated by examples/sensors.py. A row is an hour and has the three features of sensors.safetensors:
the reading in units of its own spread, and the sine and cosine of the time of day. The Parquet files also have the
columns ``sensor`` and ``hour``. Two sensors each are in a file, in hours that are not in order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sensors import DAY, SETTLING, features, simulated

HERE = Path(__file__).parent
NAMES = ("reading", "sin", "cos")
SENSORS, HOURS, SEED = 6, 7 * DAY, 4


def main(folder: Path = HERE) -> None:
    """Write both."""
    values = simulated(SENSORS, HOURS, SEED).values
    level, scale = values[:SETTLING].mean(0), values[:SETTLING].std(0)
    inputs = np.stack([features(row, hour, level, scale) for hour, row in enumerate(values)])  # (hours, sensors, 3)
    np.savetxt(folder / "readings.csv", inputs[:, 0], "%.4f", ",", header=",".join(NAMES), comments="")

    rng = np.random.default_rng(SEED)
    (folder / "readings").mkdir(exist_ok=True)
    for part in range(SENSORS // 2):
        rows = rng.permutation([(sensor, hour) for sensor in (2 * part, 2 * part + 1) for hour in range(HOURS)])
        sensor, hour = rows.T
        columns = {"sensor": sensor, "hour": hour.astype(np.int32)}
        columns |= {name: inputs[hour, sensor, which].round(4) for which, name in enumerate(NAMES)}
        pq.write_table(pa.table(columns), folder / "readings" / f"part-{part}.parquet", compression="zstd")


if __name__ == "__main__":
    main()
