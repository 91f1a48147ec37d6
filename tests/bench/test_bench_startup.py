"""Figures of cold processes: of the right processes, checked, and in a table."""

import numpy as np
import pytest
from click.testing import CliRunner
from needs import need
from scripts import benchmark

from numlstm.bench import startup
from numlstm.bench.engines import LeftOutError
from numlstm.bench.startup import Start, Startup
from numlstm.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.cpu_level]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two rounds of numlstm and onnxruntime."""
    need("onnx")
    need("onnxruntime")
    return startup.measure(tmp_path_factory.mktemp("startup"), ["numlstm", "onnxruntime"], 2)


def test_every_engine_s_processes_are_measured_in_full(found):
    assert found.left_out == {}
    assert found.kernels.startswith("prebuilt")
    for starts in found.starts.values():
        assert len(starts) == 2
        for one in starts:
            assert 0 < one.imported < one.first_result
            assert 10e6 < one.peak < 10e9
    assert found.installed["numlstm"] > 1e6


def test_the_table(found):
    said = startup.text(found)
    for engine in ("numlstm", "onnxruntime"):
        assert f"| {engine} " in said
    assert "medians of 2 interleaved rounds" in said
    assert "without them numlstm takes" in said


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_the_other_baselines_programs_give_the_right_result(engine, tmp_path):
    need(engine)
    need("onnx")
    other = startup.measure(tmp_path, [engine], 1)
    assert other.left_out == {} and len(other.starts[engine]) == 1


def test_time_memory_and_results_are_those_of_the_program(tmp_path, monkeypatch):
    """Planted: one that sleeps, one that takes memory, one that is wrong, one that fails."""
    programs = {
        "plain": "imported(); output = x",
        "slow": "imported(); time.sleep(0.5); output = x",
        "slow to import": "time.sleep(0.5); imported(); output = x",
        "large": "imported(); large = b'1' * 300_000_000; output = x",
    }
    monkeypatch.setattr(startup, "PROGRAMS", {**programs, "broken": "raise KeyError('planted')"})
    plain, slow, import_slow, large = (startup.start(name, tmp_path, {}) for name in programs)
    assert slow.first_result - slow.imported > 0.5 > plain.first_result - plain.imported
    assert import_slow.imported > 0.5
    assert large.peak - plain.peak > 280e6
    with pytest.raises(LeftOutError, match="planted"):
        startup.start("broken", tmp_path, {})
    x = np.sin(np.arange(startup.STEPS * startup.WORKLOAD.input_size, dtype=np.float32)).reshape(startup.STEPS, 1, -1)
    startup._check("plain", tmp_path, {}, x)
    with pytest.raises(LeftOutError, match="wrong result: output differs"):
        startup._check("plain", tmp_path, {}, x + 1e-3)
    with pytest.raises(LeftOutError, match="wrong result: output has the shape"):
        startup._check("plain", tmp_path, {}, x[1:])


def test_what_memory_the_caller_has_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "PROGRAMS", {"plain": "imported(); output = x"})
    before = startup.start("plain", tmp_path, {}).peak
    mine = np.ones(400_000_000, np.uint8)
    assert startup.start("plain", tmp_path, {}).peak < before + 50e6
    assert mine.size


def test_an_engine_that_is_not_installed_is_left_out_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(startup.PROGRAMS, "nowhere", "")
    monkeypatch.setattr(startup, "_environment", lambda folder, found: {})
    monkeypatch.setattr(startup, "_models", lambda folder, found, engines: None)
    assert startup.measure(tmp_path, ["nowhere"], 1).left_out == {
        "nowhere": "nowhere is not installed (pip install nowhere)"
    }


def test_installed_bytes_count_what_is_required():
    slim = startup.installed_bytes(["numlstm"], without=startup.OPTIONAL)
    assert startup.installed_bytes(["numlstm"]) > slim + startup.installed_bytes(["llvmlite"]) > slim
    assert startup.installed_bytes(["numlstm", "numpy"]) == startup.installed_bytes(["numlstm"])
    assert startup.installed_bytes(["no-such-package"]) == 0


class TestCommand:
    def test_it_prints_the_table(self, monkeypatch):
        asked = []

        def measure(folder, engines, rounds, progress):
            asked.append((engines, rounds))
            assert folder.is_dir()
            return Startup({"numlstm": [Start(0.1, 0.2, 30_000_000)]}, {"numlstm": 1}, {"torch": "it is not there"})

        monkeypatch.setattr(startup, "measure", measure)
        result = CliRunner().invoke(main, ["bench", "startup", "--quick", "--baselines", "torch"])
        assert result.exit_code == 0, result.output
        assert asked == [(["numlstm", "torch"], 3)]
        assert "| numlstm |          100 |              200 |" in result.output
        assert "torch left out: it is not there" in result.output

    def test_a_wrong_result_fails_it(self, monkeypatch):
        monkeypatch.setattr(startup, "measure", lambda *given: Startup(left_out={"torch": "wrong result: planted"}))
        result = CliRunner().invoke(main, ["bench", "startup"])
        assert result.exit_code == 1 and "torch: wrong result: planted" in result.output

    @pytest.mark.parametrize("other", [["--scaling"], ["--workload", "seed"], ["--threads", "1"], ["--save", "a.json"]])
    def test_it_has_options_of_its_own(self, other):
        result = CliRunner().invoke(main, ["bench", "startup", *other])
        assert result.exit_code == 2 and f"No such option '{other[0]}'" in result.output


def test_the_benchmark_for_asv(monkeypatch, tmp_path):
    module = benchmark("startup")
    starts = {"numlstm": [Start(0.1, 0.2, 3), Start(0.3, 0.4, 5), Start(0.2, 0.9, 4)]}
    left_out = {"torch": "it is not there", "openvino": "wrong result: planted"}
    monkeypatch.setattr(startup, "measure", lambda *given: Startup(starts, {"numlstm": 7}, left_out))
    monkeypatch.chdir(tmp_path)
    timed = module.Startup()
    found = timed.setup_cache()
    timed.setup(found, "numlstm")
    assert timed.track_import(found, "numlstm") == 0.2
    assert timed.track_first_result(found, "numlstm") == 0.4
    assert timed.track_peak_memory(found, "numlstm") == 4
    assert timed.track_installed(found, "numlstm") == 7
    with pytest.raises(NotImplementedError, match="not there"):
        timed.setup(found, "torch")
    with pytest.raises(ValueError, match="planted"):
        timed.setup(found, "openvino")
    assert set(module.ENGINES) == {"numlstm", "torch", "onnxruntime", "openvino"}
