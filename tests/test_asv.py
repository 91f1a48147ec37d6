"""The benchmarks for asv of call overhead and of growth with the sizes: they run, and notice what they are for."""

import importlib.util
import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from needs import leave_out

from numlstm.bench import callers, clock, grid, memory, overhead, packed, scaling
from numlstm.kernels import store

ROOT = Path(__file__).parents[1]


def benchmark(name):
    """A module of ``benchmarks/``, which is no package of this project."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cases(timed):
    """Every combination of parameters, as asv makes them."""
    params = timed.params if isinstance(timed.params[0], list | tuple) else (timed.params,)
    assert len(params) == len(timed.param_names)
    return list(itertools.product(*params))


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
        for line, way in cases(module.Call):
            timed = module.Call()
            timed.setup(line, way)
            timed.time_call(line, way)
        assert list(overhead.ways(overhead.LINES["seed"])) == module.WAYS

    @pytest.mark.parametrize("name", overhead.LINES)
    def test_all_ways_make_the_same_call(self, name):
        line = overhead.LINES[name]
        found = {way: call() for way, call in overhead.ways(line).items()}
        (output, (h_n, c_n)) = found["with states"]
        for way in ("with out=", "unbatched", "batch first"):
            got, (h, c) = found[way]
            np.testing.assert_array_equal(got.reshape(output.shape), output)
            np.testing.assert_array_equal(h.reshape(h_n.shape), h_n)
            np.testing.assert_array_equal(c.reshape(c_n.shape), c_n)
        assert not np.array_equal(found["without states"][0], output)
        assert found["unbatched"][0].ndim == 2

    @pytest.mark.parametrize("name", overhead.LINES)
    def test_the_kernel_alone_computes_the_results(self, name):
        line = overhead.LINES[name]
        lstm, inputs = overhead.model(line), line.inputs()
        x, h_0, c_0 = inputs
        _, arrays = (run := overhead.kernel_alone(lstm, x, h_0, c_0))()
        output, (h_n, c_n) = lstm(x, (h_0, c_0))
        for array in arrays[3:6]:
            array[...] = -7
        run()
        for got, wanted in zip(arrays[3:6], (output, h_n, c_n), strict=True):
            np.testing.assert_array_equal(got, wanted)

    def test_time_outside_the_kernel_is_counted_and_time_within_is_not(self, monkeypatch):
        """With planted times: a call of 12 us, of which the kernel takes 5."""
        store.kernel("float32")
        monkeypatch.setattr(overhead, "microseconds", lambda call: 5.0 if call.__name__ == "run" else 12.0)
        assert overhead.outside(overhead.LINES["seed"]) == 7

    def test_track(self):
        module = benchmark("overhead")
        assert cases(module.Outside) == [(name,) for name in overhead.LINES]
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
    assert memory.high_water_above(lambda: resident.peakmem_ten_calls(*case)) < 1.5 * one + (1 << 20)
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
        line = grid.Line.parse("3,4,1,1,2,1")
        asked = []

        class Counting:
            def __call__(self, x, states):
                asked.append(threading.get_ident())
                time.sleep(0.002)

        rate = callers.throughput(Counting(), line, 3, 0.1)
        assert len(set(asked)) == 3
        assert 0 < rate * 0.1 <= len(asked) - 3  # the first call of each is not counted

    def test_callers_that_wait_for_each_other_are_seen(self):
        """With a lock around the call eight do no more than one; without one they sleep side by side."""
        line = grid.Line.parse("3,4,1,1,2,1")
        one_at_a_time = threading.Lock()

        def locked(x, states):
            with one_at_a_time:
                time.sleep(0.005)

        def free(x, states):
            time.sleep(0.005)

        slow, fast = (
            callers.throughput(call, line, 8, 0.2) / callers.throughput(call, line, 1, 0.2) for call in (locked, free)
        )
        assert slow < 1.5
        assert fast > 2

    def test_the_benchmark_runs(self, monkeypatch):
        monkeypatch.setattr(benchmark_callers := benchmark("callers"), "QUICK", True)
        assert benchmark_callers.Callers().track_eight_over_one("vad_step") > 0


class TestPacked:
    def test_cost_is_what_the_clock_says(self, monkeypatch):
        """Work for the steps alone costs 1, and work for the padding too, which is the planted fault, about 2."""
        line = grid.Line("", 1, 1, 1, 1, 100, 11)
        assert packed.lengths_of(line).sum() == 555

        def timed(call):
            return call()

        monkeypatch.setattr(packed, "microseconds", timed)
        for steps, cost in ((555, 1), (1100, 1100 / 555)):
            monkeypatch.setattr(packed, "calls", lambda line, steps=steps: (lambda: 50 * 11, {"any": lambda: steps}))
            assert packed.cost(line, "any") == pytest.approx(cost)

    def test_every_way_computes_the_same(self):
        line = grid.Line("", 3, 4, 2, 2, 30, 7)
        whole, ways = packed.calls(line)
        lengths = packed.lengths_of(line)
        assert lengths.tolist() == sorted(lengths, reverse=True) and lengths[0] == 30 and lengths[-1] == 1
        assert tuple(ways) == packed.WAYS
        rows = round(lengths.sum() / 7) * 7
        assert abs(rows - lengths.sum()) <= 3
        assert whole()[0].shape == (rows // 7, 7, 8)
        (first, states), (padded, padded_states) = ways["packed"](), ways["lengths=, by length"]()
        assert np.array_equal(first.data[0], padded[0, 0]) and np.array_equal(states[0], padded_states[0])
        assert (padded[1:, -1] == 0).all() and (ways["padded to the longest"]()[0][1:, -1] != 0).any()
        assert ways["lengths=, in any order"]()[0].shape == padded.shape

    def test_the_benchmark_runs(self, monkeypatch):
        monkeypatch.setattr(benchmark_packed := benchmark("packed"), "QUICK", True)
        for case in cases(benchmark_packed.Packed):
            assert benchmark_packed.Packed().track_cost(*case) > 0
