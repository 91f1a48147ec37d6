"""The benchmarks for asv: they run, and notice growing overhead and growing cost."""

import itertools
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from needs import leave_out, need
from scripts import benchmark

from numlstm import cli
from numlstm.bench import engines, grid, scaling, streaming
from numlstm.bench.costs import callers, memory, overhead, packed, sessions
from numlstm.bench.hardware import clock
from numlstm.kernels.loading import registry
from numlstm.runtime.threads import get_num_threads
from numlstm.sequences.pool import Pool

pytestmark = pytest.mark.cpu_level

ROOT = Path(__file__).parents[2]


def cases(timed):
    """Every combination of parameters, as asv makes them."""
    params = timed.params if isinstance(timed.params[0], list | tuple) else (timed.params,)
    assert len(params) == len(timed.param_names)
    return list(itertools.product(*params))


def test_asv_builds_for_this_machine_alone():
    """By the Python that runs it, and the kernels of one level."""
    need("asv")
    from asv.config import Config
    from asv.util import interpolate_command

    config = Config.load(str(ROOT / "asv.conf.json"))
    assert config.pythons == [f"{sys.version_info[0]}.{sys.version_info[1]}"]
    (build,) = config.build_command
    _, environment, _, _ = interpolate_command(build, {"build_cache_dir": "cache", "build_dir": "."})
    assert environment == {"NUMLSTM_BUILD_LEVELS": "native"}


class TestClock:
    @pytest.fixture
    def clock_of_its_own(self, monkeypatch):
        """Time that passes only where a call says so."""
        now = [0]
        monkeypatch.setattr(clock.time, "perf_counter_ns", lambda: now[0])
        return now

    def test_the_fastest_of_the_tries(self, clock_of_its_own):
        durations = iter([9000, 5000, 5000, 7000, 4000, *[6000] * 20])  # nanoseconds; the first is not timed

        def call():
            clock_of_its_own[0] += next(durations)

        assert clock.microseconds(call, seconds=0) == 4

    def test_short_calls_are_timed_together(self, clock_of_its_own):
        calls = []

        def call():
            calls.append(1)
            clock_of_its_own[0] += 2000

        assert clock.microseconds(call, seconds=1e-3) == 2
        assert len(calls) == 2 + clock.TRIES * 500


class TestOverhead:
    def test_all_run(self):
        module = benchmark("overhead")
        for workload, way in cases(module.Call):
            timed = module.Call()
            timed.setup(workload, way)
            timed.time_call(workload, way)
        assert list(overhead.ways(overhead.WORKLOADS["seed"])) == module.WAYS

    @pytest.mark.parametrize("name", overhead.WORKLOADS)
    def test_all_ways_make_the_same_call(self, name):
        workload = overhead.WORKLOADS[name]
        found = {way: call() for way, call in overhead.ways(workload).items()}
        (output, (h_n, c_n)) = found["with states"]
        for way in ("with out=", "unbatched", "batch first"):
            got, (h, c) = found[way]
            np.testing.assert_array_equal(got.reshape(output.shape), output)
            np.testing.assert_array_equal(h.reshape(h_n.shape), h_n)
            np.testing.assert_array_equal(c.reshape(c_n.shape), c_n)
        assert not np.array_equal(found["without states"][0], output)
        assert found["unbatched"][0].ndim == 2

    @pytest.mark.parametrize("name", overhead.WORKLOADS)
    def test_the_kernel_alone_computes_the_results(self, name):
        workload = overhead.WORKLOADS[name]
        lstm, inputs = overhead.model(workload), workload.inputs()
        x, h_0, c_0 = inputs
        _, call = (run := overhead.kernel_alone(lstm, x, h_0, c_0))()
        output, (h_n, c_n) = lstm(x, (h_0, c_0))
        computed = call.output, call.h_n, call.c_n
        for array in computed:
            array[...] = -7
        run()
        for got, wanted in zip(computed, (output, h_n, c_n), strict=True):
            np.testing.assert_array_equal(got, wanted)

    def test_time_outside_the_kernel_is_counted_and_time_within_is_not(self, monkeypatch):
        """With planted times: a call of 12 us, of which the kernel takes 5."""
        registry.kernel("float32")
        monkeypatch.setattr(overhead, "microseconds", lambda call: 5.0 if call.__name__ == "run" else 12.0)
        assert overhead.outside(overhead.WORKLOADS["seed"]) == 7

    def test_track(self):
        module = benchmark("overhead")
        assert cases(module.Outside) == [(name,) for name in overhead.WORKLOADS]
        assert np.isfinite(module.Outside().track_outside_kernel("seed"))
        assert module.Outside.track_outside_kernel.unit == "us"


class TestScaling:
    def test_every_size_runs(self, monkeypatch):
        monkeypatch.setenv("NUMLSTM_BENCH_QUICK", "1")
        module = benchmark("scaling")
        for (name,) in cases(module.Doubled):
            timed = module.Doubled()
            timed.setup(name)
            timed.time_call(name)
        assert {name.split("=")[0] for (name,) in cases(module.Doubled)} == {"B", "T", "H"}

    @pytest.mark.parametrize("power", [1, 2])
    def test_growth_is_what_the_clock_says(self, monkeypatch, power):
        """A call whose time grows with the square of the batch is seen as such."""
        module = benchmark("scaling")
        monkeypatch.setattr(module, "call", lambda name: lambda: float(name.split("=")[1]))
        monkeypatch.setattr(module.clock, "microseconds", lambda call: 3 * call() ** power)
        for (axis,) in cases(module.Growth):
            assert module.Growth().track_exponent(axis) == pytest.approx(power)
        assert (module.Growth().track_exponent("B") <= scaling.AT_MOST["B"] + 0.15) == (power == 1)

    def test_a_real_clock(self, monkeypatch):
        module = benchmark("scaling")
        monkeypatch.setattr(module, "call", lambda name: lambda: time.sleep(1e-5 * float(name.split("=")[1])))
        assert np.isfinite(module.Growth().track_exponent("B"))


@pytest.mark.slow
def test_memory_does_not_grow_with_calls(monkeypatch):
    """Ten calls, and ten that keep their results, which is the planted fault."""
    monkeypatch.setenv("NUMLSTM_BENCH_QUICK", "1")
    module = benchmark("memory")
    if not memory.sees_pages():
        leave_out("this system does not tell the high-water mark of resident memory")
    case = cases(module.Resident)[1]
    resident = module.Resident()
    resident.setup(*case)
    one = memory.high_water_above(lambda: resident.peakmem_call(*case))
    # two results at most: malloc may put the second beside the free place of the first, for it has split that
    assert memory.high_water_above(lambda: resident.peakmem_ten_calls(*case)) < 2.5 * one + (1 << 20)
    lstm, kept = resident.lstm, []
    resident.lstm = lambda x: kept.append(lstm(x))
    assert memory.high_water_above(lambda: resident.peakmem_ten_calls(*case)) > 5 * one


def test_forward_and_the_machine_have_both_numbers_of_threads():
    module = benchmark("forward")
    assert module.Forward.params[1] == [1, 2]
    assert cases(module.Machine) == [(1,), (2,)]
    timed = module.Forward()
    timed.setup("seed", 2)
    timed.time_call("seed", 2)


class TestCallers:
    def test_calls_are_counted_and_all_of_them_are_right(self):
        workload = grid.Workload.parse("3,4,1,1,2,1")
        asked = []

        class Counting:
            def __call__(self, x, states):
                asked.append(threading.get_ident())
                time.sleep(0.002)

        rate = callers.throughput(Counting(), workload, 3, 0.1)
        assert len(set(asked)) == 3
        assert 0 < rate * 0.1 <= len(asked) - 3  # the first call of each is not counted

    def test_callers_that_wait_for_each_other_are_seen(self):
        """With a lock around the call eight do no more than one; without one they sleep side by side."""
        workload = grid.Workload.parse("3,4,1,1,2,1")
        one_at_a_time = threading.Lock()

        def locked(x, states):
            with one_at_a_time:
                time.sleep(0.02)

        def free(x, states):
            time.sleep(0.02)

        slow, fast = (
            callers.throughput(call, workload, 8, 0.4) / callers.throughput(call, workload, 1, 0.4)
            for call in (locked, free)
        )
        assert slow < 1.5
        assert fast > 2

    def test_the_benchmark_runs(self, monkeypatch):
        monkeypatch.setattr(benchmark_callers := benchmark("callers"), "QUICK", True)
        assert benchmark_callers.Callers().track_eight_over_one("vad_step") > 0


class TestStreaming:
    workload = grid.Workload.parse("2,3,1,1,1,1")

    @pytest.mark.slow
    def test_all_run(self, monkeypatch):
        monkeypatch.setenv("NUMLSTM_BENCH_QUICK", "1")
        module = benchmark("stream")
        for workload, way in cases(module.Step):
            timed = module.Step()
            timed.setup(workload, way)
            timed.time_step(workload, way)
            assert 0 < timed.track_median(workload, way) <= timed.track_max(workload, way)
            assert timed.track_p99(workload, way) > 0
        assert list(streaming.ways(streaming.WORKLOADS["amp_step"])) == module.WAYS
        need("numba")
        for (workload,) in cases(module.Loop):
            assert module.Loop().track_over_kernel(workload) > 0
        for workload, kept in cases(module.Silence):
            assert module.Silence().track_zeros(workload, kept) > 0
            assert module.Silence().track_slowest_tenth(workload, kept) > 0
        for tracked in (module.Step.track_p99, module.Silence.track_zeros, module.Loop.track_over_kernel):
            assert tracked.unit

    def test_baselines_take_turns_and_the_best_one_counts(self, monkeypatch):
        """With planted engines and a planted clock: the worse baseline does not count, and one is left out by name."""
        took = {"good": 50.0, "bad": 80.0}

        def engine(name):
            def make(task):
                if name == "absent":
                    raise engines.LeftOutError("absent is not installed")
                x, h_0, c_0 = task.inputs
                results = overhead.model(task.workload)(x, (h_0, c_0))
                call = lambda: results  # noqa: E731
                call.name = name
                return {"planted": engines.Setting(call)}

            return make

        names = ["good", "bad", "absent"]
        monkeypatch.setattr(streaming, "ENGINES", {name: engine(name) for name in names})
        monkeypatch.setattr(streaming, "BASELINES", tuple(names))
        monkeypatch.setattr(streaming, "_turn", lambda call, *_: took[call.name] if hasattr(call, "name") else 2.0)
        times = streaming.step_times(self.workload, names, rounds=3, seconds=0.001)
        assert times.baselines == ["good", "bad"] and times.left_out == {"absent": "absent is not installed"}
        assert [times.ratio(way) for way in (streaming.STEP, streaming.CALL)] == [25, 25]
        assert times.median("bad") == 80
        assert np.isnan(streaming.step_times(self.workload, (), rounds=1, seconds=0.001).ratio(streaming.STEP))

    def test_a_baseline_that_is_wrong_is_refused(self, monkeypatch):
        def make(task):
            results = [np.ones((1, 1, 3), np.float32)] * 3
            return {"planted": engines.Setting(lambda: results)}

        monkeypatch.setattr(streaming, "ENGINES", {"wrong": make})
        monkeypatch.setattr(streaming, "BASELINES", ("wrong",))
        times = streaming.step_times(self.workload, ("wrong",), rounds=1, seconds=0.001)
        assert times.baselines == [] and "differ" in times.left_out["wrong"]

    def test_track_of_baselines(self, monkeypatch):
        module = benchmark("stream")
        rounds = {way: [2.0] for way in module.WAYS}
        times = streaming.StepTimes("planted", rounds | {"torch": [50.0]}, {})
        monkeypatch.setattr(streaming, "step_times", lambda workload, **_: times)
        found = module.Baselines().setup_cache()
        assert {module.Baselines().track_times_faster(found, *case) for case in cases(module.Baselines)} == {25}

    def test_latency_is_of_every_step(self, monkeypatch):
        """99 steps of 3 us and one of 500, by a clock of the test's own."""
        now, count = [0], [0]
        monkeypatch.setattr(streaming.time, "perf_counter_ns", lambda: now[0])

        def step():
            count[0] += 1
            now[0] += 500_000 if count[0] == 1050 else 3000

        found = streaming.latency(step, 100)
        assert (found.median, found.most) == (3, 500) and 3 <= found.p99 < 500
        assert count[0] == 1100

    def test_slow_zeros_are_seen(self, monkeypatch):
        """A clock by which every second stream takes twice as long."""
        turns = itertools.cycle([100, 200])
        monkeypatch.setattr(streaming, "_block", lambda step: next(turns))
        assert streaming.silence(self.workload, 0.9, 5000) == (2, 2)

    def test_the_fading_lstm_fades_through_the_smallest_numbers(self):
        for keep in streaming.FADING:
            workload = grid.find("amp_step")
            stream = streaming.fading(workload, keep).stream()
            stream(np.full((200, 1, 1), 30, np.float32))
            stream(np.zeros((20, 1, 1), np.float32))
            before = np.abs(stream.state[1]).max()
            stream(np.zeros((200, 1, 1), np.float32))
            after = np.abs(stream.state[1]).max()
            assert abs((after / before) ** (1 / 200) - keep) < 0.3 * (1 - keep)
            stream(np.zeros((100_000, 1, 1), np.float32))
            assert not stream.state[0].any() and not stream.state[1].any()

    @pytest.mark.parametrize("way", ["step", "loop"])
    def test_wrong_results_are_not_timed(self, monkeypatch, way):
        need("numba")
        real = streaming.model

        def spoilt(workload):
            lstm = real(workload)
            make = type(lstm).stream

            class Other(type(lstm)):
                def stream(self, rows):
                    stream = make(self, rows)
                    self.bias_ih_l0 = np.ones(12)
                    return stream

            lstm.__class__ = Other
            return lstm

        monkeypatch.setattr(streaming, "model", spoilt)
        with pytest.raises(RuntimeError, match="give different results"):
            streaming.ways(self.workload) if way == "step" else streaming.loop_over_kernel(self.workload, 10, 1)

    def test_the_command(self, monkeypatch):
        need("numba")
        monkeypatch.setattr(streaming, "WORKLOADS", {"tiny": self.workload})
        done = CliRunner().invoke(cli.main, ["bench", "stream", "--quick", "--baselines", "none"])
        assert done.exit_code == 0, done.output
        assert "tiny (2,3,1,1,1,1)" in done.output and "stream.step()" in done.output and "p99" in done.output
        assert done.output.count("after a loud signal") == len(streaming.FADING)
        for wrong in (["--scaling"], ["--workload", "seed"], ["--rounds", "3"]):
            refused = CliRunner().invoke(cli.main, ["bench", "stream", *wrong])
            assert refused.exit_code == 2 and f"No such option '{wrong[0]}'" in refused.output


class TestSessions:
    def test_all_run(self, monkeypatch):
        monkeypatch.setenv("NUMLSTM_BENCH_QUICK", "1")
        module, before = benchmark("sessions"), get_num_threads()
        for way, threads in cases(module.Step):
            timed = module.Step()
            timed.setup(way, threads)
            assert get_num_threads() == threads
            timed.time_step(way, threads)
            timed.teardown(way, threads)
        assert get_num_threads() == before
        assert 0 < module.Step().track_of_peak("in order", 1) < 10
        assert module.Step().track_over_one_by_one("with gaps", 1) > 0

    @pytest.mark.parametrize("way", sessions.WAYS)
    def test_every_way_is_a_step_of_so_many_sessions(self, way, monkeypatch):
        """And each is the way that its name says: none copies more than it must."""
        copies = {"taken": 0, "ordered": 0}
        take, permuted = np.take, Pool._advance

        def advance(pool, slots, x):
            copies["ordered"] += not (slots[1:] > slots[:-1]).all()
            return permuted(pool, slots, x)

        monkeypatch.setattr(np, "take", lambda *a, **k: copies.update(taken=copies["taken"] + 1) or take(*a, **k))
        monkeypatch.setattr(Pool, "_advance", advance)
        outputs = sessions.steps(way, 20, grid.Workload.parse("3,4,1,1,1,1"))()
        assert len(outputs) == 20
        assert (copies["taken"] > 0) == (way == "with gaps")
        assert (copies["ordered"] > 0) == (way in ("with gaps", "in another order"))

    def test_streams_one_by_one_keep_their_states(self):
        step = sessions.one_by_one(3, grid.Workload.parse("3,4,1,1,1,1"))
        first, second = step(), step()
        assert len(first) == 3 and first[0].shape == (4,)
        assert not np.array_equal(first[0], second[0])

    def test_a_step_that_takes_twice_as_long_is_half_of_the_peak(self, monkeypatch):
        """With planted times and a planted peak."""
        workload, took = grid.Workload.parse("3,4,1,1,1,1"), iter([100.0, 200.0])
        monkeypatch.setattr(sessions, "microseconds", lambda call: next(took))
        monkeypatch.setattr(sessions.Limits, "sample", lambda limits: {"fma_float32_512": 1.0, "fma_float64_512": 9.0})
        whole, half = (sessions.of_peak("in order", 20, workload, rounds=1) for _ in range(2))
        assert whole == 2 * half == pytest.approx(2 * 20 * 4 * 4 * (3 + 4) / 100e3)
        monkeypatch.setattr(sessions, "microseconds", lambda call: 50.0 if type(call()) is list else 20.0)
        assert sessions.over_one_by_one("in order", 20, workload) == 2.5


class TestPacked:
    def test_cost_is_what_the_clock_says(self, monkeypatch):
        """Work for the steps alone costs 1, and work for the padding too, which is the planted fault, about 2."""
        workload = grid.Workload("", 1, 1, 1, 1, 100, 11)
        assert packed.lengths_of(workload).sum() == 555

        def timed(call):
            return call()

        monkeypatch.setattr(packed, "microseconds", timed)
        for steps, cost in ((555, 1), (1100, 1100 / 555)):
            monkeypatch.setattr(
                packed, "calls", lambda workload, steps=steps: (lambda: 50 * 11, {"any": lambda: steps})
            )
            assert packed.cost(workload, "any") == pytest.approx(cost)

    def test_every_way_computes_the_same(self):
        workload = grid.Workload("", 3, 4, 2, 2, 30, 7)
        whole, ways = packed.calls(workload)
        lengths = packed.lengths_of(workload)
        assert lengths.tolist() == sorted(lengths, reverse=True) and lengths[0] == 30 and lengths[-1] == 1
        assert tuple(ways) == packed.WAYS
        rows = round(lengths.sum() / 7) * 7
        assert abs(rows - lengths.sum()) <= 3
        assert whole()[0].shape == (rows // 7, 7, 8)
        (first, states), (padded, padded_states) = ways["packed"](), ways["lengths=, by length"]()
        assert np.array_equal(first.data[0], padded[0, 0]) and np.array_equal(states[0], padded_states[0])
        assert (padded[1:, -1] == 0).all() and (ways["padded to the longest"]()[0][1:, -1] != 0).any()
        assert ways["lengths=, in any order"]()[0].shape == padded.shape

    @pytest.mark.slow
    def test_the_benchmark_runs(self, monkeypatch):
        monkeypatch.setattr(benchmark_packed := benchmark("packed"), "QUICK", True)
        for case in cases(benchmark_packed.Packed):
            assert benchmark_packed.Packed().track_cost(*case) > 0
