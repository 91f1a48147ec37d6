"""Make numlstm/demo/data/co2_monthly.csv from the Mauna Loa CO2 record that statsmodels ships.

The record is weekly. A month's value is the mean of the weeks whose date, a Saturday, falls in it. The extract starts
where the last month without any week ends (April 1964), so that it has no gaps and nothing had to be filled in.

    pip install statsmodels==0.15.0
    python training/extract_co2.py
"""

from pathlib import Path

from statsmodels.datasets import co2

FIRST, LAST = "1964-05", "2001-12"
CSV = Path(__file__).parents[1] / "numlstm" / "demo" / "data" / "co2_monthly.csv"


def main() -> None:
    """Write the extract."""
    weekly = co2.load_pandas().data["co2"]
    months = weekly.resample("MS").agg(["mean", "count"])[FIRST:LAST]
    if (months["count"] == 0).any():
        raise SystemExit("a month has no measurement; the extract must have no gaps")
    lines = [f"{month:%Y-%m},{row['mean']:.3f},{int(row['count'])}" for month, row in months.iterrows()]
    CSV.write_text("month,co2_ppm,weeks\n" + "\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
