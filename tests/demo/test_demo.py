"""`numlstm demo`: honest years, PyTorch's forecasts, a smaller error than the seasonal-naive forecast's."""

import ast
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import scripts
from commands import invoke
from needs import need

from numlstm import demo, reference
from numlstm.base import atomic
from numlstm.bench import engines
from numlstm.demo import chart, engine, forecast, training

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "training" / "train_co2.py"
GOLDEN = ROOT / "training" / "co2_torch.npz"


@pytest.fixture(scope="module")
def record():
    return forecast.Record.load()


@pytest.fixture(scope="module")
def forecaster():
    return forecast.Forecaster.load()


@pytest.fixture(scope="module")
def script():
    """The training script as a module."""
    return scripts.script(SCRIPT)


def unseen(forecaster, record):
    return record.between(forecaster.metadata["unseen_from"], forecaster.metadata["unseen_to"])


# ------------------------------------------------------------ the data and the years


def test_record_has_no_gap_and_no_outlier(record):
    assert (str(record.months[0]), str(record.months[-1]), len(record.ppm)) == ("1964-05", "2001-12", 452)
    assert (np.diff(record.months) == np.timedelta64(1, "M")).all()
    assert np.isfinite(record.ppm).all()
    assert 0 < np.abs(np.diff(record.ppm)).max() < 3  # a slipped digit would be more


def test_a_record_with_a_gap_is_refused(tmp_path):
    lines = (forecast.DATA / "co2_monthly.csv").read_text().splitlines(keepends=True)
    path = tmp_path / "gap.csv"
    path.write_text("".join(lines[:5] + lines[6:]))
    with pytest.raises(ValueError, match="skips or repeats a month; every month"):
        forecast.Record.load(path)


def test_years_are_those_fixed_in_the_script(forecaster, record):
    fixed = {}
    for node in ast.parse(SCRIPT.read_text()).body:
        if isinstance(node, ast.Assign):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                continue
            names = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
            values = value if isinstance(node.targets[0], ast.Tuple) else [value]
            fixed |= {name.id: v for name, v in zip(names, values, strict=True)}
    assert forecaster.metadata["train_to"] == fixed["TRAIN_TO"]
    assert forecaster.metadata["unseen_from"] == fixed["UNSEEN_FROM"]
    assert forecaster.metadata["unseen_to"] == fixed["UNSEEN_TO"]
    assert fixed["CHOOSE_TO"] < fixed["TRAIN_TO"] < fixed["UNSEEN_FROM"] < fixed["UNSEEN_TO"]
    assert record.until(fixed["TRAIN_TO"]).months[-1] == np.datetime64(fixed["TRAIN_TO"], "M")
    chosen = record.origins[unseen(forecaster, record)]
    assert (str(chosen[0]), str(chosen[-1]), len(chosen)) == (fixed["TRAIN_TO"], "2000-12", 85)


def weights_after(script, record):
    """What three epochs of the script make of a record, as the finished model is made."""
    return script.finish(record, training.Recipe(8, 1, 0.6, epochs=80), epochs=3).tensors()


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_training_does_not_read_the_unseen_years(script, record, monkeypatch):
    spoilt = forecast.Record(record.months, record.ppm.copy())
    spoilt.ppm[record.months >= np.datetime64(script.UNSEEN_FROM, "M")] = 1e6
    assert same(weights_after(script, record), weights_after(script, spoilt))
    monkeypatch.setattr(script, "TRAIN_TO", "1994-06")  # the fault that this guards against
    assert not same(weights_after(script, record), weights_after(script, spoilt))


@pytest.mark.slow
def test_choice_of_recipe_does_not_read_the_unseen_years(script, record, monkeypatch, capsys):
    spoilt = forecast.Record(record.months, record.ppm.copy())
    spoilt.ppm[record.months >= np.datetime64(script.UNSEEN_FROM, "M")] = 1e6
    monkeypatch.setattr(script, "CANDIDATES", [training.Recipe(8, 1, slope, epochs=2) for slope in (0.0, 0.3)])
    monkeypatch.setattr(script, "SEEDS", (0,))

    def told(record):
        script.choose(record)
        return capsys.readouterr().out

    whole = told(record)
    assert whole.count("Recipe") == 2
    assert told(spoilt) == whole
    monkeypatch.setattr(script, "TRAIN_TO", "1994-06")
    assert told(spoilt) != told(record)


def test_numlstm_trains_it_as_well_as_pytorch(forecaster, record):
    """Over the unseen years; and the check notices a training that stops at half."""
    losses = []
    model = training.trained_again(record, forecaster.metadata, lambda epoch, loss: losses.append((epoch, loss)))

    def error(of):
        years = unseen(forecaster, record)
        return forecast.root_mean_square((of.forecast(record) - record.measured())[years])

    assert error(model) < 1.01 * error(forecaster)
    assert [epoch for epoch, _ in losses] == list(range(80)) and losses[-1][1] < 0.6 * losses[0][1]
    assert "torch" not in model.metadata and model.metadata["train_to"] == "1993-12"
    recipe = training.Recipe.from_metadata(forecaster.metadata)
    half = training.train(record.until("1993-12"), recipe, training.SEED, epochs=40)
    assert error(half) > 1.01 * error(forecaster)


def test_pytorch_s_script_makes_the_weights_that_ship(forecaster, record, monkeypatch):
    torch = need("torch")
    monkeypatch.syspath_prepend(SCRIPT.parent)
    of_torch, threads = scripts.script(SCRIPT.with_name("train_co2_torch.py")), torch.get_num_threads()
    recipe = training.Recipe.from_metadata(forecaster.metadata)
    torch.set_num_threads(1)
    try:
        made = of_torch.finish(record, recipe, train=of_torch.train)
    finally:
        torch.set_num_threads(threads)
    for name, array in forecaster.tensors().items():
        assert np.abs(made.tensors()[name] - array).max() < 1e-3, name
    assert np.abs(made.forecast(record) - forecaster.forecast(record)).max() < 1e-2
    assert made.metadata.items() <= forecaster.metadata.items()


def test_a_model_of_two_layers_is_trained_with_dropout_between():
    rng = np.random.default_rng(0)
    record = forecast.Record(np.arange("1960-01", "1975-01", dtype="datetime64[M]"), 300 + rng.random(180).cumsum())
    recipe = training.Recipe(4, 2, 0.3, epochs=3)
    one, two = (training.train(record, recipe, seed=1) for _ in range(2))
    assert same(one.tensors(), two.tensors()) and one.lstm.num_layers == 2
    assert not same(one.tensors(), training.train(record, recipe, seed=2).tensors())


def test_a_forecast_reads_no_later_month(forecaster, record):
    before = forecaster.forecast(record)
    for month in ("1990-01", "1993-12", "1999-07"):
        at = int(np.flatnonzero(record.origins == np.datetime64(month, "M"))[0])
        spoilt = forecast.Record(record.months, record.ppm.copy())
        spoilt.ppm[forecast.HISTORY + at + 1 :] = np.random.default_rng(0).uniform(0, 1e3, len(before) - at - 1)
        after = forecaster.forecast(spoilt)
        assert np.array_equal(after[: at + 1], before[: at + 1])
        for plain in (forecast.seasonal_naive, forecast.with_drift):
            assert np.array_equal(plain(spoilt.ppm)[: at + 1], plain(record.ppm)[: at + 1])
        spoilt.ppm[forecast.HISTORY + at] += 1  # the origin itself is read
        assert not np.array_equal(forecaster.forecast(spoilt)[at], before[at])


def test_measured_stands_beside_its_forecast(record):
    measured = record.measured()
    assert measured.shape == (len(record.origins), forecast.HORIZONS)
    for at, h in ((0, 1), (100, 12), (len(measured) - 2, 1)):
        month = np.flatnonzero(record.months == record.origins[at] + h)[0]
        assert measured[at, h - 1] == record.ppm[month]
    assert np.isnan(measured[-1]).all()
    naive = forecast.seasonal_naive(record.ppm)
    assert np.array_equal(naive[12:], measured[:-12])  # a year before


def test_mean_rise_reads_the_training_years_alone(forecaster, record):
    train_to = forecaster.metadata["train_to"]
    spoilt = forecast.Record(record.months, record.ppm.copy())
    spoilt.ppm[record.months > np.datetime64(train_to, "M")] = 1e6
    rise = [
        forecast.simple_forecasts(r, train_to)["+ mean rise"][0] - forecast.seasonal_naive(r.ppm)[0]
        for r in (record, spoilt)
    ]
    assert np.array_equal(*rise)
    known = record.until(train_to).ppm
    assert rise[0] == pytest.approx(np.mean([known[24:] - known[12:-12]]), abs=0.05)


# ------------------------------------------------------------ the model


def check_pytorch_agrees(forecaster, record):
    with np.load(GOLDEN) as golden:
        at = np.searchsorted(record.origins, golden["origins"].astype("datetime64[M]"))
        assert np.array_equal(at, np.flatnonzero(unseen(forecaster, record)))
        assert np.abs(forecaster.forecast(record)[at] - golden["forecasts"]).max() < 1e-5


def check_beats_seasonal_naive(forecaster, record):
    years = unseen(forecaster, record)
    measured = record.measured()[years]
    error = forecaster.forecast(record)[years] - measured
    naive = forecast.seasonal_naive(record.ppm)[years] - measured
    assert (forecast.mean_absolute(error) < forecast.mean_absolute(naive)).all()
    assert forecast.root_mean_square(error) < forecast.root_mean_square(naive)


def check_beats_every_simple_forecast(forecaster, record):
    """Over all horizons; near ones are the drift's, as the demo's table says."""
    years = unseen(forecaster, record)
    measured = record.measured()[years]
    error = forecaster.forecast(record)[years] - measured
    for simple in forecast.simple_forecasts(record, forecaster.metadata["train_to"]).values():
        other = simple[years] - measured
        assert np.abs(error).mean() < np.abs(other).mean()
        assert forecast.root_mean_square(error) < forecast.root_mean_square(other)


def test_forecasts_are_pytorchs(forecaster, record):
    check_pytorch_agrees(forecaster, record)


def test_forecasts_are_the_references(forecaster, record):
    output, _ = reference.lstm(forecaster.lstm.state_dict(), forecaster.input(record))
    exact = forecast.seasonal_naive(record.ppm) + forecaster.head(output[:, 0])
    assert np.abs(forecaster.forecast(record) - exact).max() < 1e-5


def test_beats_the_simple_forecasts(forecaster, record):
    check_beats_seasonal_naive(forecaster, record)
    check_beats_every_simple_forecast(forecaster, record)


def test_a_better_simple_forecast_is_admitted(forecaster, record):
    """The notes beside the data name a forecast that is better than the model's, and by how much."""
    ppm, years = record.ppm, unseen(forecaster, record)
    at, ahead = forecast.HISTORY + np.flatnonzero(years)[:, None], np.arange(1, forecast.HORIZONS + 1)
    season = np.mean([ppm[at + ahead - 12 * k] - ppm[at - 12 * k] for k in range(1, 6)], axis=0)
    measured = record.measured()[years]
    better = np.abs(ppm[at] + season - measured).mean()
    own = np.abs(forecaster.forecast(record)[years] - measured).mean()
    notes = " ".join((forecast.DATA / "README.md").read_text().split())
    assert f"mean absolute error of {better:.2f} ppm where the model's is {own:.2f}" in notes


def spoilt(forecaster, spoil):
    """The model with each tensor of the LSTM and the head replaced by what `spoil` makes of it."""
    tensors = {f"lstm.{name}": spoil(value) for name, value in forecaster.lstm.state_dict().items()}
    tensors |= {"head.weight": spoil(forecaster.weight), "head.bias": spoil(forecaster.bias)}
    tensors |= {"input.mean": forecaster.mean, "input.scale": forecaster.scale}
    return forecast.Forecaster(tensors, forecaster.metadata)


def test_the_checks_fail_for_a_spoilt_model(forecaster, record):
    intact = spoilt(forecaster, np.copy)
    check_pytorch_agrees(intact, record)
    check_beats_every_simple_forecast(intact, record)

    shuffled = spoilt(forecaster, np.random.default_rng(0).permuted)
    for check in (check_pytorch_agrees, check_beats_every_simple_forecast):
        with pytest.raises(AssertionError):
            check(shuffled, record)

    # The head's bias, near the mean rise in a year, beats a forecast of no rise; so this check needs a worse fault.
    with pytest.raises(AssertionError):
        check_beats_seasonal_naive(spoilt(forecaster, np.negative), record)


# ------------------------------------------------------------ what the command shows


def lines_of(plot):
    lines = []
    demo.run(plot, lines.append)
    return lines


def test_run_tells_everything_and_draws(tmp_path, forecaster, record, capsys):
    need("matplotlib")
    path = tmp_path / "plot.png"
    lines = lines_of(path)
    assert capsys.readouterr() == ("", "")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 110
    for fact in (
        "numlstm.LSTM(8, 16)",
        "Linear(16, 12)",
        "public domain",
        "statsmodels.datasets.co2",
        "1994-01 to 2001-12",
    ):
        assert fact in text
    assert lines[0] == "numlstm.LSTM(8, 16), float32, one thread; medians"
    assert lines[-1] == f"plot: {path}"

    years = unseen(forecaster, record)
    measured = record.measured()[years]
    everything = {"LSTM": forecaster.forecast(record)}
    everything |= forecast.simple_forecasts(record, forecaster.metadata["train_to"])
    errors = np.array([forecast.mean_absolute(f[years] - measured) for f in everything.values()])
    for h in range(forecast.HORIZONS):
        shown = [float(number) for number in re.search(rf"^ +{h + 1} (.*)$", text, re.M)[1].replace("*", "").split()]
        wanted = [measured[:, h].mean(), everything["LSTM"][years, h].mean(), *errors[:, h]]
        assert shown == pytest.approx(wanted, abs=0.0051)
    ratio = errors[0].mean() / errors[1].mean()
    assert f"LSTM against seasonal-naive: {ratio:.2f} of its error, smaller at 12 of 12 horizons" in lines

    last = np.flatnonzero(years)[-1]
    for h in range(forecast.HORIZONS):
        row = next(line for line in lines if line.startswith(f"2001-{h + 1:02}")).split()
        assert [float(row[1]), float(row[2])] == pytest.approx(
            [record.measured()[last, h], everything["LSTM"][last, h]], abs=0.0051
        )
    for call in ("one call over 429 steps", "one step, its state handed on", "a step of that call"):
        assert float(re.search(rf"{call}.*? ([\d.]+) us", text)[1]) > 0
    assert "OTHER" not in text
    assert lines.index("429 single steps give the same bits as the one call,") < lines.index(
        "CO2 in the air at Mauna Loa, Hawaii: twelve months ahead"
    )


@pytest.fixture
def few_calls(monkeypatch):
    monkeypatch.setattr(engine, "CALLS", 2)
    monkeypatch.setattr(engine, "STEPS", 2)


def shown(forecaster, record):
    return list(engine.shown(forecaster.lstm, forecaster.input(record)))


def test_pytorchs_times_and_results_stand_beside(forecaster, record, few_calls):
    need("torch")
    lines = shown(forecaster, record)
    assert lines[2].split()[:2] == ["numlstm", "PyTorch"]
    assert all(re.search(r"[\d.]+ us +[\d.]+ us +[\d.]+ times as long$", line) for line in lines[3:5])
    assert float(lines[6].removeprefix("Largest difference between the two outputs: ")) < 1e-6


def test_pytorch_gets_its_threads_back(forecaster, record, few_calls):
    torch = need("torch")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        shown(forecaster, record)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_difference_from_pytorch_is_told(forecaster, record, few_calls, monkeypatch):
    need("torch")
    real = engines.torch

    def other(task):
        first = next(iter(task.parameters))
        return real(replace(task, parameters=task.parameters | {first: task.parameters[first] + np.float32(0.1)}))

    monkeypatch.setattr(engines, "torch", other)
    lines = shown(forecaster, record)
    assert float(lines[6].removeprefix("Largest difference between the two outputs: ")) > 1e-3


def test_without_pytorch_it_says_how_to_have_it(forecaster, record, few_calls, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(engines.task, "version", missing)
    lines = shown(forecaster, record)
    assert "Not compared with PyTorch: torch is not installed (pip install torch)." in lines
    assert [line.split(" us")[0].split()[0] for line in lines[2:5]] == ["one", "one", "a"]


def test_other_bits_are_told(forecaster, record):
    class Spoilt:
        """An LSTM whose single steps differ from its calls, and whose batches from their rows."""

        def __call__(self, x, hx=None):
            output, state = forecaster.lstm(x, hx)
            return (np.nextafter(output, 2) if x.shape[:2] != (429, 1) else output), state

    told = " ".join(engine.same_bits(Spoilt(), forecaster.input(record)))
    assert told.count("OTHER BITS THAN") == 2 and "threads give the same bits" in told


def test_nothing_is_written_that_is_not_asked_for(tmp_path, monkeypatch, few_calls):
    monkeypatch.chdir(tmp_path)
    assert lines_of(None)[-1] == "As a picture, with matplotlib: numlstm demo --plot forecast.png"
    assert list(tmp_path.iterdir()) == []


def test_the_suffix_says_what_is_drawn(tmp_path, few_calls):
    need("matplotlib")
    path = tmp_path / "plot.SVG"
    assert lines_of(path)[-1] == f"plot: {path}"
    assert path.read_text("utf-8").rstrip().endswith("</svg>")


def test_a_plot_that_cannot_be_written_is_one_line(tmp_path, few_calls):
    need("matplotlib")
    path = tmp_path / "missing" / "plot.png"
    lines = lines_of(path)
    assert lines[-1].startswith(f"no plot: {path} cannot be written: there is no folder ")
    assert sum("plot" in line for line in lines) == 1 and not any(line.startswith("ppm ") for line in lines)


def test_a_plot_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, few_calls):
    need("matplotlib")
    path = tmp_path / "\x1b[2J.png"
    path.write_bytes(b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "replace", full)
        line = lines_of(path)[-1]
    assert line.isprintable() and "cannot be written: No space left on device; nothing was changed; --plot" in line
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, b"old")]
    line = lines_of(path)[-1]
    assert line.isprintable() and line.startswith("plot: ")
    assert path.stat().st_size > 10_000


def test_without_matplotlib_the_chart_is_text(tmp_path, monkeypatch, few_calls):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    monkeypatch.chdir(tmp_path)
    lines = lines_of("plot.png")
    assert not list(tmp_path.iterdir())
    assert lines[-1] == "matplotlib is not installed, so this is text; pip install 'matplotlib>=3.8' for a picture."
    assert lines[-2].split() == ["1999", "2000", "2001"]
    rows = [line.split("|", 1)[1] for line in lines if re.match(r"[ \d.]{6} \|", line)]
    assert len(rows) == chart.ROWS
    marks = "".join(rows)
    assert marks.count(".") + marks.count("@") == marks.count("o") + marks.count("@") == 36


def test_a_model_trained_here_is_shown_with_its_losses(few_calls):
    result = invoke("demo", "--train")
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert "trained here, by numlstm alone," in text and "trained with PyTorch" not in text
    chart_of_losses = text[text.index("root of the loss") :].splitlines()[1 : chart.ROWS + 1]
    assert "".join(chart_of_losses).count("o") == chart.COLUMNS
    assert chart_of_losses[0].endswith("|o") and "epoch 1 to 80" in text


def test_text_chart_places_what_it_is_given():
    months = np.arange("1990-01", "1995-01", dtype="datetime64[M]")
    record = forecast.Record(months, np.arange(float(len(months))))
    years = record.between("1992-01", "1994-12")
    exact = record.measured()
    lines = list(chart.text_chart(record, exact, years))
    rows = [line.split("|", 1)[1] for line in lines[1 : chart.ROWS + 1]]
    columns = {line.index("@") // 2: row for row, line in reversed(list(enumerate(rows))) if "@" in line}
    assert all("o" not in row and "." not in row for row in rows)  # a perfect forecast lies on what was measured
    assert sum(row.count("@") for row in rows) == 36
    assert [columns[c] for c in sorted(columns)] == sorted(columns.values(), reverse=True)  # it rises


def test_needs_no_torch_no_network_and_imports_no_more_than_it_uses(tmp_path):
    code = """
import socket, sys
sys.modules["torch"] = sys.modules["statsmodels"] = None
def refuse(*args, **kwargs):
    raise AssertionError("the demo asked for the network")
socket.socket.connect = socket.getaddrinfo = refuse
import numlstm
assert "numlstm.demo" not in sys.modules and "matplotlib" not in sys.modules
from numlstm.demo import run
assert "matplotlib" not in sys.modules
run()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the same bits as the one call" in done.stdout


def test_data_travel_with_the_package():
    from importlib.resources import files

    folder = files("numlstm.demo") / "data"
    names = {entry.name for entry in folder.iterdir()}
    assert names >= {"README.md", "co2_monthly.csv", "model.safetensors"}
    assert "This is public domain." in (folder / "README.md").read_text()
