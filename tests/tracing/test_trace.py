"""LSTM.trace: h and c are the call's own bits at every step, and the gates are those of the equations."""

import copy
import dataclasses
import gc
import threading
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from judge import DTYPES, flip_one_bit, need_longdouble, same_bits
from needs import need

import numlstm
from numlstm import reference
from numlstm.runtime import planner
from numlstm.tracing import record
from numlstm.tracing.trace import GATES, CellTrace

pytestmark = pytest.mark.cpu_level

MB = 1 << 20
CASES = {
    "one layer": ({}, (7, 3)),
    "no bias": ({"bias": False}, (7, 3)),
    "one step": ({"num_layers": 2, "bidirectional": True}, (1, 2)),
    "one row": ({"num_layers": 2}, (9, 1)),
    "three layers": ({"num_layers": 3}, (6, 5)),
    "two directions": ({"num_layers": 3, "bidirectional": True}, (6, 3)),
    "projected": ({"num_layers": 2, "proj_size": 5}, (6, 4)),
    "projected, two directions": ({"num_layers": 2, "proj_size": 3, "bidirectional": True}, (5, 2)),
    "batch first": ({"num_layers": 2, "bidirectional": True, "batch_first": True}, (6, 3)),
    "unbatched": ({"num_layers": 2, "bidirectional": True}, (6, None)),
    "unbatched, batch first": ({"batch_first": True, "proj_size": 2}, (6, None)),
    "hoisted": ({"input_size": 40, "hidden_size": 70}, (12, 2)),
    "no row": ({"num_layers": 2, "bidirectional": True}, (4, 0)),
}


def make(flags, size, dtype=np.float32):
    """An LSTM in eval mode, an input and states for it."""
    lstm = numlstm.LSTM(**{"input_size": 4, "hidden_size": 11, "dtype": dtype, "seed": 3, **flags}).eval()
    steps, rows = size
    rng = np.random.default_rng(steps)
    lead = (steps,) if rows is None else (rows, steps) if lstm.batch_first else (steps, rows)
    cells = lstm.num_layers * (2 if lstm.bidirectional else 1)
    batch = () if rows is None else (rows,)
    h_0 = rng.standard_normal((cells, *batch, lstm.proj_size or lstm.hidden_size)).astype(dtype)
    c_0 = rng.standard_normal((cells, *batch, lstm.hidden_size)).astype(dtype)
    return lstm, rng.standard_normal((*lead, lstm.input_size)).astype(dtype), (h_0, c_0)


def parts(lstm, trace):
    """For each cell: its parameters without suffix, whether reverse, what it read, and its first h and c."""
    first = (trace.h_0[:, None], trace.c_0[:, None]) if trace.unbatched else (trace.h_0, trace.c_0)
    state_dict = lstm.state_dict()
    for n, name in enumerate(trace):
        layer, _, reverse = name[1:].partition("_")
        below = [other for other in trace if other.partition("_")[0] == f"l{int(layer) - 1}"]
        read = np.concatenate([trace[other].h for other in below], axis=-1) if below else trace.input
        parameters = {
            key.removesuffix(f"_{name}"): value for key, value in state_dict.items() if key.endswith(f"_{name}")
        }
        yield name, parameters, bool(reverse), trace.steps_first(read), first[0][n], first[1][n]


def check_call(lstm, x, hx, trace):
    """The call's own arrays, to the bit."""
    output, (h_n, c_n) = lstm(x, hx)
    for name, want in (("output", output), ("h_n", h_n), ("c_n", c_n), ("input", np.asarray(x, lstm.dtype))):
        assert same_bits(getattr(trace, name), want), name
    for name, given, like in zip(("h_0", "c_0"), hx or (None, None), (h_n, c_n), strict=True):
        assert same_bits(getattr(trace, name), np.zeros_like(like) if given is None else given), name
    last = [cell.h for name, cell in trace.cells.items() if name.startswith(f"l{lstm.num_layers - 1}")]
    assert same_bits(np.concatenate(last, axis=-1), output)


def check_states(lstm, trace):
    """h and c of every cell at every step, to the bit: against an LSTM of that cell alone, called step by step."""
    checked = 0
    for name, parameters, reverse, read, h, c in parts(lstm, trace):
        alone = numlstm.LSTM(
            read.shape[-1], lstm.hidden_size, bias=lstm.bias, proj_size=lstm.proj_size, dtype=lstm.dtype
        )
        alone.load_state_dict({f"{key}_l0": value for key, value in parameters.items()})
        state = h[None], c[None]
        cell = trace[name]
        for step in reversed(range(trace.steps)) if reverse else range(trace.steps):
            _, state = alone(read[step : step + 1], state)
            assert same_bits(trace.steps_first(cell.h)[step], state[0][0]), (name, "h", step)
            assert same_bits(trace.steps_first(cell.c)[step], state[1][0]), (name, "c", step)
            checked += 1
    assert checked == trace.steps * len(trace)


def check_gates(lstm, trace):
    """Every gate against the reference with the very x and h: half a unit in the last place, and the sums' error."""
    wide = record.WIDER[lstm.dtype.name]
    for name, parameters, reverse, read, h, _ in parts(lstm, trace):
        own = trace.steps_first(trace[name].h)
        before = np.concatenate([own[1:], h[None]]) if reverse else np.concatenate([h[None], own[:-1]])
        terms = np.abs(read) @ np.abs(parameters["weight_ih"]).T + np.abs(before) @ np.abs(parameters["weight_hh"]).T
        if lstm.bias:
            terms = terms + np.abs(parameters["bias_ih"]) + np.abs(parameters["bias_hh"])
        count = read.shape[-1] + own.shape[-1] + 8
        for at, gate in enumerate(GATES):
            got = trace.steps_first(getattr(trace[name], gate))
            want = np.stack(
                [reference.gates(parameters, x, h, flush=lstm.dtype)[at] for x, h in zip(read, before, strict=True)]
            )
            assert got.dtype == lstm.dtype and got.shape == want.shape
            sums = count * np.finfo(wide).eps * terms[..., at * lstm.hidden_size :][..., : lstm.hidden_size]
            allowed = 0.5 * np.spacing(np.abs(want).astype(lstm.dtype)).astype(np.longdouble) * (1 + 1e-6) + sums
            assert (np.abs(got.astype(np.longdouble) - want) <= allowed).all(), (name, gate)


def check_recurrence(trace, tolerance):
    """c = f c + i g and, without a projection, h = o tanh(c)."""
    for n, (name, cell) in enumerate(trace.cells.items()):
        i, f, g, o, c, h = (
            trace.steps_first(getattr(cell, field.name)).astype(np.float64) for field in dataclasses.fields(cell)
        )
        c_0 = (trace.c_0[n, None] if trace.unbatched else trace.c_0[n])[None].astype(np.float64)
        before = np.concatenate([c[1:], c_0] if name.endswith("reverse") else [c_0, c[:-1]])
        assert np.abs(f * before + i * g - c).max(initial=0) < tolerance, name
        if trace.output_size == trace.hidden_size:
            assert np.abs(o * np.tanh(c) - h).max(initial=0) < tolerance, name


class TestBits:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("given", ["states", "no states"])
    @pytest.mark.parametrize("case", CASES)
    def test_of_every_kind_of_call(self, case, given, dtype):
        lstm, x, hx = make(*CASES[case], dtype)
        hx = hx if given == "states" else None
        trace = lstm.trace(x, hx)
        check_call(lstm, x, hx, trace)
        check_states(lstm, trace)
        lead = x.shape[:-1]
        assert list(trace) == [suffix[1:] for _, _, suffix in lstm._config.cells()]
        for cell in trace.cells.values():
            assert {getattr(cell, name).shape for name in "ifgoc"} == {(*lead, lstm.hidden_size)}
            assert cell.h.shape == (*lead, lstm.proj_size or lstm.hidden_size)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_of_shared_and_long_calls(self, dtype):
        """A call that threads share, in waves and chunks, has the bits of a trace, which one thread makes."""
        lstm, x, hx = make({"num_layers": 2, "input_size": 64, "hidden_size": 64}, (60, 48), dtype)
        with numlstm.num_threads(2):
            check_call(lstm, x, hx, lstm.trace(x, hx))

    @pytest.mark.parametrize("forced", [{"hoist": True, "hoist_steps": 2}, {"mr": 1}, {"group": 1, "hoist": True}])
    def test_of_every_path(self, forced):
        lstm, x, hx = make({"num_layers": 2, "bidirectional": True, "hidden_size": 37}, (5, 11))
        want = lstm.trace(x, hx)
        with planner.override(**forced):
            got = lstm.trace(x, hx)
        for name in want:
            assert same_bits(got[name].c, want[name].c) and same_bits(got[name].h, want[name].h)

    @pytest.mark.parametrize("kind", ["int16", "float16", "float64", ">f4", "list", "reversed"])
    def test_of_every_input(self, kind):
        lstm, x, hx = make({"num_layers": 2}, (6, 3))
        x = np.round(8 * x)
        given = x.tolist() if kind == "list" else x[::-1] if kind == "reversed" else x.astype(kind)
        kept, states = copy.deepcopy(given), copy.deepcopy(hx)
        trace = lstm.trace(given, hx)
        check_call(lstm, given, hx, trace)
        assert np.array_equal(given, kept) and all(map(np.array_equal, hx, states))
        for array in (trace.input, trace.h_0, trace.c_0):
            assert not any(np.shares_memory(array, mine) for mine in (np.asarray(given), *hx))

    def test_with_dropout_of_the_call_that_would_have_been(self):
        lstm, x, hx = make({"num_layers": 3, "dropout": 0.4, "hidden_size": 20, "bidirectional": True}, (8, 3))
        lstm.train()
        twin = copy.deepcopy(lstm)
        trace = lstm.trace(x, hx)
        check_call(twin, x, hx, trace)
        check_recurrence(trace, 1e-6)  # the gates of l1 are of what was left of h of l0
        assert not same_bits(lstm.trace(x, hx).output, trace.output)  # another mask, as in a call

    @pytest.mark.parametrize("fault", ["bit", "step", "direction", "state"])
    def test_a_wrong_state_is_noticed(self, fault):
        lstm, x, hx = make({"bidirectional": True}, (6, 3))
        trace = lstm.trace(x, hx)
        check_states(lstm, trace)
        cells = dict(trace.cells)
        if fault == "bit":
            cells["l0"] = dataclasses.replace(cells["l0"], c=flip_one_bit(cells["l0"].c))
        elif fault == "step":
            cells["l0"] = dataclasses.replace(cells["l0"], c=np.roll(cells["l0"].c, 1, axis=0))
        elif fault == "direction":
            cells["l0_reverse"] = dataclasses.replace(cells["l0_reverse"], c=cells["l0_reverse"].c[::-1])
        else:
            cells["l0"] = dataclasses.replace(cells["l0"], h=cells["l0"].c)
        with pytest.raises(AssertionError, match=r"'[hc]'"):
            check_states(lstm, dataclasses.replace(trace, cells=cells))


class TestGates:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("case", CASES)
    def test_are_the_references(self, case, dtype):
        need_longdouble()
        lstm, x, hx = make(*CASES[case], dtype)
        trace = lstm.trace(x, hx)
        check_gates(lstm, trace)
        check_recurrence(trace, 8 * np.finfo(dtype).eps)

    @pytest.mark.parametrize("chunk", [1, 3000])
    def test_do_not_depend_on_chunks(self, chunk, monkeypatch):
        """Of one row of one step at a time, and of some steps."""
        need_longdouble()
        lstm, x, hx = make({"num_layers": 2, "bidirectional": True, "batch_first": True}, (9, 3))
        monkeypatch.setattr(record, "CHUNK", chunk)
        check_gates(lstm, lstm.trace(x, hx))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_are_pytorchs_by_hand(self, dtype):
        torch = need("torch")
        theirs = torch.nn.LSTM(5, 7, bidirectional=True, dtype=torch.float32 if dtype == np.float32 else torch.float64)
        x = torch.randn(6, 3, 5, dtype=theirs.weight_ih_l0.dtype)
        with torch.no_grad():
            output, _ = theirs(x)
            trace = numlstm.from_torch(theirs).trace(x.numpy())
            for name, h in (("l0", output[..., :7]), ("l0_reverse", output[..., 7:])):
                zero = torch.zeros_like(h[:1])
                before = torch.cat([zero, h[:-1]] if name == "l0" else [h[1:], zero])
                w_ih, w_hh, b_ih, b_hh = (
                    getattr(theirs, f"{p}_{name}") for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                )
                i, f, g, o = (x @ w_ih.T + b_ih + before @ w_hh.T + b_hh).chunk(4, dim=-1)
                for gate, want in zip(GATES, (i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()), strict=True):
                    assert np.abs(getattr(trace[name], gate) - want.numpy()).max() < 16 * np.finfo(dtype).eps

    @pytest.mark.parametrize("fault", ["i and f swapped", "first h not read", "h of this step", "other direction"])
    def test_a_wrong_gate_is_noticed(self, fault, monkeypatch):
        need_longdouble()
        true, taken = record._gates, []

        def wrong(panels, suffix, x, h, h_0, into, reverse):
            taken.append(suffix)
            if fault == "i and f swapped":
                into = [into[1], into[0], *into[2:]]
            elif fault == "first h not read":
                h_0 = np.zeros_like(h_0)
            elif fault == "h of this step":
                h = np.concatenate([h[1:], h[:1]])
            else:
                reverse = not reverse
            true(panels, suffix, x, h, h_0, into, reverse)

        lstm, x, hx = make({"bidirectional": True}, (6, 3))
        check_gates(lstm, lstm.trace(x, hx))
        monkeypatch.setattr(record, "_gates", wrong)
        trace = lstm.trace(x, hx)
        assert taken == ["_l0", "_l0_reverse"]
        with pytest.raises(AssertionError, match="l0"):
            check_gates(lstm, trace)
        with pytest.raises(AssertionError, match="l0"):
            check_recurrence(trace, 1e-6)

    @pytest.mark.parametrize(("dtype", "edge"), [(np.float32, -87), (np.float64, -708)])
    def test_closed_ones_are_zero_where_the_engines_are(self, dtype, edge):
        lstm = numlstm.LSTM(1, 1, bias=False, dtype=dtype)
        lstm.load_state_dict({"weight_ih_l0": np.ones((4, 1)), "weight_hh_l0": np.zeros((4, 1))})
        trace = lstm.trace([[edge - 0.5], [edge + 0.5], [1000.0], [-np.inf], [np.inf]])
        i = trace["l0"].i[:, 0]
        assert i[0] == i[3] == 0 < i[1] < np.exp(edge + 1.0) and i[2] == i[4] == 1
        _, (_, c_n) = lstm([[edge - 0.5]], (np.zeros((1, 1)), np.full((1, 1), 1e37)))
        assert c_n[0, 0] == 0  # the engine's f, by which 1e37 was multiplied

    def test_nan_and_infinity_stay_in_their_row(self):
        lstm, x, _ = make({"num_layers": 2}, (8, 3))
        clean = lstm.trace(x)
        x[3, 1] = np.nan
        x[5, 2] = np.inf
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trace = lstm.trace(x)
        check_states(lstm, trace)
        for name in trace:
            for field in dataclasses.fields(CellTrace):
                got, want = getattr(trace[name], field.name), getattr(clean[name], field.name)
                assert same_bits(got[:, 0], want[:, 0]) and same_bits(got[:3, 1], want[:3, 1])
                assert np.isnan(got[3:, 1]).all(), (name, field.name)


class TestCall:
    @pytest.mark.parametrize(
        "arguments",
        [
            ([[[[1.0]]]],),
            (np.ones((3, 2, 5)),),
            (np.ones((0, 2, 4)),),
            (np.ones((3, 2, 4), complex),),
            (np.ones((3, 4)), (np.ones((1, 1, 11)), np.ones((1, 1, 11)))),
            (np.ones((3, 2, 4)), (np.ones((1, 2, 11)),)),
            (np.ones((3, 2, 4)), np.ones((2, 1, 2, 11))),
            (np.ones((3, 2, 4)), (np.ones((1, 2, 11)), np.ones((1, 3, 11)))),
        ],
    )
    def test_bad_arguments_are_those_of_a_call(self, arguments):
        lstm, *_ = make({}, (1, 1))
        said = []
        for function in (lstm, lstm.trace):
            with pytest.raises((TypeError, ValueError, RuntimeError, IndexError)) as caught:
                function(*arguments)
            said.append((caught.type, str(caught.value)))
        assert said[0] == said[1]

    def test_packed_is_refused(self):
        class Packed:
            batch_sizes = (2, 1)

        with pytest.raises(TypeError, match=r"must be an array, not a Packed\nTrace each sequence by itself"):
            make({}, (1, 1))[0].trace(Packed())

    def test_weights_are_those_at_its_begin(self):
        lstm, x, hx = make({"num_layers": 2}, (5, 2))
        want = lstm.trace(x, hx)

        class Meddler:
            def __array__(self, dtype=None, copy=None):
                lstm.weight_hh_l0 = np.zeros((44, 11))
                return hx[0]

        got = lstm.trace(x, (Meddler(), hx[1]))
        assert same_bits(got.output, want.output) and same_bits(got["l0"].f, want["l0"].f)
        assert not same_bits(lstm.trace(x, hx).output, want.output)

    def test_one_that_fails_leaves_the_lstm_whole(self, monkeypatch):
        lstm, x, hx = make({"num_layers": 2}, (5, 2))
        want, _ = lstm(x, hx)

        def fail(*_, **__):
            raise MemoryError("planted")

        with monkeypatch.context() as planted:
            planted.setattr(record, "_gates", fail)
            with pytest.raises(MemoryError, match="planted"):
                lstm.trace(x, hx)
        assert same_bits(lstm(x, hx)[0], want)
        check_states(lstm, lstm.trace(x, hx))

    def test_from_several_threads(self):
        lstm, x, hx = make({"num_layers": 2, "bidirectional": True}, (30, 3))
        want, got = lstm.trace(x, hx), [None] * 6

        def work(at):
            got[at] = lstm.trace(x, hx)

        threads = [threading.Thread(target=work, args=(at,)) for at in range(len(got))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for trace in got:
            assert all(
                same_bits(trace[name].c, want[name].c) and same_bits(trace[name].f, want[name].f) for name in want
            )

    def test_is_frozen_and_says_what_it_is(self):
        lstm, x, _ = make({"num_layers": 2, "bidirectional": True, "batch_first": True}, (5, 2))
        trace = lstm.trace(x)
        assert repr(trace) == "Trace(l0, l0_reverse, l1, l1_reverse: 11 units; 5 steps, 2 rows, float32)"
        assert (trace.steps, trace.rows, trace.hidden_size, len(trace)) == (5, 2, 11, 4)
        with pytest.raises(KeyError, match="there is no 'l2' in this trace; it has l0, l0_reverse, l1, l1_reverse"):
            trace["l2"]
        with pytest.raises(dataclasses.FrozenInstanceError):
            trace.output = x
        with pytest.raises(TypeError):
            trace.cells["l0"] = trace["l1"]


def with_gate(lstm, x, **gates):
    """A trace whose gates of l0 are these."""
    trace = lstm.trace(x)
    return dataclasses.replace(trace, cells={"l0": dataclasses.replace(trace["l0"], **gates)})


class TestNumbers:
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_half_lives(self, batch_first):
        lstm, x, _ = make({"hidden_size": 5, "batch_first": batch_first}, (4, 2))
        f = np.empty((4, 2, 5), np.float32)
        f[..., 0], f[..., 1], f[..., 2] = 0.5, 1, [[0.25, 1]] * 4
        f[:, :, 3] = np.array([1, 1, 0, 1])[:, None]
        f[:, :, 4] = [[0.5, 0.5], [np.nan, 0.5], [0.5, 0.5], [0.5, 0.125]]
        trace = with_gate(lstm, x, f=f.swapaxes(0, 1) if batch_first else f)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = trace.half_life("l0")
        np.testing.assert_allclose(got, [[1, np.inf, 0.5, 0, np.nan], [1, np.inf, np.inf, 0, 2 / 3]], rtol=1e-12)

    def test_a_cell_left_alone_halves_in_a_half_life(self):
        """What the number means: with no more to add, |c| is half of what it was after so many steps."""
        lstm = numlstm.LSTM(1, 3, seed=0, dtype=np.float64)
        lstm.weight_ih_l0, lstm.weight_hh_l0 = np.zeros((12, 1)), np.zeros((12, 3))
        lstm.bias_ih_l0, lstm.bias_hh_l0 = np.repeat([-800.0, 0, 0, 0], 3), np.repeat([0.0, 2.5, 0, 0], 3)
        trace = lstm.trace(np.zeros((200, 1)), (np.zeros((1, 3)), np.ones((1, 3))))
        life = trace.half_life("l0")
        for unit in range(3):
            at = np.log2(trace["l0"].c[:, unit])
            np.testing.assert_allclose(np.diff(at), -1 / life[unit], rtol=1e-9)

    def test_saturation(self):
        lstm, x, _ = make({"hidden_size": 2}, (4, 1))
        gate = np.array([[0.01, 0.5], [0.05, 0.96], [0.99, np.nan], [0.951, 0.95]], np.float32)[:, None]
        for name in "ifo":
            closed, opened = with_gate(lstm, x, **{name: gate}).saturation("l0", name)
            assert closed.tolist() == [[0.25, 0]] and opened.tolist() == [[0.5, 0.25]]
        closed, opened = with_gate(lstm, x, g=-gate).saturation("l0", "g")
        assert closed.tolist() == [[0.5, 0.25]] and opened.tolist() == [[0, 0]]
        with pytest.raises(ValueError, match="gate must be one of i, f, g, o, not 'c'"):
            lstm.trace(x).saturation("l0", "c")


def arrays_of(trace):
    arrays = {name: getattr(trace, name) for name in ("input", "h_0", "c_0", "output", "h_n", "c_n")}
    for name, cell in trace.cells.items():
        arrays |= {f"{field.name}_{name}": getattr(cell, field.name) for field in dataclasses.fields(cell)}
    return arrays


class TestFile:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("case", ["projected, two directions", "batch first", "unbatched", "no row"])
    def test_round_trip(self, case, dtype, tmp_path):
        lstm, x, hx = make(*CASES[case], dtype)
        trace = lstm.trace(x, hx)
        trace.save(tmp_path / "a.npz")
        again = numlstm.Trace.load(tmp_path / "a.npz")
        want = arrays_of(trace)
        assert all(same_bits(array, want[name]) for name, array in arrays_of(again).items())
        assert again.batch_first == trace.batch_first and list(again) == list(trace) and repr(again) == repr(trace)
        with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
            assert set(file) == {*want, "batch_first"}
            assert same_bits(file["f_l0"], trace["l0"].f)
        again.save(tmp_path / "b.npz")
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()

    def test_ten_layers_are_in_order(self, tmp_path):
        lstm, x, _ = make({"num_layers": 11, "hidden_size": 2}, (2, 1))
        lstm.trace(x).save(tmp_path / "a.npz")
        assert list(numlstm.Trace.load(tmp_path / "a.npz")) == [f"l{n}" for n in range(11)]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"o_l1": None}, "it is not a trace: it holds no o_l1"),
            ({"input": None}, "it is not a trace: it holds no input"),
            ({"f_l0": None, "f_l1": None}, "it holds no gates, such as f_l0"),
            ({"f_l0": None}, "its cells are l1; l0 are expected"),
            ({"f_lx": 1.0}, "there is no layer and direction named 'lx'"),
            ({"c_l1": np.ones((4, 3), np.float32)}, r"c_l1 has shape \(4, 3\); \(4, 11\) is expected"),
            ({"h_l0": np.ones((4, 11))}, "h_l0 is of float64; float32 or float64 is expected, one for all"),
            ({"input": np.ones(4, np.float32)}, "input has 1 axis; 2 or 3 are expected"),
            ({"h_n": np.ones((2, 1, 11), np.float32)}, "h_n and c_n have 3 and 2 axes; input has 2"),
            ({"batch_first": 1.0}, r"batch_first must be True or False, but it is float64 of \(\)"),
            ({"i_l0": np.array([object()])}, "is no sound .npy file: it is an array of Python objects"),
        ],
    )
    def test_one_that_is_no_trace(self, change, says, tmp_path):
        lstm, x, _ = make({"num_layers": 2}, (4, None))
        arrays = arrays_of(lstm.trace(x)) | {"batch_first": False}
        np.savez(tmp_path / "a.npz", **arrays)
        numlstm.Trace.load(tmp_path / "a.npz")
        arrays |= change
        np.savez(tmp_path / "a.npz", **{name: value for name, value in arrays.items() if value is not None})
        with pytest.raises(ValueError, match=rf"a\.npz: .*{says}"):
            numlstm.Trace.load(tmp_path / "a.npz")

    def test_damaged(self, tmp_path):
        lstm, x, _ = make({}, (4, 2))
        lstm.trace(x).save(tmp_path / "a.npz")
        whole = (tmp_path / "a.npz").read_bytes()
        with zipfile.ZipFile(tmp_path / "a.npz") as archive:
            inside = archive.getinfo("f_l0.npy").header_offset + 400
        bad = bytearray(whole)
        bad[inside] ^= 1
        for content in (b"", b"no zip", whole[:-30], whole[: len(whole) // 2], bytes(bad)):
            (tmp_path / "b.npz").write_bytes(content)
            with pytest.raises(ValueError, match=r"b\.npz: "):
                numlstm.Trace.load(tmp_path / "b.npz")

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            numlstm.Trace.load(tmp_path / "missing.npz")
        with pytest.raises(OSError, match="is a directory; a trace's file is expected"):
            numlstm.Trace.load(tmp_path)

    def test_is_written_whole_or_not_at_all(self, tmp_path, monkeypatch):
        lstm, x, _ = make({}, (4, 2))
        trace, path = lstm.trace(x), tmp_path / "a.npz"
        trace.save(path)
        before = path.read_bytes()

        def fail(file, **_):
            file.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "savez", fail)
        with pytest.raises(OSError, match=r"a\.npz cannot be written"):
            trace.save(path)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
        with pytest.raises(ValueError, match=r"a\.npy: a trace is many arrays, so its name must end in \.npz"):
            trace.save(tmp_path / "a.npy")
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            trace.save(tmp_path / "missing" / "a.npz")


def beyond(lstm, x):
    """Bytes that a trace takes at most, beyond itself."""
    lstm.trace(x[:1, :1])
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        trace = lstm.trace(x)
        most = tracemalloc.get_traced_memory()[1]
        return most - before - sum(array.nbytes for array in arrays_of(trace).values())
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("flags", "shape"),
    [
        ({}, (40_000, 4)),
        ({}, (2, 50_000)),
        ({"num_layers": 3}, (5_000, 16)),
        ({"dtype": "float64", "bidirectional": True}, (300, 64)),
        ({"hidden_size": 512, "input_size": 512}, (300, 1)),
    ],
)
def test_memory_beside_the_trace_is_bounded(flags, shape, monkeypatch):
    """16 MB, one sequence of the hidden size per direction where there are layers, and twice a cell's weights."""
    lstm = numlstm.LSTM(**{"input_size": 16, "hidden_size": 32, "seed": 0, **flags}).eval()
    x = np.ones((*shape, lstm.input_size), lstm.dtype)
    directions = 2 if lstm.bidirectional else 1
    below = x[..., 0].size * directions * lstm.hidden_size * x.itemsize if lstm.num_layers > 1 else 0
    allowed = 16 * MB + below + 2 * 4 * lstm.hidden_size * (lstm.input_size + lstm.hidden_size) * x.itemsize
    assert beyond(lstm, x) <= allowed
    if shape[0] > 1000 and not flags:
        monkeypatch.setattr(record, "CHUNK", 1 << 40)  # the planted fault: all at once
        assert beyond(lstm, x) > allowed
