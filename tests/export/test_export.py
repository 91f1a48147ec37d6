"""What ``numlstm export`` writes: plans as in runtime/planner.py, error codes, archives and objects of every target,
sentences."""

import ctypes
import re
from pathlib import Path

import embedded
import numpy as np
import objects
import pytest
from click.testing import CliRunner
from embedded import SIZES, model, run, tool
from exported import HERE, Library, changed, content_of, sealed

import numlstm
from numlstm.cli import main
from numlstm.export import MODEL, export, library, link, targets
from numlstm.export.model_file import model_bytes
from numlstm.export.model_layout import HEADER_BYTES, TEXTS, VERSION, Code, Model, State
from numlstm.kernels import plan_rules
from numlstm.kernels.plan_layout import KEPT, Cell, Header
from numlstm.runtime import planner as planning
from numlstm.runtime.packed_weights import Panels, aligned_empty

pytestmark = [pytest.mark.slow, pytest.mark.cpu_level]

FIXTURES = Path(__file__).parents[1] / "fixtures"
ADDRESSES = range(Header.INPUT, Header.HIDDEN + 1)


def words(address, count):
    return np.frombuffer((ctypes.c_int64 * count).from_address(int(address)), np.int64).copy()


@pytest.fixture(scope="module", params=["float32", "float64", "bfloat16"])
def loaded(request, tmp_path_factory):
    return Library(request.param, tmp_path_factory.mktemp("library"))


def planned(lstm, rows, steps, lanes):
    """The slots of runtime/planner.py for a C-contiguous call."""
    panels, size = lstm._panels, lstm.dtype.itemsize
    if panels.lanes != lanes:
        named = ((name, panels.parameter(name)) for name in panels.config.parameter_shapes())
        panels = Panels.pack(panels.config, panels.dtype, named, lanes)
    inputs = lstm.input_size
    outputs = (1 + lstm.bidirectional) * (lstm.proj_size or lstm.hidden_size)
    strides = [(rows * n * size, n * size, size) for n in (inputs, outputs)]
    return planning.make_plan(panels, (steps, rows, inputs), *strides)


def test_plans_are_those_of_the_engine(loaded):
    """Slot by slot, with room for the same buffers; sizes at random, and some by hand."""
    rng = np.random.default_rng(7)
    some = [(sizes, rows, steps) for sizes in SIZES for rows in (1, 2, 30) for steps in (1, 2, 9)]
    some += [(embedded.LARGE, rows, steps) for rows in (1, 3, 40) for steps in (1, 100)]
    for _ in range(60):
        hidden = int(rng.integers(1, 150))
        sizes = {
            "input_size": int(rng.integers(1, 150)),
            "hidden_size": hidden,
            "num_layers": int(rng.integers(1, 4)),
            "bidirectional": bool(rng.integers(2)),
            "proj_size": int(rng.integers(0, hidden)),
        }
        some.append((sizes, int(rng.choice([1, 2, 3, 24, 500])), int(rng.choice([1, 2, 3, 40]))))
    hoisted = 0
    for sizes, rows, steps in some:
        lstm = model(sizes, loaded.kernel)
        code, at, _kept = loaded.model(content_of(lstm, loaded.level))
        assert code == Code.OK
        code, state, memory = loaded.state(at, rows, steps)
        assert code == Code.OK and state % 64 == 0
        end = memory.ctypes.data + memory.size
        for slot, length in ((State.STEP_PLAN, 1), (State.PLAN, steps)):
            plan = planned(lstm, rows, length, loaded.level.lanes(loaded.kernel))
            slots = words(words(state, State.LENGTH)[slot], plan.slots.size)
            want = plan.slots.copy()
            want[Header.ITEMS_AT : Header.NONE + 1] = 0
            given, want[ADDRESSES] = slots.copy(), 0
            given[ADDRESSES] = 0
            assert (given == want).all(), (sizes, rows, length, np.flatnonzero(given != want))
            hoisted += slots[Header.LENGTH + Cell.HOIST] > 0
            # every buffer has its room, and ends where the next one begins
            c = lstm.num_layers * (1 + lstm.bidirectional) * rows * lstm.hidden_size
            ends = [
                (slots[Header.C_N] + c * lstm.dtype.itemsize, slots[Header.GATES]),
                (slots[Header.GATES] + plan.gates * lstm.dtype.itemsize, slots[Header.HIDDEN]),
                (slots[Header.HIDDEN] + plan.hidden * lstm.dtype.itemsize, slots[Header.BELOW]),
                (slots[Header.BELOW] + plan.below * lstm.dtype.itemsize, end),
            ]
            assert all(last <= first for last, first in ends), (sizes, rows, length, ends)
            assert (slots[Header.H_0], slots[Header.C_0]) == (KEPT, slots[Header.C_N])
            assert slots[Header.PANELS] == at + HEADER_BYTES
    assert hoisted > 20


def test_a_plan_that_differs_is_found(loaded, monkeypatch):
    """The test above sees it when the engine's rules are others than those that were compiled."""
    monkeypatch.setattr(plan_rules, "CACHE_L1", plan_rules.CACHE_L1 // 2)
    with pytest.raises(AssertionError):
        test_plans_are_those_of_the_engine(loaded)


def test_the_bits_without_a_compiler(loaded):
    for sizes in SIZES:
        lstm = model(sizes, loaded.kernel)
        code, at, _kept = loaded.model(content_of(lstm, loaded.level))
        code, state, _memory = loaded.state(at, 2, 6)
        assert code == Code.OK
        x = np.random.default_rng(0).normal(size=(6, 2, lstm.input_size)).astype(lstm.dtype)
        want, _ = lstm(x)
        got = np.empty_like(want)
        assert loaded.forward(state, 6, x.ctypes.data, got.ctypes.data) == Code.OK
        bits = f"i{lstm.dtype.itemsize}"
        assert (got.view(bits) == want.view(bits)).all()


@pytest.mark.parametrize("hidden", [1, 12, 40])
def test_states_that_the_caller_writes_are_flushed_as_in_python(loaded, hidden):
    """The address of h or c may be kept: what is written there counts at any later step, and at any number of them."""
    lstm = numlstm.LSTM(2, hidden, bias=False, dtype=loaded.number, seed=0).quantize_weights(loaded.kernel)
    size = loaded.number.itemsize
    _, at, _kept = loaded.model(content_of(lstm, loaded.level))
    _, state, _memory = loaded.state(at, 1, 3)
    x, tiny = np.zeros((3, 1, 2), lstm.dtype), {4: (1e-33, 1e-39), 8: (1e-302, 1e-310)}[size]
    got = np.empty((3, 1, hidden), lstm.dtype)
    views = []
    for address in (loaded.h(state), loaded.c(state)):
        kind = ctypes.c_float if size == 4 else ctypes.c_double
        views.append(np.frombuffer((kind * hidden).from_address(address), lstm.dtype))
    for steps in (1, 3, 1):
        views[0][:], views[1][:] = tiny
        want, _ = lstm(x[:steps], tuple(np.full((1, 1, hidden), number, lstm.dtype) for number in tiny))
        assert not want.any()
        code = loaded.step if steps == 1 else lambda *given: loaded.forward(given[0], 3, *given[1:])
        assert code(state, x.ctypes.data, got.ctypes.data) == Code.OK
        assert (got[:steps].view(f"i{size}") == want.view(f"i{size}")).all()
        assert not views[1].any()  # g is not as tiny as h was, but 0
    # without the mark that h and c leave in the plans, the step would take the states as its own
    plan = words(state, State.LENGTH)[State.STEP_PLAN]
    ctypes.c_int64.from_address(int(plan) + 8 * Header.H_0).value = KEPT
    views[0][:], views[1][:] = tiny
    assert loaded.step(state, x.ctypes.data, got.ctypes.data) == Code.OK and views[1].any()


def test_sizes_are_told(loaded):
    lstm = model(SIZES[9], loaded.kernel)
    _, at, _kept = loaded.model(content_of(lstm, loaded.level))
    names = ("input_size", "hidden_size", "num_layers", "num_directions", "proj_size", "output_size")
    assert [getattr(loaded, name)(at) for name in names] == [8, 24, 2, 2, 17, 34]


def test_every_error_has_its_code(loaded):
    lstm = model(SIZES[0], loaded.kernel)
    good = content_of(lstm, loaded.level)
    told = {
        Code.OK: good,
        Code.TRUNCATED: good[:-64],
        Code.NOT_A_MODEL: b"x" + good[1:],
        Code.VERSION: changed(good, Model.VERSION, VERSION + 1),
        Code.DAMAGED: good[:-1] + b"\1",
        Code.NUMBER: sealed(changed(good, Model.NUMBER, 12 - lstm.dtype.itemsize)),
        Code.LEVEL: sealed(changed(good, Model.LEVEL, 77)),
        Code.SIZES: sealed(changed(good, Model.HIDDEN_SIZE, 1 << 19)),
    }
    for code, content in told.items():
        assert loaded.model(content)[0] == code, code
    for cut in range(HEADER_BYTES + 8):
        assert loaded.model(good[:cut])[0] == Code.TRUNCATED, cut
    assert loaded.model(good + bytes(64))[0] == Code.TRUNCATED
    result = ctypes.c_int64(0)
    assert loaded.load(0, 100, ctypes.byref(result)) == Code.NULL
    assert loaded.load(loaded.model(good)[2].ctypes.data, len(good), None) == Code.NULL
    odd = aligned_empty(len(good) + 4, np.dtype(np.uint8))
    odd[4:] = np.frombuffer(good, np.uint8)
    assert loaded.load(odd.ctypes.data + 4, len(good), ctypes.byref(result)) == Code.MISALIGNED
    assert result.value == 0

    _, at, _kept = loaded.model(good)
    code, state, memory = loaded.state(at, 1, 3)
    assert code == Code.OK
    x, y = np.zeros((9, 3), lstm.dtype), np.zeros((9, 3), lstm.dtype)
    into, out = x.ctypes.data, y.ctypes.data
    for rows, steps in ((0, 1), (1, 0), (-1, 1), (1, -1), (1 << 40, 1), (1, 1 << 60), (1, (1 << 32) + 1)):
        assert loaded.state_bytes(at, rows, steps) == 0
        assert loaded.state_init(at, rows, steps, memory.ctypes.data, 1 << 62, ctypes.byref(result)) == Code.STEPS
    assert loaded.state_bytes(0, 1, 1) == 0
    assert loaded.state_init(at, 1, 3, memory.ctypes.data, memory.size - 1, ctypes.byref(result)) == Code.MEMORY
    assert loaded.state_init(at, 1, 3, 0, memory.size, ctypes.byref(result)) == Code.NULL
    assert result.value == 0
    assert loaded.step(state, into, 0) == loaded.step(state, 0, out) == loaded.step(0, into, out) == Code.NULL
    assert loaded.step(state, into + 1, out) == loaded.forward(state, 2, into, out + 2) == Code.MISALIGNED
    assert loaded.forward(state, -1, into, out) == Code.STEPS
    assert loaded.forward(state, 0, into, out) == loaded.forward(state, 9, into, out) == Code.OK
    moved = aligned_empty(memory.size, np.dtype(np.uint8))
    moved[:] = memory
    for bad in (moved.ctypes.data, state + 8, moved.ctypes.data + 3):
        assert loaded.step(bad, into, out) == loaded.forward(bad, 1, into, out) == loaded.reset(bad) == Code.STATE
        assert loaded.h(bad) is None and loaded.c(bad) is None
    assert loaded.reset(0) == Code.NULL and loaded.h(0) is None

    three = model(SIZES[1], loaded.kernel)
    _, at, _kept = loaded.model(content_of(three, loaded.level))
    assert loaded.state_bytes(at, 1 << 20, 1 << 30) > 0
    assert loaded.state_bytes(at, 1 << 20, 1 << 32) == 0  # more than can be counted safely

    both = model(SIZES[4], loaded.kernel)
    _, at, _kept = loaded.model(content_of(both, loaded.level))
    _, state, _memory = loaded.state(at, 1, 3)
    x, y = np.zeros((4, 40), both.dtype), np.zeros((4, 80), both.dtype)
    assert loaded.step(state, x.ctypes.data, y.ctypes.data) == Code.BIDIRECTIONAL
    assert loaded.forward(state, 4, x.ctypes.data, y.ctypes.data) == Code.STEPS
    assert loaded.forward(state, 2, x.ctypes.data, y.ctypes.data) == Code.OK


def test_every_code_has_words(loaded):
    assert [loaded.error_text(code).decode() for code in Code] == [TEXTS[code] for code in Code]
    for unknown in (len(Code), -1, 1 << 20):
        assert loaded.error_text(unknown) == b"an unknown error"


# Targets ----------------------------------------------------------------------------------------------------------

KINDS = {
    "x86_64-linux": "ELF x86-64",
    "aarch64-linux": "ELF aarch64",
    "aarch64-macos": "Mach-O aarch64",
    "x86_64-macos": "Mach-O x86-64",
    "x86_64-windows": "COFF x86-64",
}


@pytest.mark.parametrize("number", ["float32", "float64"])
@pytest.mark.parametrize("target", KINDS)
def test_libraries_of_every_target(target, number):
    """Format, symbols, and nothing that they need: not of libc, nor of Numba."""
    chosen = targets.find(target)
    found, symbols = objects.members(library.static(chosen, number, chosen.level(), "numlstm"))
    assert list(found) == ["glue.o", "kernel.o"]
    glue, kernel = (objects.facts(code) for code in found.values())
    assert glue.kind == kernel.kind == KINDS[target]
    underscore = "_" if "macos" in target else ""
    api = {f"{underscore}numlstm_{name}" for name in library.FUNCTIONS}
    inner = {f"{underscore}numlstm_{name}" for name in ("kernel", "head")}
    checks = {f"{underscore}numlstm_{name}" for name in ("cpuid", "xgetbv")} if "x86_64" in target else set()
    of_c = {"_fltused"} if "windows" in target else set()
    assert glue.defined == api | checks | (of_c & glue.defined) and glue.undefined == inner
    assert {name for name in kernel.defined if "@" not in name} == inner | of_c  # __real@…: COFF's shared constants
    assert not kernel.undefined
    assert sorted(symbols) == sorted([(name, "glue.o") for name in api] + [(name, "kernel.o") for name in inner])
    for code in found.values():
        assert b"NumbaEnv" not in code and b"numba" not in code


def test_what_is_missing_would_be_seen():
    """An object that calls malloc, for every format."""
    import llvmlite.binding as llvm

    text = "declare ptr @malloc(i64)\ndefine ptr @f() { %m = call ptr @malloc(i64 8)\n ret ptr %m }"
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    for target in KINDS:
        triple = targets.find(target).triple
        machine = llvm.Target.from_triple(triple).create_target_machine(reloc="pic")
        facts = objects.facts(machine.emit_object(llvm.parse_assembly(text)))
        assert "malloc" in {name.lstrip("_") for name in facts.undefined}
        assert {name.lstrip("_") for name in facts.defined} == {"f"}


def test_the_same_export_is_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        export(model(SIZES[0]), tmp_path / folder, echo=lambda line: None)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_cell_is_exported_as_an_lstm_of_one_layer(loaded):
    cell = numlstm.LSTMCell(3, 5, dtype=loaded.number, seed=0)
    code, at, _kept = loaded.model(content_of(cell, loaded.level))
    if loaded.kernel == "bfloat16":  # a cell has no such weights
        assert code == Code.NUMBER
        return
    _, state, _memory = loaded.state(at, 2, 1)
    x = np.ones((2, 3), loaded.number)
    got = np.empty((2, 5), loaded.number)
    assert loaded.step(state, x.ctypes.data, got.ctypes.data) == Code.OK
    assert (got == cell(x)[0]).all()


def test_binutils_reads_the_archive(tmp_path):
    path = tmp_path / "libnumlstm.a"
    path.write_bytes(library.static(targets.find("x86_64-linux"), "float32", targets.find("x86_64-linux").level(), "n"))
    assert run(tool("ar"), "t", path).split() == ["glue.o", "kernel.o"]
    assert "n_load in glue.o" in run(tool("nm"), "-s", path)


# The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.safetensors"
    model(SIZES[0]).save(path)
    return path


def command(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_the_command(file, tmp_path):
    done = command(file, "-o", tmp_path / "new" / "folder", "--target", "x86_64-linux", "--prefix", "mine")
    assert done.exit_code == 0, done.output
    names = ["example.c", "libmine.a", MODEL, "mine.h"]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(names)
    assert all(name in done.output for name in names)
    header = (tmp_path / "new" / "folder" / "mine.h").read_text()
    assert "@" not in header and "numlstm_" not in header and "MINE_DAMAGED = 6" in header


def test_what_stays_behind_is_said(tmp_path):
    done = command(FIXTURES / "models" / "sensor.keras", "-o", tmp_path)
    assert done.exit_code == 0
    said = "sensor.keras: the LSTM alone is exported, without the layers around it: layer 'batch_normalization'"
    assert said in done.output


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--target", "arm"], "there is no target 'arm'; there are host, x86_64-linux"),
        (
            ["--target", "aarch64-linux", "--level", "x86-64-v3"],
            "has no level 'x86-64-v3'; it has aarch64",
        ),
        (["--level", "v9"], "has no level 'v9'"),
        (["--prefix", "1st"], "prefix is '1st'; it must be a name in C"),
        (["--prefix", "a;b"], "prefix is 'a;b'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(arguments, says, file, tmp_path):
    done = command(file, "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 1 and says in done.output, done.output
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_folder_is_refused_before_anything_is_made(file, tmp_path, monkeypatch):
    def made(*_):
        raise AssertionError("a library was made")

    monkeypatch.setattr(library, "_object", made)
    (tmp_path / "nothing").symlink_to(tmp_path / "absent")
    for out, says in (
        (file, f"Error: {file} is no folder. The name of a folder is expected, one that is there or a new one"),
        (file / "a" / "b", f"Error: {file / 'a' / 'b'} cannot be made: {file} is no folder. The name of a folder"),
        (tmp_path / "nothing", f"Error: {tmp_path / 'nothing'} is no folder. The name of"),
    ):
        done = command(file, "-o", out)
        assert done.exit_code == 1 and done.output.startswith(says), done.output
        assert len(done.output.splitlines()) == 1


def test_a_missing_linker_is_said(file, tmp_path, monkeypatch):
    monkeypatch.setattr(link.shutil, "which", lambda name: None)
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    done = command(file, "-o", tmp_path / "out", "--shared")
    assert done.exit_code == 1 and "no linker for a shared library" in done.output
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("CC", "false")
    done = command(file, "-o", tmp_path / "out", "--shared")
    assert done.exit_code == 1 and re.search(r"false -shared .*could not link", done.output)


def test_sizes_beyond_the_limits_are_said():
    class Wide:
        config, dtype = numlstm.LSTM(1, 1)._panels.config.__class__((1 << 20) + 1, 1), np.dtype("float32")

    with pytest.raises(ValueError, match="input_size is 1048577; an exported model has at most 1048576"):
        model_bytes(Wide, HERE.level())


def test_the_header_is_what_the_library_has():
    """Every function is declared, with a type that fits its machine code, and every code has its number."""
    text = embedded.exported_text("numlstm.h")
    declared = re.findall(r"^\S.*?\**@PREFIX@_(\w+)\(", text, re.MULTILINE)
    assert declared and sorted(declared) == sorted(library.FUNCTIONS)


def test_without_numba_it_is_said_what_an_export_takes(monkeypatch, tmp_path):
    def missing(number, level):
        raise library.PackageNotFoundError("numba")

    monkeypatch.setattr(library, "_fingerprint", missing)
    with pytest.raises(ImportError, match="made by Numba and llvmlite, and the package numba is not installed"):
        export(model(SIZES[0]), tmp_path, prefix="never_made", echo=lambda line: None)
