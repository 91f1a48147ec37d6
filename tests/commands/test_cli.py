"""The command ``numlstm``: a light start, errors on one line, and a measurement from end to end."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import command_names, command_of, invoke, process
from needs import need

import numlstm
from numlstm import cli
from numlstm.bench import engines, grid, measure
from numlstm.bench.results import Entry, Report, Result


class TestStart:
    def test_help_in_a_process(self):
        done = process("--help")
        assert done.returncode == 0
        for command in ("demo", "bench", "info"):
            assert f"\n  {command} " in done.stdout
        assert done.stderr == ""

    @pytest.mark.parametrize("args", [["--help"], ["bench", "--help"], ["--version"]])
    def test_nothing_heavy_is_imported_for_help(self, args):
        code = (
            "import sys\nfrom numlstm.cli import main\n"
            f"main({args!r}, standalone_mode=False)\n"
            "print(sorted({'numba', 'llvmlite', 'torch', 'matplotlib', 'onnxruntime', 'openvino'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.splitlines()[-1] == "[]"

    def test_every_command_has_help(self):
        for words in command_names():
            result = invoke(*words, "--help")
            assert result.exit_code == 0
            assert len(result.output.splitlines()) > 3

    def test_the_list_of_commands_has_the_first_sentence_of_each(self):
        listed = cli.COMMANDS
        assert listed == {name: command_of(name).get_short_help_str(limit=200) for name in listed}
        modules = {path.stem for path in Path(cli.__file__).with_name("commands").glob("*.py")}
        assert modules - set(listed) == {"__init__", "disk_array", "messages", "options", "sequence_files"}

    def test_help_imports_no_command(self):
        code = (
            "import sys\nfrom numlstm.cli import main\nmain(['--help'], standalone_mode=False)\n"
            "print([name for name in sys.modules if name.startswith('numlstm.commands')])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.splitlines()[-1] == "[]"

    def test_version(self):
        result = invoke("--version")
        assert result.exit_code == 0
        assert result.output.startswith("numlstm ")


KERNELS = ("float32", "float64", "bfloat16", "int8", "float32-training", "float64-training")


class TestErrors:
    """One line after "Error:", exit code 2 for what was typed and 1 for what went wrong, never a traceback."""

    @pytest.mark.parametrize(
        ("args", "code", "words"),
        [
            (["bench", "--workload", "sead"], 2, "no workload is called 'sead'; there are seed, amp_step"),
            (["bench", "--sizes", "1,2"], 2, "sizes are '1,2'; they must be six whole numbers"),
            (["bench", "--sizes", "1,2,1,3,1,1"], 2, "directions of workload '1,2,1,3,1,1' is 3; it must be 1 or 2"),
            (["bench", "--baselines", "torch,tensorflow"], 2, "there is no baseline 'tensorflow'; there are torch"),
            (["bench", "--threads", "0"], 2, "0 is not in the range"),
            (["bench", "--rounds", "0"], 2, "0 is not in the range"),
            (["bench", "--workload", "seed", "--save", "nowhere/at/all.json"], 2, "there is no folder nowhere"),
            (["bench", "show", "absent.json"], 2, "does not exist"),
            (["nonsense"], 2, "No such command"),
        ],
    )
    def test_what_was_typed(self, args, code, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = invoke(*args)
        assert result.exit_code == code
        assert words in result.output
        assert "Traceback" not in result.output
        assert isinstance(result.exception, SystemExit)

    def test_a_file_that_is_something_else(self, tmp_path):
        other = tmp_path / "other.json"
        other.write_text('{"a": 1}')
        result = invoke("bench", "show", other)
        assert result.exit_code == 1
        assert result.output.startswith("Error: this is not a file of results")
        assert len(result.output.splitlines()) == 1

    @pytest.mark.parametrize(
        "error", [measure.BenchError("first\nsecond"), OSError(28, "No space left on device"), TypeError()]
    )
    def test_errors_of_the_library_are_one_line(self, monkeypatch, error):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(measure, "run", fail)
        result = invoke("bench", "--workload", "seed")
        assert result.exit_code == 1
        (line,) = result.output.splitlines()
        assert line.startswith("Error: ") and len(line) > len("Error: ")

    def test_numlstm_being_wrong_is_an_error_and_a_baseline_missing_is_not(self, monkeypatch):
        def report(**left_out):
            entries = {name: Entry(left_out=reason) for name, reason in left_out.items()}
            names = ["fma_float32_256", "fma_float64_256", "read_L1", "read_L2", "read_L3", "read_memory"]
            result = Result(grid.find("seed"), 1, "fresh", entries, [], [dict.fromkeys(names, 1.0)])
            facts = {
                "cpu": "c", "cpu_model": "", "cores": 1, "load": None, "caches": {"L1": 1}, "system": "s",
                "python": "3", "versions": {},
            }  # fmt: skip
            return lambda *_, **__: Report(facts, "today", 1, [result])

        monkeypatch.setattr(measure, "run", report(torch="torch is not installed (pip install torch)"))
        assert invoke("bench", "--workload", "seed").exit_code == 0
        monkeypatch.setattr(measure, "run", report(numlstm="wrong result: output differs"))
        result = invoke("bench", "--workload", "seed")
        assert result.exit_code == 1
        assert "Error: numlstm on seed at 1 thread: wrong result: output differs" in result.output


@pytest.mark.cpu_level
class TestBench:
    def test_what_is_asked_for_is_measured(self, monkeypatch):
        """Options on their way to `measure.run`."""
        asked = {}

        def run(workloads, engines, **options):
            asked.update(options, workloads=workloads, engines=engines)
            raise OSError("enough")

        monkeypatch.setattr(measure, "run", run)
        invoke("bench", "--workload", "voice", "--sizes", "1,4,1,2,3,5,2", "--threads", "1", "--threads", "2",
               "--baselines", "openvino,torch", "--rounds", "7", "--reuse", "--dtype", "float64")  # fmt: skip
        assert [(workload.name, workload.dtype) for workload in asked["workloads"]] == [
            ("voice", "float64"),
            ("1,4,1,2,3,5,2", "float64"),
        ]
        assert asked["engines"] == ["numlstm", "openvino", "torch"]
        assert (asked["threads"], asked["rounds"], asked["style"], asked["seconds"]) == ((1, 2), 7, "reuse", 0.02)
        invoke("bench")
        assert asked["workloads"] == list(grid.GRID)
        assert asked["engines"] == ["numlstm", *engines.BASELINES]
        assert (asked["threads"], asked["rounds"], asked["style"]) == ((1,), 15, "fresh")
        invoke("bench", "--quick", "--baselines", "none")
        assert asked["engines"] == ["numlstm"]
        assert (asked["rounds"], asked["seconds"]) == (3, 0.005)

    @pytest.mark.slow
    def test_end_to_end_without_baselines(self, tmp_path):
        """A real process, one round of one workload; the saved samples give the same table again."""
        saved = tmp_path / "results.json"
        done = process("bench", "--quick", "--workload", "seed", "--baselines", "none", "--save", saved)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # progress is for terminals
        (row,) = (line for line in done.stdout.splitlines() if line.startswith("| seed"))
        assert len(row.split("|")) == 10
        assert "FMA peak in GF/s: float32" in done.stdout
        data = json.loads(saved.read_text())
        (result,) = data["results"]
        order = [turn["engine"] for turn in result["turns"]]
        assert order == ["machine", "numlstm", "numlstm", "machine", "machine", "numlstm"]
        assert all(turn["nanoseconds"] > 0 for turn in result["turns"])
        assert 0 < result["entries"]["numlstm"]["max_error"] < 1e-6
        assert result["workload"]["name"] == "seed"
        again = process("bench", "show", saved)
        assert again.stdout == done.stdout

    @pytest.mark.slow
    @pytest.mark.parametrize("threads", [1, 2])
    def test_end_to_end_with_baselines(self, tmp_path, threads):
        for package in ("torch", "onnxruntime", "onnx", "openvino", "ai_edge_litert", "MNN"):
            need(package)
        saved = tmp_path / "results.json"
        done = process("bench", "--quick", "--workload", "seed", "--rounds", 2, "--threads", threads, "--save", saved)
        assert done.returncode == 0, done.stderr
        (row,) = (line for line in done.stdout.splitlines() if line.startswith("| seed"))
        assert "left out" not in done.stdout
        assert any(f" {baseline} " in row for baseline in engines.BASELINES)  # the best one
        (result,) = json.loads(saved.read_text())["results"]
        assert result["threads"] == threads
        order = [turn["engine"] for turn in result["turns"]]
        names = ["machine", "numlstm", *engines.BASELINES]
        assert order == [*names, *names[1:], names[0]]
        assert all(entry["max_error"] < 1e-5 and entry["setting"] for entry in result["entries"].values())


class TestInfo:
    def test_it_says_what_runs_here(self):
        result = invoke("info")
        assert result.exit_code == 0, result.output
        rows = {line[:16].strip(): line[17:] for line in result.output.splitlines()}
        assert list(rows) == [
            "versions", "Python", "CPU", "cores", "threads", "caches", "kernels for", "cache folder", "CUDA",
            "float32 kernels", "float64 kernels", "bfloat16 kernels", "int8 kernels",
        ]  # fmt: skip
        assert all(rows.values())
        assert f"numlstm {engines.package_version('numlstm')}" in rows["versions"]

    def test_without_a_home_it_says_so(self, monkeypatch):
        from numlstm.kernels.loading import cache

        def homeless():
            raise OSError("Could not determine home directory.")

        monkeypatch.setattr(cache, "cache_folder", homeless)
        result = invoke("info")
        assert result.exit_code == 0
        assert "cache folder     none: Could not determine home directory." in result.output


class TestWarmup:
    @pytest.mark.slow
    def test_a_second_process_finds_what_the_first_made(self, tmp_path):
        environment = {**os.environ, "NUMLSTM_CACHE_DIR": str(tmp_path / "cache")}
        first, second = (process("warmup", env=environment, timeout=900) for _ in range(2))
        assert first.returncode == second.returncode == 0, first.stderr
        for done, said in ((first, "compiled in this process, and cached: "), (second, "cache: ")):
            lines = done.stdout.splitlines()
            assert [line.split(" for ")[0] for line in lines] == [
                f"{name.replace('-', ' ')} kernels" for name in KERNELS
            ]
            assert all(said in line and str(tmp_path) in line for line in lines)

    @pytest.mark.slow
    def test_where_nothing_can_be_kept_a_sentence_says_so(self, tmp_path, monkeypatch):
        """A folder that others can write to; the kernels of this process take their place in the meantime."""
        from numlstm.kernels.loading import build, jit, registry

        (tmp_path / "cache").mkdir()
        (tmp_path / "cache").chmod(0o777)
        code = {name: jit.object_code(name, registry.level_of(name))[0] for name in KERNELS}
        monkeypatch.setenv("NUMLSTM_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.setattr(build, "object_code", lambda number, level: code[number])
        monkeypatch.setattr(registry, "_loaded", {})
        result = invoke("warmup")
        assert result.exit_code == 1
        assert f"nothing could be cached: others can write to {tmp_path / 'cache'}" in result.output
        assert "NUMLSTM_CACHE_DIR" in result.output
        assert list((tmp_path / "cache").iterdir()) == []

    def test_shipped_kernels_are_all_that_is_needed(self, monkeypatch):
        from numlstm.kernels.loading import registry

        monkeypatch.setattr(registry.prebuilt, "load", lambda number, level, begun: Shipped(level))
        monkeypatch.setattr(registry, "_loaded", {})
        result = invoke("warmup")
        assert result.exit_code == 0
        assert result.output.count(": shipped: /there") == 6


@pytest.mark.slow
class TestTelling:
    """A line on a terminal for work of many seconds; elsewhere the log alone tells of it."""

    FROM_CODE = (
        "import os, sys, types\n"
        "from numlstm.kernels.loading import jit, registry\n"
        f"code = {{number: jit.object_code(number, registry.level_of(number))[0] for number in {KERNELS}}}\n"
        "build = types.SimpleNamespace(object_code=lambda number, level: code[number])\n"
        "sys.modules['numlstm.kernels.loading.build'] = build\n"  # no test needs to wait for what is made here
        "os.environ['NUMLSTM_CACHE_DIR'] = sys.argv[1]\n"
    )
    WARMUP = FROM_CODE + "from numlstm import cli\ncli.main(['warmup'])"
    LIBRARY = FROM_CODE + (
        "import numlstm\n"
        "for dtype in ('float32', 'float64', 'float32'):\n"
        "    numlstm.LSTM(2, 3, dtype=dtype)([[0.0, 1.0]])\n"
    )
    EXPORT = (
        "import os, sys\n"
        "from numlstm import cli\n"
        "from numlstm.export import glue\n"
        "glue.kernel_object = glue.glue_object = lambda *_: b'code'\n"
        "os.environ['NUMLSTM_CACHE_DIR'] = sys.argv[1]\n"
        "cli.main(['export', sys.argv[2], '-o', sys.argv[3], '--target', 'aarch64-linux'])"
    )

    @staticmethod
    def compiling(once="once", names=("float32", "float64")):
        from numlstm.kernels.loading import registry

        return [
            f"numlstm: compiling the {name} kernels for {registry.level_of(name).name}, {once}; some 15 seconds"
            for name in names
        ]

    def shown(self, code, *args):
        """What stderr gets that is a terminal, as lines; and one that is none."""
        command = [sys.executable, "-c", code, *map(str, args)]
        ours, theirs = pty.openpty()
        try:
            subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, timeout=300, check=False)
            os.set_blocking(ours, False)
            try:
                lines = os.read(ours, 1 << 16).decode().splitlines()
            except BlockingIOError:
                lines = []
        finally:
            os.close(ours)
            os.close(theirs)
        return lines

    def elsewhere(self, code, *args):
        command = [sys.executable, "-c", code, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).stderr

    @pytest.mark.parametrize(("code", "names"), [(WARMUP, KERNELS), (LIBRARY, KERNELS[:2])], ids=["command", "library"])
    def test_kernels(self, tmp_path, code, names):
        assert self.shown(code, tmp_path / "cache") == self.compiling(names=names)
        assert self.shown(code, tmp_path / "cache") == []  # they are there
        assert self.elsewhere(code, tmp_path / "other") == ""

    @pytest.mark.parametrize(
        ("configured", "printed", "logged"),
        [
            ("logging.basicConfig(level=logging.INFO, format='%(message)s')", False, True),
            ("logging.getLogger('numlstm').addHandler(logging.NullHandler())", True, False),
            ("logging.basicConfig(level=logging.WARNING, format='%(message)s')", True, False),
            ("logging.basicConfig(level=logging.INFO, filename=sys.argv[2])", True, False),
            ("logging.basicConfig(level=logging.INFO, stream=io.StringIO())", True, False),
        ],
        ids=["terminal", "null", "warnings", "file", "buffer"],
    )
    def test_nobody_reads_it_twice(self, tmp_path, configured, printed, logged):
        """Nor never: a record that reaches no terminal is printed."""
        code = f"import io, logging, sys\n{configured}\n" + self.LIBRARY
        lines = self.shown(code, tmp_path / "cache", tmp_path / "log")
        assert printed != logged
        assert [line for line in lines if "compiling" in line] == self.compiling()
        assert len([line for line in lines if "compiling" not in line]) == (2 if logged else 0)  # why none is shipped

    @pytest.mark.parametrize("stderr", ["None", "types.SimpleNamespace(flush=print)", "closed"])
    def test_a_process_without_a_stderr_calls_all_the_same(self, tmp_path, stderr):
        code = f"import io, sys, types\nclosed = io.StringIO()\nclosed.close()\nsys.stderr = {stderr}\n" + self.LIBRARY
        command = [sys.executable, "-c", code + "print('done')", str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert (done.stdout.strip(), done.stderr, done.returncode) == ("done", "", 0)

    def test_kernels_that_cannot_be_kept(self, tmp_path):
        """What is logged as a warning is printed by Python as before, on a terminal and elsewhere."""
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache").chmod(0o777)
        warned = "numlstm: kernels are not cached, since others can write to"
        lines = self.shown(self.WARMUP, tmp_path / "cache")
        assert [line.startswith(warned) for line in lines] == len(KERNELS) * [True, False] + [False]
        assert lines[1:-1:2] == self.compiling("for this process alone", KERNELS)
        assert lines[-1].startswith("Error: the next process has to compile again")
        lines = self.elsewhere(self.WARMUP, tmp_path / "cache").splitlines()
        assert [line.startswith(warned) for line in lines] == len(KERNELS) * [True] + [False]

    def test_another_process_is_waited_for(self, tmp_path, monkeypatch, caplog):
        """One record, however long it takes; here until patience ends."""
        from numlstm.kernels.loading import cache

        monkeypatch.setattr(cache, "PATIENCE", 0.2)
        caplog.set_level("INFO", "numlstm")
        with cache.turn(tmp_path / "a.o"), cache.turn(tmp_path / "a.o"):
            pass
        assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
        assert caplog.messages[0] == "numlstm: waiting for another process, which is compiling the same kernels"

    def test_an_export(self, tmp_path):
        numlstm.LSTM(3, 4, seed=0).save(tmp_path / "m.npz")
        arguments = (tmp_path / "m.npz", tmp_path / "out")
        assert self.shown(self.EXPORT, tmp_path / "cache", *arguments) == [
            "numlstm: compiling the library for float32 and aarch64, once; some 20 seconds"
        ]
        assert len(list((tmp_path / "out").iterdir())) == 4
        assert self.shown(self.EXPORT, tmp_path / "cache", *arguments) == []
        assert self.elsewhere(self.EXPORT, tmp_path / "other", *arguments) == ""


class Shipped(NamedTuple):
    """What is asked of a kernel that came with the package."""

    level: object
    origin: str = "shipped: /there"
    seconds: float = 0.0


class TestDemo:
    def test_the_plot_s_path_is_handed_on(self, monkeypatch, tmp_path):
        import numlstm.demo

        asked = []
        monkeypatch.setattr(numlstm.demo, "run", asked.append, raising=False)
        monkeypatch.setattr("numlstm.commands.demo.drawable", lambda path: None)
        assert invoke("demo").exit_code == 0
        assert invoke("demo", "--plot", tmp_path / "a.png").exit_code == 0
        assert asked == [None, tmp_path / "a.png"]

    @pytest.mark.parametrize(
        "plot, says", [("a.pdf", "its suffix must be .svg or .png"), ("a.png", "--plot needs matplotlib: pip install")]
    )
    def test_a_plot_that_cannot_be_drawn_is_refused_before_the_work(self, monkeypatch, plot, says):
        import numlstm.demo

        monkeypatch.setattr(numlstm.demo, "run", lambda plot: pytest.fail("it ran"), raising=False)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        result = invoke("demo", "--plot", plot)
        assert result.exit_code == 1 and says in result.output
