"""numlstm.bench.picture: what is drawn is what was measured; and the sweep and the scaling, which it draws as well."""

import errno
import hashlib
import json
import math
import os
import re
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from needs import need

from numlstm.base import atomic
from numlstm.bench import grid, measure, picture, scaling, sweep, table, worker
from numlstm.bench.grid import GRID, Workload
from numlstm.bench.results import OURS, Entry, Report, Result, Turn, pooled
from numlstm.cli import main
from numlstm.tracing.plot import SUFFIXES

BASELINES = ("torch", "onnxruntime", "openvino")
MACHINE = {
    "cpu": "A CPU", "cpu_model": "", "cores": 2, "caches": {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}, "load": 0.1,
    "system": "a system", "python": "3", "versions": {"numlstm": "0", "torch": "2"},
}  # fmt: skip
LIMITS = {
    "fma_float32_512": 100.0, "fma_float32_256": 60.0, "fma_float64_512": 50.0, "read_L1": 400.0, "read_L2": 200.0,
    "read_L3": 50.0, "read_memory": 20.0,
}  # fmt: skip
TIMES = {OURS: 10.0, "torch": 50.0, "onnxruntime": 8.0, "openvino": 20.0}


def result_of(workload, threads=1, **microseconds):
    """A result of three rounds with these times of a call, none of an engine that is left out."""
    result = Result(workload, threads, "fresh")
    for name, value in {**TIMES, **microseconds}.items():
        if value is None:
            result.entries[name] = Entry(left_out="planted")
            continue
        result.entries[name] = Entry("s", 1e-8)
        result.turns += [Turn(at, name, 1000, round(value * 1e6)) for at in range(3)]
    result.limits = [{name: value * threads for name, value in LIMITS.items()}] * 3
    return result


def report_of(results, kind="workloads"):
    return Report(MACHINE, "2026-01-01T00:00:00+00:00", 3, results, kind)


@pytest.fixture
def grid_report():
    """Every workload at one and two threads, each with times of its own."""
    results = []
    for threads in (1, 2):
        for at, workload in enumerate(GRID):
            ours = 1.5 + workload.fmas / 3e4 / threads
            others = {baseline: ours * (0.6 + 0.3 * n + 0.1 * at) for n, baseline in enumerate(BASELINES)}
            results.append(result_of(workload, threads, numlstm=ours, **others))
    return report_of(results)


def axes_of(report):
    need("matplotlib")
    return picture.draw(report).get_axes()


def drawn_bars(axes, results):
    """The ratio at which each bar ends, by workload and baseline."""
    found = {}
    for container in axes.containers:
        for bar in container:
            workload = results[round(bar.get_y() + bar.get_height() / 2)].workload.name
            found[workload, container.get_label()] = bar.get_x() + bar.get_width()
    return found


def check_bars(report, axes):
    """Every bar of every panel ends at the speed-up, which is computed anew here from the raw turns."""
    for (_, results), panel in zip(report.by_threads(), axes, strict=True):
        expected = {
            (result.workload.name, baseline): np.median(result.microseconds(baseline) / result.microseconds(OURS))
            for result in results
            for baseline in BASELINES
            if baseline in result.measured
        }
        found = drawn_bars(panel, results)
        assert found.keys() == expected.keys()
        for key, ratio in expected.items():
            assert found[key] == pytest.approx(ratio), key


def check_points(report, panels):
    """Every point of every roofline is where its workload and engine have it, and no roof is missing."""
    for (_, results), panel in zip(report.by_threads(), panels, strict=True):
        drawn = {}
        for artist in panel.get_lines():
            label = artist.get_label().removeprefix("fastest baseline: ")
            if label in TIMES:
                drawn |= {(label, x): y for x, y in zip(*artist.get_data(), strict=True)}
        wanted = {}
        for result in results:
            x = result.workload.fmas / result.workload.bytes_read
            best = min((n for n in result.measured if n != OURS), key=result.median)
            for name in (OURS, best):
                wanted[name, x] = 2 * result.workload.fmas / np.median(result.microseconds(name)) / 1e3
        assert drawn.keys() == wanted.keys()
        for key, rate in wanted.items():
            same = [
                2 * r.workload.fmas / r.median(key[0]) / 1e3
                for r in results
                if r.workload.fmas / r.workload.bytes_read == key[1]
            ]
            assert any(drawn[key] == pytest.approx(rate) for rate in same), key


class TestPicture:
    def test_bars_are_the_speed_ups(self, grid_report):
        axes = axes_of(grid_report)
        assert len(axes) == 4  # bars and roofline, one and two threads
        check_bars(grid_report, axes[::2])
        assert [text.get_text() for text in axes[0].get_yticklabels()] == [workload.name for workload in GRID]

    def test_one_wrong_bar_is_noticed(self, grid_report, monkeypatch):
        """The planted fault: one workload is drawn with the ratio of another."""
        true = Result.speed_up

        def wrong(result, baseline):
            ratios = true(result, baseline)
            return (2.0, 2.0) if (result.workload.name, baseline) == ("voice", "torch") else ratios

        monkeypatch.setattr(Result, "speed_up", wrong)
        with pytest.raises(AssertionError, match=r"voice"):
            check_bars(grid_report, axes_of(grid_report)[::2])

    def test_swapped_engines_are_noticed(self, grid_report, monkeypatch):
        """The planted fault: the times of two baselines changed places on the way into the picture."""
        true, swap = Result.microseconds, {"torch": "openvino", "openvino": "torch"}
        panels = None
        with monkeypatch.context() as planted:
            planted.setattr(Result, "microseconds", lambda self, name: true(self, swap.get(name, name)))
            panels = axes_of(grid_report)[::2]
        with pytest.raises(AssertionError, match=r"torch|openvino"):
            check_bars(grid_report, panels)

    def test_points_of_the_roofline(self, grid_report):
        axes = axes_of(grid_report)
        check_points(grid_report, axes[1::2])
        names = {text.get_text() for text in axes[1].texts}
        assert {workload.name for workload in GRID} <= names
        assert {"L1 400 GB/s", "L2 200 GB/s", "L3 50.0 GB/s", "memory 20.0 GB/s"} <= names
        assert "FMA peak, float32: 100 GF/s" in names and "FMA peak, float32: 200 GF/s" in {
            text.get_text() for text in axes[3].texts
        }

    def test_a_point_of_another_line_is_noticed(self, grid_report, monkeypatch):
        monkeypatch.setattr(picture, "intensity", lambda result: result.workload.fmas / result.workload.weight_bytes)
        with pytest.raises(AssertionError):
            check_points(grid_report, axes_of(grid_report)[1::2])

    def test_roofs_are_bandwidth_times_intensity_up_to_the_peak(self, grid_report):
        panel = axes_of(grid_report)[1]
        sloped = [line.get_data() for line in panel.get_lines() if line.get_linestyle() in picture.ROOFS.values()]
        sloped = [(x, y) for x, y in sloped if len(x) == 2 and x[0] != x[1] and y[0] != y[1]]
        assert sorted(round(float(y[0] / x[0] / 2), 6) for x, y in sloped) == [20, 50, 200, 400]
        assert all(y[1] == pytest.approx(100) and y[1] / x[1] == pytest.approx(y[0] / x[0]) for x, y in sloped)

    def test_names_hide_neither_each_other_nor_leave_the_axes(self, grid_report):
        names = {workload.name for workload in GRID}
        for panel in axes_of(grid_report)[1::2]:
            boxes = [text.get_window_extent() for text in panel.texts if text.get_text() in names]
            assert len(boxes) == len(GRID)
            frame = panel.get_window_extent()
            for at, box in enumerate(boxes):
                assert frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1
                assert not any(box.overlaps(other) for other in boxes[:at])

    def test_who_is_left_out_has_no_bar(self):
        report = report_of([result_of(GRID[0], onnxruntime=None), result_of(GRID[1], openvino=None)])
        (panel, _) = axes_of(report)
        check_bars(report, [panel])
        assert len(drawn_bars(panel, report.results)) == 4

    def test_without_baselines_there_is_a_roofline_alone(self):
        (panel,) = axes_of(report_of([result_of(workload, **dict.fromkeys(BASELINES)) for workload in GRID]))
        assert "GF/s" in panel.get_ylabel()

    def test_without_numlstm(self):
        (panel,) = axes_of(report_of([result_of(workload, numlstm=None) for workload in GRID]))
        assert "GF/s" in panel.get_ylabel()

    @pytest.mark.slow
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_the_same_report_gives_the_same_bytes(self, grid_report, tmp_path, suffix):
        need("matplotlib")
        files = [tmp_path / f"{name}{suffix}" for name in "ab"]
        for file in files:
            picture.save(grid_report, file)
        first, second = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
        assert first == second
        if suffix == ".svg":
            assert not re.search(r"<dc:date>|\d\d:\d\d:\d\d\.", files[0].read_text())
        else:
            assert files[0].read_bytes()[:4] == b"\x89PNG"

    def test_without_matplotlib_a_sentence(self, grid_report, tmp_path, monkeypatch):
        saved = tmp_path / "saved.json"
        saved.write_text(grid_report.to_json())
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        done = CliRunner().invoke(main, ["bench", "show", str(saved), "--plot", str(tmp_path / "a.svg")])
        assert done.exit_code == 1
        assert done.output == "Error: --plot needs matplotlib: pip install 'matplotlib>=3.8'\n"
        assert CliRunner().invoke(main, ["bench", "show", str(saved)]).exit_code == 0  # not needed for the table

    def test_the_picture_of_the_docs_is_there(self):
        docs = Path(__file__).parents[2] / "docs"
        for page in ("index.md", "performance.md"):
            assert "](speed.svg)" in (docs / page).read_text("utf-8")
        assert "<svg" in (docs / "speed.svg").read_text("utf-8")[:1000]


class TestCommand:
    @pytest.fixture
    def run(self, monkeypatch):
        """The command with a measurement that plants results; what it was asked is kept."""
        asked = {}

        def measured(workloads, engines, **options):
            asked.update(options, workloads=list(workloads), engines=engines)
            results = [
                result_of(workload, count, **{name: None for name in TIMES if name not in engines})
                for count in options["threads"]
                for workload in workloads
            ]
            return report_of(results, options["kind"])

        monkeypatch.setattr(measure, "run", measured)
        return lambda *args: (CliRunner().invoke(main, ["bench", *map(str, args)]), asked)

    def test_save_show_and_plot_agree(self, run, tmp_path):
        need("matplotlib")
        first, second, saved = tmp_path / "a.svg", tmp_path / "b.svg", tmp_path / "saved.json"
        done, _ = run("sweep", 5, "--save", saved, "--plot", first)
        assert done.exit_code == 0, done.output
        shown, _ = run("show", saved, "--plot", second)
        assert shown.output == done.output
        assert first.read_bytes() == second.read_bytes()

    def test_a_sweep_below_one_ends_with_zero_and_says_where(self, run):
        done, asked = run("sweep", 7, "--seed", 4)
        assert done.exit_code == 0
        assert asked["workloads"] == sweep.configurations(7, 4)
        assert asked["kind"] == "sweep" and asked["rounds"] == 5
        compared = asked["workloads"]
        assert f"Below 1.0: {len(compared)} of 7 configurations:" in done.output  # onnxruntime is planted ahead
        assert all(f"- {workload.name}: 0.800" in done.output for workload in compared)

    @pytest.mark.slow
    def test_a_real_one(self, tmp_path):
        need("matplotlib")
        args = ["sweep", "2", "--max-fmas", "1e6", "--quick", "--rounds", "1", "--baselines", "none"]
        saved, drawn = tmp_path / "saved.json", tmp_path / "drawn.svg"
        done = CliRunner().invoke(main, ["bench", *args, "--save", str(saved), "--plot", str(drawn)])
        assert done.exit_code == 0, done.output
        report = Report.from_json(saved.read_text())
        assert [result.workload for result in report.results] == sweep.configurations(2, 0, 10**6)
        assert all(len(result.microseconds(OURS)) == 1 for result in report.results)
        assert "Below 1.0" not in done.output  # nothing was compared
        assert "<svg" in drawn.read_text()[:1000]

    def test_max_fmas(self, run):
        _, asked = run("sweep", 30, "--max-fmas", "1e7")
        assert all(workload.fmas <= 10_000_000 for workload in asked["workloads"])

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            (["sweep", "0"], "0 is not in the range"),
            (["sweep", "2", "--max-fmas", "3e10"], "is not in the range"),
            (["sweep", "2", "--max-fmas", "nan"], "nan is not a finite number"),
            (["sweep", "2", "--workload", "seed"], "No such option '--workload'"),
            (["sweep", "2", "--dtype", "float32"], "No such option '--dtype'"),
            (
                ["--workload", "seed", "sweep", "2"],
                "write --workload after the command",
            ),
            (["--quick", "scaling"], "write --quick after the command: numlstm bench scaling --quick"),
            (["--workload", "seed", "--plot", "nowhere/at/all.svg"], "there is no folder nowhere"),
            (["--workload", "seed", "--plot", "picture.pdf"], "its suffix must be .svg or .png"),
            (["--workload", "seed", "--plot", "a.svg", "--save", "./a.svg"], "--save and --plot name the same file"),
            (["show", __file__, "--save", "again.json"], "No such option '--save'"),
        ],
    )
    def test_what_cannot_be_done_is_refused_before_anything_is_measured(self, run, args, sentence):
        done, asked = run(*args)
        assert done.exit_code in (1, 2)
        assert sentence in " ".join(done.output.split())
        assert not asked

    def test_what_was_saved_before_stays_where_the_new_cannot_be_written(self, run, tmp_path, monkeypatch):
        need("matplotlib")

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        files = tmp_path / "saved.json", tmp_path / "drawn.svg"
        for option, file in zip(("--save", "--plot"), files, strict=True):
            file.write_text("before")
            with monkeypatch.context() as patched:
                patched.setattr(atomic.os, "replace", full)
                done, _ = run("--workload", "seed", option, file)
            assert done.exit_code == 1
            assert f"Error: {file} cannot be written" in done.output
            assert file.read_text() == "before"
        assert set(tmp_path.iterdir()) == set(files)

    def test_two_threads_beside_one(self, run):
        done, _ = run("--workload", "seed", "--threads", 1, "--threads", 2)
        heads = [line for line in done.output.splitlines() if line.startswith("| workload")]
        assert ["over 1 thread" in head for head in heads] == [False, True]
        alone, _ = run("--workload", "seed", "--threads", 2)
        assert "over 1 thread" not in alone.output


class TestOverOneThread:
    def test_ratio_to_the_same_line_and_no_other(self):
        tiny, other = (Workload(name, 3, 4, 1, 1, 5, 2) for name in ("tiny", "other"))
        results = [result_of(tiny, 1, numlstm=30.0), result_of(tiny, 2, numlstm=20.0), result_of(other, 2)]
        rows = [row for row in table.text(report_of(results)).splitlines() if row.startswith("| ")]
        cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
        assert cells[0][-1] != "over 1 thread"
        assert cells[2][-1] == "over 1 thread"
        assert [cells[3][0], cells[3][-1]] == ["tiny", "1.50"]
        assert [cells[4][0], cells[4][-1]] == ["other", "-"]


class TestBatchFirst:
    WORKLOAD = Workload("batch first", 3, 5, 2, 2, 7, 4, batch_first=True)

    def test_data(self):
        x, h_0, c_0 = self.WORKLOAD.inputs()
        assert (x.shape, h_0.shape, c_0.shape) == ((4, 7, 3), (4, 4, 5), (4, 4, 5))

    @pytest.mark.parametrize("engine", [OURS, *BASELINES])
    @pytest.mark.parametrize("change", [{}, {"num_layers": 1, "directions": 1}])
    def test_every_engine_has_it(self, engine, change, tmp_path):
        for package in {OURS: [], "torch": ["torch"]}.get(engine, [engine, "onnx"]):
            need(package)
        workload, path = asdict(replace(self.WORKLOAD, **change)), str(tmp_path / "expected.npz")
        host = worker.Host(1)
        host.do_expect(workload, path)
        reply = host.do_prepare(engine, workload, "fresh", path, 1e-4)
        assert "left_out" not in reply, reply
        assert reply["max_error"] < 1e-6

    def test_a_file_of_an_earlier_version(self):
        data = json.loads(report_of([result_of(GRID[0])]).to_json())
        data["results"][0]["line"] = data["results"][0].pop("workload")
        del data["kind"], data["results"][0]["line"]["batch_first"]
        assert data["version"] == 1
        assert Report.from_json(json.dumps(data)) == report_of([result_of(GRID[0])])

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            (lambda data: data.pop("results"), "KeyError: 'results'"),
            (lambda data: data.update(results=5), "int"),
            (lambda data: data.pop("machine"), "'machine'"),
            (lambda data: data["machine"].pop("cpu_model"), "the machine's cpu_model is missing"),
            (lambda data: data["results"][0].update(other=1), "'other'"),
            (lambda data: data["results"][0]["workload"].update(hidden_size="x"), "str"),
            (lambda data: data["results"][0].update(turns=[]), "turns of numlstm on workload 'seed' are missing"),
            (lambda data: data["results"][0]["turns"][0].update(calls=0), "or without a call"),
            (lambda data: data["results"][0].update(limits=[]), "limits of the machine at workload 'seed' are missing"),
            (lambda data: data["results"][0]["limits"][0].pop("read_L2"), "read_L2"),
        ],
    )
    def test_a_file_of_which_a_part_is_missing(self, tmp_path, spoil, says):
        data = json.loads(report_of([result_of(GRID[0])]).to_json())
        spoil(data)
        (tmp_path / "saved.json").write_text(json.dumps(data))
        done = CliRunner().invoke(main, ["bench", "show", str(tmp_path / "saved.json")])
        assert done.exit_code == 1 and done.output.count("\n") == 1
        assert "this is not a whole file of results" in done.output and says in done.output

    def test_bytes_that_are_no_text(self, tmp_path):
        (tmp_path / "saved.json").write_bytes(b"\xff\x00")
        done = CliRunner().invoke(main, ["bench", "show", str(tmp_path / "saved.json")])
        assert done.exit_code == 1 and "it is not JSON" in done.output

    def test_sizes_are_read_as_they_are_written(self):
        text = "3,5,2,2,7,4,2,batch_first,float64"
        assert Workload.parse(text) == replace(self.WORKLOAD, name=text, proj_size=2, dtype="float64")
        for workload in sweep.configurations(40):
            assert Workload.parse(workload.name) == workload
        assert Workload.parse("1,2,1,1,1,1,float32", "float64").dtype == "float32"
        with pytest.raises(ValueError, match="six whole numbers"):
            Workload.parse("1,2,1,1,1,1,last")


def check_sweep(workloads, fmas):
    """What the sweep promises of its configurations."""
    bounds = {
        "hidden_size": (1, 1024), "batch_size": (1, 256), "sequence_length": (1, 1000), "input_size": (1, 1024),
        "num_layers": (1, 3), "directions": (1, 2),
    }  # fmt: skip
    for workload in workloads:
        assert workload.fmas <= fmas, f"{workload.name} takes {workload.fmas} multiply-adds"
        for size, (least, most) in bounds.items():
            assert least <= getattr(workload, size) <= most, f"{size} of {workload.name}"


class TestSweep:
    def test_the_same_for_the_same_seed_only(self):
        assert sweep.configurations(10, 3) == sweep.configurations(10, 3)
        assert sweep.configurations(10, 3) == sweep.configurations(20, 3)[:10]
        assert sweep.configurations(10, 3) != sweep.configurations(10, 4)

    @pytest.mark.parametrize("fmas", [10**6, sweep.FMAS, sweep.MOST_FMAS])
    def test_within_its_bounds(self, fmas):
        check_sweep(sweep.configurations(500, 0, fmas), fmas)

    @pytest.mark.parametrize("name", ["HIDDEN", "ROWS", "STEPS", "INPUTS", "LAYERS"])
    def test_leaving_a_bound_is_noticed(self, monkeypatch, name):
        least, most = getattr(sweep, name)
        monkeypatch.setattr(sweep, name, (least, 4 * most))
        with pytest.raises(AssertionError):
            check_sweep(sweep.configurations(500, 0), sweep.FMAS)

    def test_every_kind_has_its_share(self):
        workloads = sweep.configurations(400, 0)
        parts = {
            "both directions": (workload.directions == 2 for workload in workloads),
            "batch first": (workload.batch_first for workload in workloads),
            "float64": (workload.dtype == "float64" for workload in workloads),
            "projected": (workload.proj_size > 0 for workload in workloads),
            "no multiple of four": (workload.hidden_size % 4 > 0 for workload in workloads),
            "small": (workload.hidden_size < 16 for workload in workloads),
            "large": (workload.hidden_size > 256 for workload in workloads),
            "three layers": (workload.num_layers == 3 for workload in workloads),
        }
        for name, found in parts.items():
            assert 0.08 < np.mean(list(found)) < 0.92, name

    def test_sorted_and_told(self):
        workloads = [replace(workload, name=name) for workload, name in zip(GRID, "abc", strict=False)]
        results = [result_of(workload, numlstm=us) for workload, us in zip(workloads, (4.0, 16.0, 8.0), strict=True)]
        results.append(result_of(replace(GRID[3], name="alone"), **dict.fromkeys(BASELINES)))
        assert [r.workload.name for r in table.by_speed_up(results)] == ["b", "c", "a", "alone"]
        assert (
            table.below(table.by_speed_up(results))
            == "Below 1.0: 1 of 3 configurations:\n- b: 0.500 (fastest rounds 0.500)"
        )
        noisy = result_of(replace(GRID[0], name="noisy"), numlstm=16.0)
        noisy.turns.append(Turn(3, OURS, 1000, 4_000_000))
        noisy.turns += [Turn(3, baseline, 1000, 8_000_000) for baseline in BASELINES]
        assert table.below([noisy]).endswith("- noisy: 0.500 (fastest rounds 2.000)")
        assert table.below(results[:1]) == "Below 1.0: none of 1 configurations."
        (panel, _) = axes_of(report_of(results, "sweep"))
        drawn = {
            x: y
            for workload in panel.get_lines()
            if workload.get_marker() != "None"
            for x, y in zip(*workload.get_data(), strict=True)
        }
        assert drawn == pytest.approx({0: 0.5, 1: 1.0, 2: 2.0})
        assert panel.get_title() == "1 of 3 below 1"


def check_growth(results):
    for axis, power in scaling.exponents(results, OURS).items():
        assert power <= scaling.AT_MOST[axis] + 0.15, f"numlstm's time grows with {axis} ** {power:.2f}"


class TestScaling:
    @staticmethod
    def results(B=1.0, T=1.0, H=1.7):
        powers = {"B": B, "T": T, "H": H}
        return [
            result_of(workload, numlstm=5 + 0.01 * float(workload.name[2:]) ** powers[workload.name[0]])
            for workload in scaling.doubled()
        ]

    def test_one_size_changes_and_it_doubles(self):
        for axis, sizes in scaling.SIZES.items():
            workloads = [workload for workload in scaling.doubled() if workload.name[0] == axis]
            assert [getattr(workload, scaling.FIELDS[axis]) for workload in workloads] == list(sizes)
            assert all(b == 2 * a for a, b in pairwise(sizes))
            same = {replace(workload, name="", **{scaling.FIELDS[axis]: 1}) for workload in workloads}
            assert len(same) == 1

    def test_exponents_of_what_is_known(self):
        sizes = np.array([1, 2, 4, 8])
        for power in (0, 1, 2, 2.5):
            assert scaling.exponent(sizes, 7.0 * sizes**power) == pytest.approx(power, abs=1e-12)

    def test_right_growth_passes(self):
        check_growth(self.results())

    @pytest.mark.parametrize("fault", [{"B": 2.0}, {"T": 2.0}, {"H": 3.0}])
    def test_a_power_too_much_is_noticed(self, fault):
        with pytest.raises(AssertionError, match=f"grows with {next(iter(fault))}"):
            check_growth(self.results(**fault))

    def test_told_and_drawn(self):
        report = report_of(self.results(T=2.0), "scaling")
        told = re.search(r"grows with these exponents: B (\S+) .*T (\S+) \(at most 1\), H (\S+) ", table.text(report))
        assert float(told[2]) > 1.3 > float(told[1])
        panels = axes_of(report)
        assert [panel.get_xlabel() for panel in panels] == ["B", "T", "H"]
        for panel, (sizes, times) in zip(panels, scaling.times_by_axis(report.results, OURS).values(), strict=True):
            (ours,) = (workload for workload in panel.get_lines() if workload.get_label() == OURS)
            np.testing.assert_array_equal(ours.get_xdata(), sizes)
            np.testing.assert_array_equal(ours.get_ydata(), times)


def test_held_and_read_bytes():
    step, many = Workload("", 6, 4, 2, 1, 1, 3), Workload("", 6, 4, 2, 2, 5, 3)
    assert step.held_bytes == step.bytes_read == 4 * (16 * 10 + 16 * 8)
    assert many.held_bytes == 4 * 16 * 4
    assert many.bytes_read == 4 * 16 * 4 * 5 * 2 * 2
    assert grid.find("lm").bytes_read == 2 * 64 * 4 * 1024 * 1024 * 4


def test_pooled_limits_are_those_of_all_lines():
    results = [result_of(GRID[0], 1), result_of(GRID[1], 2)]
    assert pooled(results).peak_of("float32") == 150.0  # the median of 100 and 200, three times each
    assert math.isclose(pooled(results).limit("read_L1"), 600.0)

    @pytest.mark.parametrize(
        "old, new",
        [
            (["--sweep", "3", "--seed", "1"], ["sweep", "3", "--seed", "1"]),
            (["--seed", "1", "--sweep", "3"], ["sweep", "3", "--seed", "1"]),
            (["--quick", "--scaling"], ["scaling", "--quick"]),
        ],
    )
    def test_subcommands_as_options(self, run, old, new):
        """As they were written before there were subcommands."""
        done, asked = run(*old)
        assert done.exit_code == 0
        assert f"Warning: --{new[0]} is a command now: numlstm bench {new[0]}\n" in done.output
        before = dict(asked)
        assert run(*new)[0].output in done.output and asked == before
