"""numlstm.bench: its arithmetic, the order of turns, the check of results, and the errors that it notices."""

import json
import re
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from needs import leave_out, need
from scripts import benchmark

from numlstm import reference
from numlstm.base.config import Config
from numlstm.bench import engines, grid, measure, streaming, table, worker
from numlstm.bench.costs import memory
from numlstm.bench.engines import litert_interpreter
from numlstm.bench.engines.onnx_model import onnx_model
from numlstm.bench.grid import GRID, Workload
from numlstm.bench.hardware import clock, limits, machine, probes
from numlstm.bench.results import Entry, Report, Result, Turn
from numlstm.kernels.loading import levels, registry

pytestmark = pytest.mark.cpu_level

TINY = Workload("tiny", 3, 5, 2, 2, 4, 3)
NEEDED = {
    "numlstm": [], "torch": ["torch"], "onednn": ["torch"], "onnxruntime": ["onnxruntime", "onnx"],
    "openvino": ["openvino", "onnx"], "litert": ["ai_edge_litert", "flatbuffers"], "mnn": ["MNN", "onnx"], "numpy": [],
}  # fmt: skip
ALWAYS_FRESH = ("torch", "onednn")  # return new arrays in the style "reuse" as well
ROOT = Path(__file__).parents[2]


def expected(workload):
    x, h_0, c_0 = workload.inputs()
    output, (h_n, c_n) = reference.lstm(workload.parameters(), x, (h_0, c_0), dtype=np.float64)
    return output, h_n, c_n


def right(workload):
    """What an engine without rounding errors beyond its dtype would give."""
    return tuple(array.astype(workload.dtype) for array in expected(workload))


class Here:
    """A worker without a process: requests and answers go through JSON all the same."""

    def __init__(self, **engines):
        self.host = worker.Host(1, engines)

    def ask(self, **request):
        return json.loads(json.dumps(self.host.answer(json.loads(json.dumps(request)))))


class Scales(Here):
    """The machine's limits without measuring them; the reference is the real one."""

    def ask(self, **request):
        if request["do"] == "limits":
            return {"limits": {"fma_float32_256": 100.0}, "nanoseconds": 1000, "idle": True}
        return super().ask(**request)


def measured(tmp_path, engines, rounds=3, workload=TINY, order=None):
    """A result of `measure_workload` with planted engines, all in one worker."""
    result = Result(workload, 1, "fresh")
    shared = Here(**engines)
    workers = {"machine": Scales(), **dict.fromkeys(engines, shared)}
    measure.measure_workload(
        result, order or list(engines), workers, tmp_path / "expected.npz", rounds=rounds, seconds=0.0001
    )  # fmt: skip
    return result


def engine(results, log=None, name="planted"):
    """An engine that gives fixed results, and writes its name down at every call."""

    def make(task):
        def call():
            if log is not None:
                log.append(name)
            return results

        return {"the only way": engines.Setting(call)}

    return make


class TestGrid:
    @pytest.mark.parametrize(
        "workload", [*GRID, TINY, Workload("projected", 5, 7, 3, 2, 4, 2, proj_size=3)], ids=lambda x: x.name
    )
    def test_fmas_are_every_weight_once_a_step_and_row(self, workload):
        weights = sum(w.size for name, w in workload.parameters().items() if name.startswith("weight"))
        assert workload.fmas == weights * workload.sequence_length * workload.batch_size
        assert workload.weight_bytes == weights * 4

    def test_fmas_by_hand(self):
        # layer 1: 4 gates x 4 units x (6 inputs + 4 states); layer 2: 16 x (4 + 4); 5 steps
        assert grid.find("seed").fmas == 5 * (16 * 10 + 16 * 8) == 1440
        # and a projection: 16 x (6 + 3) + 3 x 4 from 4 units to 3
        assert Workload("p", 6, 4, 1, 1, 5, 2, proj_size=3).fmas == 10 * (16 * 9 + 12)

    def test_the_grid_is_the_documented_one(self):
        assert [workload.name for workload in GRID] == [
            "seed", "amp_step", "amp_block", "vad_step", "forecast", "tagger", "voice", "speech", "lm", "lm_step",
        ]  # fmt: skip
        voice = grid.find("voice")
        assert (voice.input_size, voice.hidden_size, voice.num_layers, voice.directions) == (40, 256, 3, 1)
        assert (voice.sequence_length, voice.batch_size, voice.dtype) == (160, 8, "float32")

    def test_data_are_the_same_at_every_call_and_of_the_right_kind(self):
        workload = replace(TINY, dtype="float64", proj_size=2)
        for make in (lambda: workload.parameters().values(), workload.inputs):
            for first, second in zip(make(), make(), strict=True):
                assert first.dtype == np.float64
                np.testing.assert_array_equal(first, second)
        x, h_0, c_0 = workload.inputs()
        assert (x.shape, h_0.shape, c_0.shape) == ((4, 3, 3), (4, 3, 2), (4, 3, 5))
        assert list(workload.parameters()) == list(workload.config.parameter_shapes())

    def test_shortened(self):
        assert TINY.shortened(TINY.fmas) == TINY
        assert TINY.shortened(TINY.fmas // 2).sequence_length == 2
        assert TINY.shortened(1).sequence_length == 1

    @pytest.mark.parametrize(
        "text",
        [
            *("", "1,2,3", "1,2,3,4,5,six", "1,2,1,1,1,1,1,1", "1,4,1,3,1,1", "0,4,1,1,1,1", "1,4,1,1,1,1,4"),
            *("1,4,1,1,1,1,float32,float64", "1,4,1,1,1,1,batch_first,batch_first"),
        ],
    )
    def test_bad_sizes_are_refused(self, text):
        with pytest.raises(ValueError, match="must be"):
            Workload.parse(text)

    def test_sizes_with_a_projection(self):
        assert Workload.parse("1,4,2,2,3,5,3", "float64") == Workload("1,4,2,2,3,5,3", 1, 4, 2, 2, 3, 5, 3, "float64")

    def test_unknown_names(self):
        with pytest.raises(ValueError, match="there are seed, amp_step"):
            grid.find("sead")
        with pytest.raises(ValueError, match="'float32' or 'float64'"):
            replace(TINY, dtype="float16")


class TestOnnxModel:
    @pytest.mark.parametrize("layers", [1, 3])
    @pytest.mark.parametrize("directions", [1, 2])
    @pytest.mark.parametrize("rows", [1, 4])
    def test_through_onnxruntime(self, layers, directions, rows):
        onnxruntime = need("onnxruntime")
        need("onnx")
        workload = Workload("model", 3, 5, layers, directions, 6, rows)
        session = onnxruntime.InferenceSession(
            onnx_model(workload, workload.parameters()), providers=["CPUExecutionProvider"]
        )
        feeds = dict(zip(["input", "h_0", "c_0"], workload.inputs(), strict=True))
        assert (
            worker.deviation(workload, tuple(session.run(["output", "h_n", "c_n"], feeds)), expected(workload)) < 1e-6
        )

    def test_gates_in_pytorch_s_order_are_noticed(self, monkeypatch):
        """The planted fault: ONNX's order left out."""
        onnxruntime = need("onnxruntime")
        need("onnx")
        monkeypatch.setattr("numlstm.bench.engines.onnx_model.gates_iofc", lambda parameter: parameter)
        session = onnxruntime.InferenceSession(onnx_model(TINY, TINY.parameters()), providers=["CPUExecutionProvider"])
        feeds = dict(zip(["input", "h_0", "c_0"], TINY.inputs(), strict=True))
        with pytest.raises(engines.LeftOutError, match="wrong result"):
            worker.deviation(TINY, tuple(session.run(["output", "h_n", "c_n"], feeds)), expected(TINY))

    def test_no_projection(self):
        with pytest.raises(ValueError, match="no projection"):
            onnx_model(replace(TINY, proj_size=2), {})


class TestEngines:
    @pytest.mark.slow
    @pytest.mark.parametrize("style", engines.STYLES)
    @pytest.mark.parametrize("name", engines.ENGINES)
    def test_every_setting_is_right(self, name, style, monkeypatch):
        for package in NEEDED[name]:
            need(package)
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
        workload = replace(TINY, directions=1) if name == "litert" else TINY
        inputs = workload.inputs()
        settings = engines.ENGINES[name](engines.Task(workload, 1, style, workload.parameters(), inputs))
        assert settings
        for setting in settings.values():
            with setting.context():
                first = engines.results(setting.call())
                kept = [array.copy() for array in first]
                again = engines.results(setting.call())
            assert worker.deviation(workload, tuple(kept), expected(workload)) < 1e-6
            assert worker.deviation(workload, again, expected(workload)) < 1e-6
            shared = [np.shares_memory(a, b) for a, b in zip(first, again, strict=True)]
            assert not any(shared) if style == "fresh" else name in ALWAYS_FRESH or all(shared)
        for before, after in zip(workload.inputs(), inputs, strict=True):
            np.testing.assert_array_equal(before, after)

    @pytest.mark.parametrize("change", [{"proj_size": 2}, {"dtype": "float64"}, {"batch_first": True}])
    def test_the_numpy_loop_has_it_all(self, change, monkeypatch):
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
        workload = replace(TINY, **change)
        settings = engines.ENGINES["numpy"](
            engines.Task(workload, 1, "fresh", workload.parameters(), workload.inputs())
        )
        x, h_0, c_0 = workload.inputs()
        x = x.swapaxes(0, 1) if workload.batch_first else x
        output, (h_n, c_n) = reference.lstm(workload.parameters(), x, (h_0, c_0), dtype=np.float64)
        output = output.swapaxes(0, 1) if workload.batch_first else output
        for setting in settings.values():
            worker.deviation(workload, engines.results(setting.call()), (output, h_n, c_n))

    def test_the_numpy_loop_is_left_out_if_its_threads_are_unknown(self, monkeypatch):
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
        with pytest.raises(engines.LeftOutError, match="set OPENBLAS_NUM_THREADS=1"):
            engines.ENGINES["numpy"](engines.Task(TINY, 1, "fresh", TINY.parameters(), TINY.inputs()))

    @pytest.mark.parametrize("fault", ["gates", "states", "variable"])
    def test_faults_of_litert_s_model_are_noticed(self, monkeypatch, fault):
        """Planted: gates in another order; h and c exchanged; states that are no variables."""
        need("ai_edge_litert")
        model, tensor, bias = litert_interpreter.litert_model, litert_interpreter._Writer.tensor, engines.Task.bias
        if fault == "gates":
            monkeypatch.setattr(engines.Task, "bias", lambda self, suffix: bias(self, suffix)[::-1])
        elif fault == "states":
            monkeypatch.setattr(litert_interpreter, "litert_model", lambda task: (model(task)[0], model(task)[1][::-1]))
        else:
            monkeypatch.setattr(litert_interpreter._Writer, "tensor", lambda *of, **_: tensor(*of))
        workload = replace(TINY, directions=1)
        host = worker.Host(1)
        wanted = expected(workload)
        task = engines.Task(workload, 1, "fresh", workload.parameters(), workload.inputs())
        with pytest.raises((engines.LeftOutError, RuntimeError)):
            for setting in host.engines["litert"](task).values():
                worker.deviation(workload, engines.results(setting.call()), wanted)

    def test_torch_is_left_as_it_was(self):
        torch = need("torch")
        before = torch.backends.mkldnn.enabled
        for setting in engines.torch(engines.Task(TINY, 1, "fresh", TINY.parameters(), TINY.inputs())).values():
            with setting.context():
                assert torch.is_inference_mode_enabled()
                setting.call()
            assert torch.backends.mkldnn.enabled == before
            assert not torch.is_inference_mode_enabled()

    def test_one_that_is_not_installed_is_left_out_by_name(self, monkeypatch, tmp_path):
        def missing(name):
            raise PackageNotFoundError(name)

        monkeypatch.setattr(engines.task, "version", missing)
        packages = {name: name for name in engines.BASELINES if name != "numpy"}
        packages |= {"onednn": "torch", "litert": "ai-edge-litert"}
        result = measured(tmp_path, {name: engines.ENGINES[name] for name in packages})
        for name, package in packages.items():
            assert result.entries[name] == Entry(left_out=f"{package} is not installed (pip install {package})")
        assert result.measured == []

    @pytest.mark.parametrize("change", [{"proj_size": 2}, {"dtype": "float64"}])
    @pytest.mark.parametrize("name", ["onnxruntime", "openvino", "onednn", "litert", "mnn"])
    def test_what_an_engine_lacks_is_said(self, name, change):
        for package in NEEDED[name]:
            need(package)
        workload = replace(TINY, **change)
        with pytest.raises(engines.LeftOutError, match=r"proj_size|not in float64"):
            engines.ENGINES[name](engines.Task(workload, 1, "fresh", workload.parameters(), workload.inputs()))

    @pytest.mark.parametrize("change", [{"proj_size": 2}, {"dtype": "float64"}])
    def test_torch_has_it(self, change):
        need("torch")
        workload = replace(TINY, **change)
        settings = engines.torch(engines.Task(workload, 1, "fresh", workload.parameters(), workload.inputs()))
        for setting in settings.values():
            with setting.context():
                worker.deviation(workload, engines.results(setting.call()), expected(workload))


def damaged(kind):
    output, h_n, c_n = right(TINY)
    if kind == "value":
        c_n[-1, -1, -1] += 1e-3
    elif kind == "nan":
        h_n[0, 0, 0] = np.nan
    elif kind == "shape":
        output = output[:-1]
    elif kind == "dtype":
        output = output.astype(np.float64)
    elif kind == "type":
        output = output.tolist()
    return output, h_n, c_n


class TestJudgement:
    def test_a_right_engine_takes_part(self, tmp_path):
        result = measured(tmp_path, {"good": engine(right(TINY))})
        assert result.measured == ["good"]
        assert result.entries["good"].setting == "the only way"
        assert 0 < result.entries["good"].max_error < 1e-7

    @pytest.mark.parametrize(
        ("kind", "sentence"),
        [
            ("value", "wrong result: c_n differs from the reference by up to 0.001; at most 1e-05 is rounding"),
            ("nan", "wrong result: h_n differs from the reference by up to nan; at most 1e-05 is rounding"),
            ("shape", "wrong result: output is float32 (3, 3, 10); it must be float32 (4, 3, 10)"),
            ("dtype", "wrong result: output is float64 (4, 3, 10); it must be float32 (4, 3, 10)"),
            ("type", "wrong result: output is list; it must be float32 (4, 3, 10)"),
        ],
    )
    def test_a_wrong_engine_is_refused(self, tmp_path, kind, sentence):
        result = measured(tmp_path, {"good": engine(right(TINY)), "bad": engine(damaged(kind))})
        assert result.entries["bad"].left_out == sentence
        assert result.measured == ["good"]
        assert not [turn for turn in result.turns if turn.engine == "bad"]

    def test_an_engine_that_goes_wrong_later_is_refused(self, tmp_path):
        """Results are checked after the rounds too: what a call leaves behind may spoil the next one."""
        calls = []

        def spoilt(task):
            good, bad = right(TINY), damaged("value")

            def call():
                calls.append(1)
                return good if len(calls) < 10 else bad

            return {"once": engines.Setting(call)}

        result = measured(tmp_path, {"spoilt": spoilt}, rounds=10)
        assert "after the last round" in result.entries["spoilt"].left_out

    def test_one_wrong_setting_is_enough(self, tmp_path):
        def make(task):
            return {"a": engines.Setting(lambda: right(TINY)), "b": engines.Setting(lambda: damaged("value"))}

        assert "wrong result" in measured(tmp_path, {"half": make}).entries["half"].left_out

    def test_an_engine_that_fails_is_left_out_with_its_words(self, tmp_path):
        def broken(task):
            raise RuntimeError("no such instruction")

        entry = measured(tmp_path, {"broken": broken}).entries["broken"]
        assert entry.left_out == "it failed with RuntimeError: no such instruction"

    def test_numlstm_left_out_is_a_failure_and_a_baseline_is_not(self):
        result = Result(TINY, 1, "fresh", {"numlstm": Entry(left_out="wrong result"), "torch": Entry(left_out="too")})
        assert measure.failures(Report({}, "", 1, [result])) == ["numlstm on tiny at 1 thread: wrong result"]

    def test_the_fastest_setting_stays(self, tmp_path):
        def make(task):
            results = right(TINY)

            def slow():
                np.linalg.inv(np.eye(300))
                return results

            return {"slow": engines.Setting(slow), "fast": engines.Setting(lambda: results)}

        assert measured(tmp_path, {"both": make}).entries["both"].setting == "fast"


class TestTurns:
    def test_everyone_once_a_round_in_turn(self, tmp_path):
        log = []
        engines = {name: engine(right(TINY), log, name) for name in "abc"}
        result = measured(tmp_path, engines, rounds=8)
        recorded = [(turn.round, turn.engine) for turn in result.turns]
        assert recorded == list(measure.schedule(["machine", "a", "b", "c"], 8))
        for number in range(8):
            assert Counter(name for at, name in recorded if at == number) == dict.fromkeys(
                ["machine", "a", "b", "c"], 1
            )
        first = [name for at, (_, name) in enumerate(recorded) if at % 4 == 0]
        assert Counter(first) == dict.fromkeys(["machine", "a", "b", "c"], 2)  # who begins a round goes round too
        assert len(result.limits) == 8

    def test_calls_happen_in_the_order_that_is_recorded(self, tmp_path):
        entered, called = [], []

        def noted(name):
            class Context(nullcontext):
                def __enter__(self):
                    entered.append(name)

            def make(task):
                results = right(TINY)
                return {"s": engines.Setting(lambda: called.append((name, entered[-1])) or results, Context)}

            return make

        result = measured(tmp_path, {name: noted(name) for name in "ab"}, rounds=5)
        order = [turn.engine for turn in result.turns if turn.engine != "machine"]
        assert entered == ["a", "a", "b", "b", *order, "a", "b"]  # checked, warmed up; the turns; checked again
        assert all(name == turn for name, turn in called)  # nobody is called in another's turn

    def test_a_turn_counts_its_calls_and_enters_the_context_once(self, tmp_path):
        log, entered = [], []

        class Context(nullcontext):
            def __enter__(self):
                entered.append(len(log))

        setting = engines.Setting(lambda: log.append(1) or right(TINY), Context)
        task = engines.Task(TINY, 1, "fresh", {}, TINY.inputs())
        ready = worker.Prepared(task, expected(TINY), "x", setting, 1e-4)
        for calls in (1, 7):
            ready.calls = calls
            log.clear(), entered.clear()
            assert ready.turn()[0] == calls
            assert len(log) == (1 if calls == 1 else calls + 1)  # one untimed call first, unless a call fills a turn
            assert entered == [0]

    def test_the_collector_sleeps_during_a_turn_and_is_put_back(self):
        import gc

        seen = []
        setting = engines.Setting(lambda: seen.append(gc.isenabled()) or right(TINY))
        ready = worker.Prepared(engines.Task(TINY, 1, "fresh", {}, TINY.inputs()), expected(TINY), "x", setting, 1e-4)
        seen.clear()
        ready.turn()
        assert seen and not any(seen)
        assert gc.isenabled()

    @pytest.mark.parametrize(
        ("threads", "processes"),
        [(1, {"machine": 1, "all engines": 1}), (2, {"machine": 1, "numlstm": 1, "torch": 1, "openvino": 1})],
    )
    def test_one_process_for_one_thread_and_one_each_for_more(self, monkeypatch, threads, processes):
        started, asked = [], []

        class Silent:
            def __init__(self, name, count):
                assert count == threads
                self.name = name
                started.append(name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def ask(self, do, **request):
                asked.append((do, self.name, request.get("engine")))
                turn = {"nanoseconds": 1000, "idle": True}
                return {
                    "expect": {}, "check": {}, "prepare": {"setting": "s"}, "turn": {**turn, "calls": 1},
                    "limits": {**turn, "limits": {}},
                }[do]  # fmt: skip

        monkeypatch.setattr(measure, "Worker", Silent)
        measure.run([TINY], ["numlstm", "torch", "openvino"], threads=[threads], rounds=2)
        assert Counter(started) == processes
        for do, name, wanted in asked:
            if do in ("prepare", "turn", "check"):
                assert name == ("all engines" if threads == 1 else wanted)
            else:
                assert name == "machine"

    def test_a_worker_s_environment_sets_its_threads(self, monkeypatch):
        seen = {}

        class Stop(Exception):
            pass

        def popen(command, **options):
            seen.update(options["env"], command=command)
            raise Stop

        monkeypatch.setattr(measure.subprocess, "Popen", popen)
        with pytest.raises(Stop):
            measure.Worker("x", 3)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMLSTM_NUM_THREADS"):
            assert seen[name] == "3"
        assert seen["command"][1:] == ["-m", "numlstm.bench.worker", "3"]

    def test_settling(self, monkeypatch):
        """With a clock of its own: a pool that spins for 30 ms is waited for, one that never stops is told of."""

        def clocks(spins_until):
            now = [0.0]

            class Time:
                perf_counter = staticmethod(lambda: now[0])
                process_time = staticmethod(lambda: min(now[0], spins_until))

                @staticmethod
                def sleep(seconds):
                    now[0] += seconds

            monkeypatch.setattr(clock, "time", Time)
            return now

        now = clocks(0.0)
        assert clock.settle() and now[0] == pytest.approx(0.004)
        now = clocks(0.030)
        assert clock.settle() and now[0] == pytest.approx(0.034)
        clocks(10.0)
        assert not clock.settle()


class TestWorkerProcess:
    def test_whole(self, tmp_path):
        """A real process: the reference, numlstm prepared, turns, and an end without a word."""
        path = str(tmp_path / "expected.npz")
        workload = {**TINY.__dict__}
        with measure.Worker("numlstm", 1) as process:
            process.ask(do="expect", workload=workload, path=path)
            with np.load(path) as file:
                np.testing.assert_array_equal(file["c_n"], expected(TINY)[2])
            ready = process.ask(
                do="prepare", engine="numlstm", workload=workload, style="fresh", path=path, seconds=0.001
            )
            assert ready["max_error"] < 1e-6
            turn = process.ask(do="turn", engine="numlstm")
            assert turn["calls"] >= 1 and turn["nanoseconds"] > 0
            assert process.ask(do="check", engine="numlstm") == {}
        assert process.process.returncode == 0

    def test_what_an_engine_prints_is_no_answer(self):
        code = (
            "import os, sys, numlstm.bench.worker as w; sys.argv = ['worker', '1'];"
            "w.Host.do_shout = lambda self: (print('one'), os.system('echo two'), {})[2]; w.main()"
        )
        command, request = [sys.executable, "-c", code], '{"do": "shout"}\n'
        done = subprocess.run(command, input=request, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == "{}\n"
        assert sorted(done.stderr.split()) == ["one", "two"]

    def test_a_failed_request_and_a_dead_process_are_errors(self):
        with measure.Worker("torch", 1) as process:
            with pytest.raises(measure.BenchError, match="the process of torch failed at the request 'turn': KeyError"):
                process.ask(do="turn", engine="torch")
            process.process.kill()
            with pytest.raises(measure.BenchError, match="the process of torch ended with code"):
                process.ask(do="turn", engine="torch")


def result_of(**microseconds):
    """A result with these microseconds a round, one round after the other, and round limits."""
    result = Result(TINY, 1, "fresh", {name: Entry("s", 1e-8) for name in microseconds})
    for name, values in microseconds.items():
        result.turns += [Turn(at, name, 10, round(value * 10_000)) for at, value in enumerate(values)]
    names = ["fma_float32_512", "fma_float32_256", "fma_float64_512", "read_L1", "read_L2", "read_L3", "read_memory"]
    result.limits = [dict(zip(names, [v, v / 2, v / 2, 400.0, 100.0, 50.0, 20.0], strict=True)) for v in (90, 100, 300)]
    return result


class TestFigures:
    def test_ratios(self):
        result = result_of(numlstm=[1, 2, 4], torch=[30, 20, 10], onnxruntime=[3, 8, 10])
        assert result.best_baseline() == "onnxruntime"
        assert result.median("torch") == 20
        assert result.speed_up("torch") == (10, 10)  # of 30, 10, 2.5
        assert result.speed_up("onnxruntime") == (3, 4)  # of 3, 4, 2.5; 8 / 2
        assert result.microseconds("numlstm").tolist() == [1, 2, 4]

    def test_rounds_are_matched_by_number(self):
        result = result_of(numlstm=[1, 2, 4], torch=[30, 20, 10])
        result.turns.reverse()
        assert result.microseconds("torch").tolist() == [30, 20, 10]

    def test_rate_and_peak(self):
        result = result_of(numlstm=[2, 2, 2])
        assert result.rate("numlstm") == pytest.approx(2 * TINY.fmas / 2e-6 / 1e9)
        assert result.peak() == 100
        assert result.widths("float32") == [512, 256]

    @pytest.mark.parametrize(
        ("workload", "name", "microseconds"),
        [
            # 64 units, 8 MFMA over 1000 steps: 2 x 8.192e9 / 100e9 beats 64 KiB a step from L2
            (Workload("compute", 64, 64, 1, 1, 1000, 250), "FMA peak", 2e-3 * 8_192_000_000 / 100),
            # one row: every step reads 4 x 512 x 512 x 4 bytes from L3, in two layers
            (Workload("recurrent", 8, 512, 2, 1, 100, 1), "L3", 1e-3 * 4 * 512 * 512 * 4 * 2 * 100 / 50),
            # one step: all weights once, from memory
            (Workload("step", 1024, 1024, 2, 1, 1, 1), "memory", 1e-3 * 4 * 1024 * 2048 * 2 * 4 / 20),
        ],
    )
    def test_what_limits_a_workload(self, workload, name, microseconds):
        result = replace(result_of(numlstm=[1, 1, 1]), workload=workload)
        assert result.bound({"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}) == (name, pytest.approx(microseconds))

    def test_json_round_trip(self):
        result = result_of(numlstm=[1, 2, 4], torch=[30, 20, 10])
        result.entries["openvino"] = Entry(left_out="not here")
        result.turns.append(Turn(0, "machine", 1, 5, idle=False))
        report = Report(machine.facts(), "2026-01-01T00:00:00+00:00", 3, [result])
        again = Report.from_json(report.to_json())
        assert again == report
        assert table.text(again) == table.text(report)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "numlstm-bench", "version": 99}', '{"format": "x"}'])
    def test_another_file_is_refused(self, text):
        with pytest.raises(ValueError, match="not a file of results"):
            Report.from_json(text)


class TestTable:
    def report(self):
        first = result_of(numlstm=[1, 2, 4], torch=[30, 20, 10], onnxruntime=[3, 8, 10])
        second = result_of(numlstm=[2, 2, 2], torch=[1, 1, 1])
        second.entries |= {"onnxruntime": Entry(left_out="wrong result: c_n"), "torch": Entry("another", 0)}
        second.turns.append(Turn(3, "torch", 10, 10_000, idle=False))
        second.turns.append(Turn(3, "numlstm", 10, 20_000))
        second.workload = replace(TINY, name="second")
        return Report(machine.facts(), "2026-01-01T00:00:00+00:00", 3, [first, second])

    def test_rows(self):
        rows = [line for line in table.text(self.report()).splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1
        assert len({len(row) for row in rows}) == 1
        cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
        assert cells[0][:5] == ["workload", "numlstm", "torch", "onnxruntime", "fastest baseline"]
        assert cells[2][:7] == ["tiny", "2.00 (1.00)", "20.0 (10.0)", "8.00 (3.00)", "onnxruntime", "3.00", "4.00"]
        assert cells[3][:7] == ["second", "2.00 (2.00)", "1.00 (1.00)", "left out", "torch", "0.50", "0.50"]

    def test_reasons_settings_and_unrest_are_told(self):
        text = table.text(self.report())
        assert "- onnxruntime: s (tiny); left out (second): wrong result: c_n" in text
        assert "- torch: s (tiny); another (second); still used the CPU a second after its turn (second)" in text
        assert "Geometric mean of the speed-ups over 2 workloads: 1.22." in text  # sqrt(3 x 0.5)

    def test_heading_names_machine_date_versions(self):
        text = table.text(self.report())
        for fact in (machine.cpu_name(), "2026-01-01", f"numpy {np.__version__}", "3 rounds", "1 thread."):
            assert fact in text

    def test_without_baselines_and_without_numlstm(self):
        alone = result_of(numlstm=[1, 2, 4])
        (row,) = (
            line for line in table.table([alone], machine.cache_sizes()).splitlines() if line.startswith("| tiny")
        )
        assert [cell.strip() for cell in row.strip("|").split("|")][2:5] == ["-", "-", "-"]
        others = result_of(torch=[1, 2, 4])
        assert "numlstm" not in table.table([others], machine.cache_sizes())


def loops(assembly):
    """Basic blocks of a listing that jump back to their own label, by label."""
    blocks = re.split(r"^(\.L\w+):", assembly, flags=re.MULTILINE)
    return {
        label: body
        for label, body in zip(blocks[1::2], blocks[2::2], strict=True)
        if re.search(rf"^\s+(j\w+|b\S*|cbnz\s.*,|tbnz\s.*,)\s+{re.escape(label)}\s*$", body, re.MULTILINE)
    }


def fma_lines(text):
    return re.findall(r"^\s+(?:vfn?madd\w+|fmla)\s.*$", text, re.MULTILINE)


def check_peak_loop(kernel, chains, width):
    """The widest loop is nothing but FMAs from register to register, all chains of it."""
    name, body = max(loops(kernel.assembly).items(), key=lambda item: len(fma_lines(item[1])))
    fmas = fma_lines(body)
    assert fmas and len(fmas) % chains == 0, f"{name} holds {len(fmas)} FMAs for {chains} chains"
    assert not re.search(r"\(%|\[sp|\[x", body), f"{name} touches memory"
    register = {64: "%zmm", 32: "%ymm", 16: "v"}[width]
    assert all(register in line for line in fmas)


class TestLimits:
    def test_the_peak_s_loop_never_leaves_its_registers(self):
        widths, count, fused = probes.registers()
        if not fused:
            leave_out("this CPU has no fused multiply-add to look for")
        chains = 24 if count >= 32 else 12
        for dtype in ("float32", "float64"):
            for width in widths:
                kernel = probes.fma_kernel(dtype, width // np.dtype(dtype).itemsize, chains, fused)
                check_peak_loop(kernel, chains, width)
        with pytest.raises(AssertionError, match="touches memory"):  # the planted fault: more chains than registers
            check_peak_loop(probes.fma_kernel("float32", widths[0] // 4, 2 * count, fused), 2 * count, widths[0])

    def test_the_registers_are_those_of_the_kernels(self):
        widths, count, fused = probes.registers()
        assert (widths[0], count, fused) == (
            registry.level().register_bytes,
            registry.level().registers,
            registry.level().fused,
        )
        assert widths == ([64, 32] if registry.level().name == "x86-64-v4" else widths[:1])

    @pytest.mark.parametrize("level", levels.supported(), ids=lambda level: level.name)
    def test_every_fma_and_every_byte_counts(self, level, monkeypatch):
        """What the kernels compute, so that no pass can have been left out."""
        monkeypatch.setattr(registry, "level", lambda: level)
        measured = limits.Limits(1, seconds=1e-5, caches={"L1": 1 << 14, "L2": 1 << 15, "L3": 1 << 16})
        for name, probe in measured.probes.items():
            probe.plans[0][0] = 3
            probe.run(0)
            numbers, result = probe.data[0], probe.results[0]
            if name.startswith("read"):
                assert result.nbytes == level.register_bytes
                assert result.sum(dtype=np.float64) == 3 * numbers.size
                assert probe.worth == numbers.nbytes
            else:
                assert name.endswith(f"_{result.nbytes * 8}")
                starts = numbers[2 * result.size :].reshape(-1, result.size).astype(np.float64)
                for _ in range(3):
                    starts = starts * 0.5 + 0.5
                np.testing.assert_allclose(result, starts.sum(0), rtol=1e-5)
                assert probe.worth == 2 * starts.size

    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_sample(self, threads):
        measured = limits.Limits(threads, seconds=1e-5, caches={"L1": 1 << 14, "L2": 1 << 15, "L3": 1 << 16})
        sample = measured.sample()
        widths, _, _ = probes.registers()
        assert set(sample) == {
            *(f"fma_{dtype}_{width * 8}" for dtype in ("float32", "float64") for width in widths),
            *(f"read_{level}" for level in ("L1", "L2", "L3", "memory")),
        }
        assert all(np.isfinite(value) and value > 0 for value in sample.values())
        for probe in measured.probes.values():
            assert len(probe.data) == threads
            assert all(data.ctypes.data % 64 == 0 for data in probe.data)

    def test_caches_grow(self):
        sizes = machine.cache_sizes()
        assert list(sizes) == ["L1", "L2", "L3"]
        assert 0 < sizes["L1"] <= sizes["L2"] <= sizes["L3"]


class TestMemory:
    ROOM = 40 << 20

    def call(self, scratch=None, size=1 << 20):
        output = np.ones(size, np.float32)
        if scratch is not None:
            scratch(self.ROOM)
        return output, (output[:4].copy(), output[:4].copy())

    def test_results_do_not_count(self):
        assert memory.extra_bytes(self.call) < 2 << 20

    def test_scratch_of_numpy_is_seen(self):
        extra = memory.extra_bytes(lambda: self.call(np.ones))  # 8 bytes each
        assert 8 * self.ROOM <= extra < 8.5 * self.ROOM

    def test_scratch_that_tracemalloc_cannot_see_is_seen(self):
        if not memory.sees_pages():
            leave_out("this system does not tell the high-water mark of resident memory")
        import mmap

        def scratch(size):
            with mmap.mmap(-1, size) as pages:
                for at in range(0, size, mmap.PAGESIZE):
                    pages[at] = 1

        # results are subtracted, also where they come to lie in pages that were free and resident: so they are few here
        assert self.ROOM * 0.95 <= memory.extra_bytes(lambda: self.call(scratch, 1 << 16)) < self.ROOM * 1.2

    def test_the_promise(self):
        assert memory.promised_bytes(Config(64, 64), 1000, 32, 4) == memory.WORKSPACE == 16 << 20
        both = memory.promised_bytes(Config(64, 64, 2, bidirectional=True), 1000, 32, 8)
        assert both == memory.WORKSPACE + 2 * 1000 * 32 * 64 * 8


class TestAsv:
    """The benchmarks run, so that nobody finds them broken when two commits are to be compared."""

    def test_forward(self):
        forward = benchmark("forward")
        names, threads = forward.Forward.params
        assert names == [workload.name for workload in GRID]
        timed = forward.Forward()
        timed.setup("seed", threads[0])
        timed.time_call("seed", threads[0])
        timed.time_call_with_out("seed", threads[0])

    def test_quick_shortens_the_heavy_lines_only(self, monkeypatch):
        monkeypatch.setenv("NUMLSTM_BENCH_QUICK", "1")
        quick = benchmark("forward").WORKLOADS
        assert quick["lm"].sequence_length < grid.find("lm").sequence_length
        assert quick["seed"] == grid.find("seed")

    def test_machine(self):
        module = benchmark("forward")
        scale = module.Machine()
        found = scale.setup_cache()
        assert list(found) == scale.params[0] == module.THREADS
        tracks = [name for name in dir(scale) if name.startswith("track_")]
        assert len(tracks) == 5
        for name in tracks:
            for threads, best in found.items():
                assert getattr(scale, name)(found, threads) in best.values()
                assert getattr(scale, name)(found, threads) > 0
            assert getattr(scale, name).unit in ("GF/s", "GB/s")

    @pytest.mark.slow
    def test_memory_keeps_its_promise(self, monkeypatch):
        monkeypatch.setenv("NUMLSTM_BENCH_QUICK", "1")
        module = benchmark("memory")
        models, shapes, dtypes = module.Extra.params
        found = {}
        for model in models:
            for dtype in dtypes:
                extra = module.Extra()
                extra.setup(model, shapes[-1], dtype)
                assert extra.track_part_of_promise(model, shapes[-1], dtype) <= 1, (model, dtype, extra.extra)
                found[model, dtype] = extra.track_extra(model, shapes[-1], dtype)
        assert found["three layers", "float32"] > found["one layer", "float32"]  # the sequence between layers is seen
        resident = module.Resident()
        resident.setup_cache()
        resident.setup(models[0], shapes[0])
        resident.peakmem_baseline(models[0], shapes[0])
        resident.peakmem_call(models[0], shapes[0])


def test_a_stream_without_baselines_is_compared_with_none(monkeypatch):
    monkeypatch.setattr(streaming, "WORKLOADS", {"small": Workload("small", 3, 5, 1, 1, 1, 1)})
    monkeypatch.setattr(streaming, "loop_over_kernel", lambda *arguments: 1.0)  # compiled by Numba, in seconds
    told = []
    text = streaming.text([], quick=True, progress=told.append)
    assert all(way in text for way in (streaming.STEP, streaming.CALL, streaming.FORWARD))
    assert "nan" not in text
    assert "baseline" not in text
    assert [workload.split(": ")[-1] for workload in told[:4]] == [
        "small, 3 rounds in turns",
        *streaming.ways(streaming.WORKLOADS["small"]),
    ]
    assert len(told) == len(set(told)) == 4 + len(streaming.FADING) + 1
