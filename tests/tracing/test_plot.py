"""plot_trace and numlstm trace: what is drawn is what was computed, unit by unit and step by step."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from judge import same_bits
from needs import need

import numlstm
from numlstm.cli import main
from numlstm.commands import trace as trace_command
from numlstm.tracing import figure, plot

COMMAND = [sys.executable, "-m", "numlstm"]
GATES = ("f", "i", "o")


def trace_of(inputs=6, hidden=9, steps=30, rows=3, scale=3.0, **flags):
    """A trace with gates of every size, since the weights are large."""
    lstm = numlstm.LSTM(inputs, hidden, seed=1, **flags).eval()
    lstm.load_state_dict({name: scale * array for name, array in lstm.state_dict().items()})
    return lstm.trace(np.random.default_rng(0).standard_normal((steps, rows, inputs)))


def axes_of(trace, *args, **options):
    need("matplotlib")
    return {axes.get_label(): axes for axes in plot.plot_trace(trace, *args, **options).get_axes()}


def unit_order(trace, name, row):
    """Units from the longest half-life to the shortest, by their logarithms' sum in plain Python."""
    f = trace.steps_first(trace[name].f)[:, row].astype(float)
    decay = [sum(-float(np.log(value)) for value in f[:, unit]) for unit in range(f.shape[1])]
    return sorted(range(f.shape[1]), key=lambda unit: decay[unit])


def check_maps(trace, axes, row, names, by_number=False):
    """Each map is the trace's own array, transposed, in the order of the units; and its labels name them."""
    for name in names:
        order = list(range(trace.hidden_size)) if by_number else unit_order(trace, name, row)
        for of in "fiogch":
            lines = order if of != "h" or trace.output_size == trace.hidden_size else list(range(trace.output_size))
            (image,) = axes[f"{name}.{of}"].get_images()
            want = trace.steps_first(getattr(trace[name], of))[:, row].T[lines]
            np.testing.assert_array_equal(np.asarray(image.get_array()), want, err_msg=f"{name}.{of}")
            assert image.get_extent() == [-0.5, trace.steps - 0.5, len(lines) - 0.5, -0.5]
            labels = [label.get_text() for label in axes[f"{name}.{of}"].get_yticklabels()]
            ticks = axes[f"{name}.{of}"].get_yticks()
            assert labels == [str(lines[int(tick)]) for tick in ticks] and len(labels) >= 2
            assert (image.norm.vmin, image.norm.vmax) == (0, 1) if of in GATES else image.norm.vmin == -image.norm.vmax


def bars_of(axes):
    """Where each bar of each set ends."""
    return [patch.get_data().values for patch in axes.patches if hasattr(patch, "get_data")]


def check_sides(trace, axes, row, name):
    """Shares, half-lives and mean |h| beside the maps, computed anew here."""
    order = unit_order(trace, name, row)
    for of in "fiog":
        values = trace.steps_first(getattr(trace[name], of))[:, row][:, order]
        closed, opened = bars_of(axes[f"{name}.{of}.side"])
        np.testing.assert_allclose(closed, (values < (-0.95 if of == "g" else 0.05)).mean(axis=0), err_msg=of)
        np.testing.assert_allclose(1 - opened, (values > 0.95).mean(axis=0), err_msg=of)
    lives = axes[f"{name}.c.side"].get_lines()[0].get_data()
    f = trace.steps_first(trace[name].f)[:, row][:, order].astype(np.float64)
    np.testing.assert_allclose(lives[0], np.log(2) / -np.log(f).mean(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(lives[1], np.arange(len(order)))
    (mean,) = bars_of(axes[f"{name}.h.side"])
    h = np.abs(trace.steps_first(trace[name].h)[:, row]).astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(mean, h if trace.output_size != trace.hidden_size else h[order], rtol=1e-9)


class TestMaps:
    @pytest.mark.parametrize("row", [0, 2, -1])
    @pytest.mark.parametrize(
        "flags", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 4}, {"bidirectional": True}]
    )
    def test_are_the_trace(self, flags, row):
        trace = trace_of(**flags)
        axes = axes_of(trace, row=row)
        check_maps(trace, axes, row, list(trace))
        for name in trace:
            check_sides(trace, axes, row, name)
        np.testing.assert_array_equal(axes["l0.input"].get_images()[0].get_array(), trace.input[:, row].T)

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_of_other_layouts(self, batch_first):
        lstm = numlstm.LSTM(6, 5, seed=1, batch_first=batch_first)
        x = np.random.default_rng(0).standard_normal((7, 3, 6))
        for trace, row in ((lstm.trace(x), 1), (lstm.trace(x[1]), 0)):
            check_maps(trace, axes_of(trace, row=row), row, ["l0"])

    def test_by_number(self):
        trace = trace_of()
        check_maps(trace, axes_of(trace, order="index"), 0, ["l0"], by_number=True)

    def test_some_cells(self):
        trace = trace_of(num_layers=2, bidirectional=True)
        axes = axes_of(trace, ["l1_reverse", "l0"])
        assert {label.partition(".")[0] for label in axes} == {"l1_reverse", "l0", "colours"}
        check_maps(trace, axes, 0, ["l1_reverse", "l0"])
        assert axes["l1_reverse.input"].texts[0].get_text() == "reads h of l0 and l0_reverse"
        assert axes["colours.input"].axison and not axes_of(trace, "l1")["colours.input"].axison

    def test_few_features_are_lines(self):
        trace = trace_of(inputs=3)
        axes = axes_of(trace, row=1)["l0.input"]
        assert not axes.get_images()
        for feature, line in enumerate(axes.get_lines()):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(30))
            np.testing.assert_array_equal(line.get_ydata(), trace.input[:, 1, feature])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0", "1", "2"]

    @pytest.mark.parametrize("fault", ["gates", "row", "order", "axes"])
    def test_a_wrong_map_is_noticed(self, fault, monkeypatch):
        trace = trace_of()
        true, taken = figure.Panels.values, []

        def wrong(panels, of, name):
            taken.append(of)
            if fault == "gates":
                of = {"i": "f", "f": "i"}.get(of, of)
            if fault == "row":
                panels = dataclasses.replace(panels, row=1)
            values = true(panels, of, name)
            return values[:, ::-1] if fault == "order" else values[::-1] if fault == "axes" else values

        monkeypatch.setattr(figure.Panels, "values", wrong)
        axes = axes_of(trace)
        assert set(taken) == {"input", *"fiogch"}
        with pytest.raises(AssertionError, match="l0"):
            check_maps(trace, axes, 0, ["l0"])

    def test_wrong_shares_are_noticed(self, monkeypatch):
        trace = trace_of()
        true = numlstm.Trace.saturation
        monkeypatch.setattr(numlstm.Trace, "saturation", lambda self, name, gate: true(self, name, gate)[::-1])
        with pytest.raises(AssertionError):
            check_sides(trace, axes_of(trace), 0, "l0")


class TestLongAndLarge:
    def test_steps_share_columns(self):
        trace = trace_of(hidden=4, steps=2000, rows=2)
        axes = axes_of(trace, row=1)
        wide = -(-2000 // int(figure.PER_INCH * 7.6))
        assert wide == 4
        order = unit_order(trace, "l0", 1)
        for of in "fiogch":
            (image,) = axes[f"l0.{of}"].get_images()
            shown = np.asarray(image.get_array())
            values = getattr(trace["l0"], of)[:, 1].T[order]
            assert shown.shape == (4, 500)
            for column in (0, 1, 250, 499):
                part = values[:, wide * column : wide * (column + 1)].astype(np.float64)
                want = part.mean(axis=1) if of in GATES else part[range(4), np.abs(part).argmax(axis=1)]
                np.testing.assert_allclose(shown[:, column], want, rtol=1e-12)
            assert image.get_extent()[:2] == [-0.5, 1999.5]
            assert axes[f"l0.{of}"].get_xlim() == (-0.5, 1999.5)
        assert axes["l0.h"].get_xlabel() == "step (4 a column)"
        check_sides(trace, axes, 1, "l0")  # of all steps, not of columns

    def test_a_column_that_is_not_full_ends_beyond_the_axes(self):
        trace = trace_of(hidden=2, steps=1099, rows=1)
        axes = axes_of(trace)["l0.f"]
        (image,) = axes.get_images()
        assert image.get_extent()[:2] == [-0.5, 3 * 367 - 0.5] and axes.get_xlim() == (-0.5, 1098.5)
        np.testing.assert_allclose(image.get_array()[:, -1], trace["l0"].f[1098, 0][unit_order(trace, "l0", 0)])

    def test_units_share_lines(self):
        trace = trace_of(hidden=400, steps=5, rows=1)
        axes = axes_of(trace)
        order = unit_order(trace, "l0", 0)
        for of in "fc":
            shown = np.asarray(axes[f"l0.{of}"].get_images()[0].get_array())
            values = getattr(trace["l0"], of)[:, 0].T[order].astype(np.float64)
            assert shown.shape == (134, 5)
            for line in (0, 70, 133):
                part = values[3 * line : 3 * line + 3]
                want = part.mean(axis=0) if of == "f" else part[np.abs(part).argmax(axis=0), range(5)]
                np.testing.assert_allclose(shown[line], want, rtol=1e-12)
            assert axes[f"l0.{of}"].get_ylabel() == "unit (3 a line)"
            assert axes[f"l0.{of}"].get_ylim() == (399.5, -0.5)
        assert len(axes["l0.c.side"].get_lines()[0].get_xdata()) == 400
        closed, _ = bars_of(axes["l0.f.side"])
        np.testing.assert_allclose(closed[0], (trace["l0"].f[:, 0][:, order[:3]] < 0.05).mean())
        (text,) = (text for text in plot.plot_trace(trace).texts if "mean of a gate" in text.get_text())
        assert "of g, c, h and input the value farthest from 0" in text.get_text()

    def test_binned(self):
        values = np.array([[1.0, -2], [3, np.nan], [-4, 5]])
        np.testing.assert_array_equal(figure.binned(values, 2, signed=True), [[3, np.nan], [-4, 5]])
        np.testing.assert_array_equal(figure.binned(values, 2, signed=False), [[2, np.nan], [-4, 5]])
        np.testing.assert_array_equal(figure.binned(values, 1, signed=False), values)


class TestSpecialNumbers:
    def test_nan_is_hatched(self):
        lstm = numlstm.LSTM(6, 3, seed=0)
        x = np.ones((9, 2, 6))
        x[4, 1, 0] = np.nan
        trace = lstm.trace(x)
        axes = axes_of(trace, row=1)
        for of in ("input", *"fiogch"):
            (image,) = axes[f"l0.{of}"].get_images()
            missing = np.ma.getmaskarray(image.get_array())
            assert axes[f"l0.{of}"].patch.get_hatch() == "xxxxxx" and image.get_cmap().get_bad()[3] == 0
            if of != "input":
                assert missing[:, 4:].all() and not missing[:, :4].any()
        assert {text.get_text() for text in axes["l0.c.side"].texts} == {"NaN"}
        clean = axes_of(trace, row=0)
        assert clean["l0.f"].patch.get_hatch() is None

    def test_half_lives_of_zero_and_infinity_stand_at_the_ends(self):
        lstm = numlstm.LSTM(6, 4, seed=0)
        bias = np.zeros(16)
        bias[4], bias[5] = 40, -200
        lstm.bias_hh_l0 = bias
        trace = lstm.trace(np.ones((9, 6)))
        side = axes_of(trace)["l0.c.side"]
        low, high = side.get_xlim()
        ends = {line.get_marker(): line.get_data() for line in side.get_lines()[1:]}
        assert [axis.tolist() for axis in ends[">"]] == [[high], [0]]  # unit 0, at the top
        assert [axis.tolist() for axis in ends["<"]] == [[low], [3]]

    def test_infinite_input_and_large_states_have_a_scale(self):
        lstm = numlstm.LSTM(6, 4, seed=0)
        x = np.ones((9, 6))
        x[2, 0], x[5, 1] = np.inf, 1e30
        axes = axes_of(lstm.trace(x))
        assert np.isfinite(axes["l0.input"].get_images()[0].norm.vmax)
        lstm.bias_hh_l0 = np.full(16, 40.0)
        trace = lstm.trace(np.ones((50, 6)))
        norm = axes_of(trace)["l0.c"].get_images()[0].norm
        assert norm.vmax == -norm.vmin == np.abs(trace["l0"].c).max() > 40
        bar = axes_of(trace)["colours.c"]
        assert bar.get_yticks().tolist() == [-50, -10, -1, 0, 1, 10, 50]
        assert [tick.get_text() for tick in bar.get_yticklabels()][3:] == ["0", "1", "10", "50"]

    def test_every_scale_has_round_ticks_within(self):
        limits = np.float32([1e-38, 0.3, 0.9999, 1, 1.5, 2, 2.5, 7, 999, 1e3, 3e38]).tolist()
        for limit in [*limits, 9.999999999999999e22]:
            ticks = figure._signed_ticks(limit)
            assert len(ticks) >= 5 and ticks == sorted(ticks) == [-tick for tick in reversed(ticks)]
            assert limit / 2 - 1e-300 <= ticks[-1] <= limit

    @pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (1, 2, 70)])
    def test_least_sizes(self, shape):
        steps, hidden, inputs = shape
        trace = trace_of(inputs=inputs, hidden=hidden, steps=steps, rows=1)
        axes = axes_of(trace)
        np.testing.assert_array_equal(axes["l0.c"].get_images()[0].get_array().ravel().size, steps * hidden)

    def test_zeros_everywhere(self):
        lstm = numlstm.LSTM(6, 4)
        lstm.load_state_dict({name: 0 * array for name, array in lstm.state_dict().items()})
        axes = axes_of(lstm.trace(np.zeros((3, 6))))
        assert axes["l0.c"].get_images()[0].norm.vmax == 1
        assert axes["l0.c.side"].get_lines()[0].get_xdata().tolist() == [1, 1, 1, 1]


class TestWords:
    def test_are_there(self):
        need("matplotlib")
        trace = trace_of(num_layers=2, bidirectional=True, proj_size=4)
        figure = plot.plot_trace(trace, row=2, title="a$b$.npz")
        axes = {axes.get_label(): axes for axes in figure.get_axes()}
        assert (
            figure.get_suptitle()
            == "a$b$.npz: LSTM(6, 9, proj_size=4, num_layers=2, bidirectional=True), 30 steps, row 2 of 3"
        )
        title = lambda label: axes[label].get_title(loc="left") or axes[label].get_title()  # noqa: E731
        assert title("l0.input") == "l0: layer 0, forward"
        assert title("l1_reverse.input") == "l1_reverse: layer 1, reverse: reads from right to left"
        assert title("l0.f").startswith("forget gate f") and title("l0.i").startswith("input gate i")
        assert title("l0.g").startswith("candidate g") and title("l0.o").startswith("output gate o")
        assert title("l0.c").startswith("cell state c") and "W$_{hr}$" in title("l0.h")
        assert (title("l0.f.side"), title("l0.c.side"), title("l0.h.side")) == (
            "share of steps",
            "half-life, steps",
            "mean |h|",
        )
        assert title("l0.g.side") == "|g| > 0.95"
        assert axes["l1.h"].get_xlabel() == "step" and axes["l0.h"].get_ylabel() == "feature"
        legend = [text.get_text() for text in axes["l0.input.side"].get_legend().get_texts()]
        assert legend == ["closed, < 0.05", "open, > 0.95", "between"]
        assert [tick.get_text() for tick in axes["colours.f"].get_yticklabels()][::4] == ["0 closed", "1 open"]

    @pytest.mark.parametrize("flags", [{}, {"num_layers": 2, "bidirectional": True}, {"steps": 3000, "hidden": 300}])
    def test_nothing_leaves_the_figure_or_covers_another_word(self, flags):
        need("matplotlib")
        figure = plot.plot_trace(trace_of(**flags))
        figure.draw_without_rendering()
        texts = [*figure.texts]
        for axes in figure.get_axes():
            if axes.axison:
                texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
                for axis in (axes.xaxis, axes.yaxis):
                    texts += [tick.label1 for tick in axis._update_ticks()]  # those that are drawn
        boxes = [
            (text.get_text(), text.get_window_extent()) for text in texts if text.get_visible() and text.get_text()
        ]
        assert len(boxes) > 50
        width, height = figure.bbox.width, figure.bbox.height
        for at, (text, box) in enumerate(boxes):
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
            for other, taken in boxes[:at]:
                assert not box.overlaps(taken), (text, other)


class TestRefused:
    def test_bad_arguments(self):
        trace = trace_of()
        for arguments, options, error, says in (
            (("l1",), {}, KeyError, "there is no 'l1' in this trace; it has l0"),
            (([],), {}, ValueError, "cells names none; this trace has l0"),
            ((), {"row": 3}, IndexError, "there is no row 3 in a batch of 3"),
            ((), {"row": -4}, IndexError, "there is no row -4"),
            ((), {"order": "size"}, ValueError, "order must be 'half-life' or 'index', not 'size'"),
        ):
            with pytest.raises(error, match=says):
                plot.plot_trace(trace, *arguments, **options)

    def test_an_empty_batch(self):
        with pytest.raises(IndexError, match="there is no row 0 in a batch of 0"):
            plot.plot_trace(trace_of(rows=0))

    def test_without_matplotlib(self, monkeypatch):
        for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=r"plot_trace needs matplotlib: pip install 'matplotlib>=3\.8'"):
            plot.plot_trace(trace_of())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", plot.SUFFIXES)
def test_the_same_trace_gives_the_same_bytes(suffix, tmp_path):
    need("matplotlib")
    trace = trace_of(num_layers=2)
    files = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for file in files:
        plot.save(plot.plot_trace(trace), file)
    first, second = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert first == second


# ---------------------------------------------------------------- numlstm trace


def run(folder, *args):
    """The command in a process of its own."""
    return subprocess.run(
        [*COMMAND, "trace", *map(str, args)], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def refused(*args):
    result = CliRunner().invoke(main, ["trace", *map(str, args)])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    (line,) = result.output.splitlines()
    return line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lstm = numlstm.LSTM(6, 4, num_layers=2, bidirectional=True, batch_first=True, seed=0).eval()
    lstm.save("m.npz")
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.standard_normal((3, 20, 6)))
    np.savetxt("x.csv", rng.standard_normal((5, 6)), delimiter=",")
    return tmp_path


def test_the_command(folder):
    need("matplotlib")
    ran = run(folder, "m.npz", "x.npy", "-o", "t.npz", "--plot", "t.png", "--row", 2, "--cell", "l1")
    assert ran.returncode == 0 and ran.stderr == "", ran.stderr
    want = numlstm.load("m.npz").trace(np.load("x.npy"))
    got = numlstm.Trace.load("t.npz")
    for name in want:
        for field in dataclasses.fields(want[name]):
            assert same_bits(getattr(got[name], field.name), getattr(want[name], field.name))
    assert got.batch_first and same_bits(got.output, want.output) and same_bits(got.input, want.input)
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("t.npz: Trace(l0, l0_reverse, l1, l1_reverse: 4 units; 20 steps, 3 rows, float32), ")
    assert lines[1:3] == ["t.png: l1, row 2", ""]
    plot.save(plot.plot_trace(want, ["l1"], row=2, title="m.npz"), folder / "again.png")
    assert (folder / "again.png").read_bytes() == (folder / "t.png").read_bytes()
    header, *rows = (line.split() for line in lines[3:])
    assert header == [
        "cell",
        "shortest",
        "half-life",
        "longest",
        *[f"{g}{b}" for g in "fio" for b in ("<0.05", ">0.95")],
    ]
    assert [row[0] for row in rows] == list(want)
    for row in rows:
        life = want.half_life(row[0])
        assert [float(value) for value in row[1:4:2]] == pytest.approx([life.min(), life.max()], rel=5e-3)
        assert np.quantile(life, 0.4) <= float(row[2]) * 1.005 and float(row[2]) <= np.quantile(life, 0.6) * 1.005


def test_the_table_needs_no_file(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ran = run(folder, "m.npz", "x.npy")
    assert ran.returncode == 0 and ran.stderr == "", ran.stderr
    first, empty, *table = ran.stdout.splitlines()
    assert first == "m.npz over x.npy: Trace(l0, l0_reverse, l1, l1_reverse: 4 units; 20 steps, 3 rows, float32)"
    assert empty == "" and table == trace_command.summary(numlstm.load("m.npz").trace(np.load("x.npy")))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_it_reads_what_run_reads(folder):
    """A .csv, states of an earlier run, and a trace's own file as input and as state."""
    assert run(folder, "m.npz", "x.csv", "-o", "a.npz").returncode == 0
    lstm, x = numlstm.load("m.npz"), np.loadtxt("x.csv", delimiter=",")
    first = lstm.trace(x)
    assert same_bits(numlstm.Trace.load("a.npz").output, first.output)
    assert run(folder, "m.npz", "x.csv", "-o", "b.npz", "--state", "a.npz").returncode == 0
    assert same_bits(numlstm.Trace.load("b.npz").output, lstm(x, (first.h_n, first.c_n))[0])
    assert run(folder, "m.npz", "b.npz", "-o", "c.npz").returncode == 0  # input, h_0 and c_0 of it
    assert (folder / "c.npz").read_bytes() == (folder / "b.npz").read_bytes()
    command = [*COMMAND, "run", "m.npz", "b.npz", "-o", "r.npz"]
    subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=True)
    with np.load("r.npz") as file, np.load("b.npz") as ours:
        for name in ("output", "h_n", "c_n"):
            assert same_bits(file[name], ours[name])


def test_it_refuses_before_it_computes(folder, monkeypatch):
    monkeypatch.setattr(numlstm.LSTM, "trace", lambda *_: pytest.fail("it computed"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for arguments, says in (
        (("m.npz", "x.npy", "-o", "t.npy"), "Error: t.npy: a trace is many arrays, so its name must end in .npz"),
        (("m.npz", "x.npy", "-o", "m.npz"), "Error: OUT is the same file as MODEL, m.npz; give OUT another name"),
        (("m.npz", "x.npy", "-o", "no/t.npz"), "Error: no/t.npz cannot be written: there is no folder no"),
        (("m.npz", "x.npy", "--plot", "t.pdf"), "Error: the picture is to be 't.pdf'; its suffix must be .svg or .png"),
        (("m.npz", "x.npy", "-o", "t.npz", "--plot", "t.png", "--cell", "l2"),
         "Error: there is no cell 'l2' in m.npz; it has l0, l0_reverse, l1, l1_reverse"),
        (("m.npz", "x.npy", "--plot", "t.png", "--row", 3),
         "Error: there is no row 3 in x.npy; it has 3, counted from 0"),
        (("m.npz", "x.csv", "--plot", "t.png", "--row", 1),
         "Error: there is no row 1 in x.csv; it has 1, counted from 0"),
    ):  # fmt: skip
        if "--plot" in arguments:
            need("matplotlib")
        assert refused(*arguments) == says
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_picture_is_written_whole_or_not_at_all(folder, monkeypatch):
    figure = need("matplotlib").figure.Figure
    (folder / "t.png").write_bytes(b"before")

    def fail(self, file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fail)
    assert "t.png cannot be written" in refused("m.npz", "x.npy", "--plot", "t.png")
    assert (folder / "t.png").read_bytes() == b"before"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_without_matplotlib_the_numbers_are_there(folder):
    code = (
        "import sys, json; sys.modules['matplotlib'] = None\nfrom numlstm.cli import main\n"
        "main(json.loads(sys.argv[1]), standalone_mode=True)"
    )
    for extra, returned in (([], 0), (["--plot", "t.png"], 1)):
        arguments = json.dumps(["trace", "m.npz", "x.npy", "-o", "t.npz", *extra])
        ran = subprocess.run(
            [sys.executable, "-c", code, arguments], capture_output=True, text=True, timeout=120, check=False
        )
        assert ran.returncode == returned, ran.stderr
    assert ran.stderr == "Error: --plot needs matplotlib: pip install 'matplotlib>=3.8'\n"


def test_the_table_knows_no_number(folder):
    """Rows that are NaN, or none at all."""
    lstm = numlstm.LSTM(2, 3, seed=0)
    for x in (np.full((4, 1, 2), np.nan), np.ones((4, 0, 2))):
        _, row = trace_command.summary(lstm.trace(x))
        assert row.split()[:4] == ["l0", "-", "-", "-"]
