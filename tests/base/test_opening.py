"""Files that change while they are read: each is opened once, without waiting, and never mapped."""

import ast
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from needs import leave_out

import numlstm
from numlstm import formats
from numlstm.base import opening
from numlstm.commands import check, disk_array, run, sequence_files

PACKAGE = Path(numlstm.__file__).parent
NUMBERS = np.random.default_rng(0).standard_normal((23, 7, 5)).astype("f4")
SUFFIXES = (".safetensors", ".npz")
READERS = {
    "load": (".npz", numlstm.load),
    "find": (".safetensors", numlstm.list_lstms),
    "tensors": (".npz", numlstm.load_tensors),
    "trace": (".npz", numlstm.Trace.load),
    "check": (".npz", check._digest),
    "input": (".npy", lambda path: sequence_files.opened(path).__enter__()),
    "input, text": (".csv", lambda path: sequence_files.opened(path).__enter__()),
    "states": (".npz", sequence_files.states),
}


# ---------------------------------------------------------------- another file in its place


def ended(call, path, seconds=20):
    """What a call raises, or None: where it waits for a writer of a pipe, one comes after a while."""
    raised = []

    def run():
        try:
            call(path)
            raised.append(None)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=seconds)
    if thread.is_alive():
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        thread.join()
        pytest.fail("it waited for someone to write to a pipe")
    return raised[0]


@pytest.fixture
def swapping(monkeypatch):
    """Whoever looks at the path finds a file there, and whoever opens it then a pipe."""

    def swap(path):
        status = os.stat

        def looked(place, *arguments, **named):
            found = status(place, *arguments, **named)
            if os.fspath(place) == os.fspath(path) and stat.S_ISREG(found.st_mode):
                os.unlink(path)
                os.mkfifo(path)
            return found

        monkeypatch.setattr(opening.os, "stat", looked)

    return swap


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_put_in_the_place_of_a_file_is_not_waited_for(reader, tmp_path, swapping):
    suffix, read = READERS[reader]
    path = tmp_path / f"m{suffix}"
    numlstm.LSTM(3, 2).save(path) if suffix in SUFFIXES else np.save(path, NUMBERS)
    if suffix == ".csv":
        path.write_text("1,2\n")
    swapping(path)
    error = ended(read, path)
    assert isinstance(error, OSError) and "is no regular file; a" in str(error)


def test_a_wait_for_a_writer_is_noticed(tmp_path, swapping, monkeypatch):
    """Planted: files are opened as a matter of course."""
    path = tmp_path / "m.npz"
    path.write_bytes(b"x")
    swapping(path)
    monkeypatch.setattr(opening, "AT_ONCE", 0)
    with pytest.raises(pytest.fail.Exception, match="it waited for someone"):
        ended(opening.regular, path, seconds=0.5)


def test_what_was_opened_is_closed_where_it_is_refused(tmp_path, swapping):
    path = tmp_path / "m.npz"
    path.write_bytes(b"x")
    swapping(path)
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    assert isinstance(ended(opening.regular, path), OSError)
    assert len(os.listdir("/proc/self/fd") if before else []) == len(before)


def test_a_device_and_a_pipe_are_not_even_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(opening.os, "open", lambda *_: pytest.fail("it was opened"))
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(OSError, match="a file is expected"):
            opening.regular(path)


# ---------------------------------------------------------------- a file that is cut short


CUT = """
import os, sys
import numpy as np
import numlstm
from numlstm.commands import run, disk_array; from numlstm import cli, formats

suffix, order = sys.argv[1:]
numlstm.LSTM(64, 2).save("m.npz")
x = np.zeros((4000, 20, 64), np.float32)
if suffix == ".npy":
    np.save("x.npy", np.asfortranarray(x) if order == "F" else x)
    forward = run.LSTM.__call__

    def cut(self, *arguments):
        os.truncate("x.npy", 100_000)
        return forward(self, *arguments)

    run.LSTM.__call__ = cut
    if order == "map":  # planted
        mapped = np.load("x.npy", mmap_mode="r")
        disk_array.DiskArray.read = lambda self, outer, inner: mapped[outer, inner].copy()
    cli.main(["run", "m.npz", "x.npy", "-o", "out.npz", "--chunk", "0.5"])
else:
    numlstm.LSTM(64, 512).save("big" + suffix)
    with formats.opened("big" + suffix) as contents:
        os.truncate("big" + suffix, 5000)
        for tensor in contents.tensors.values():
            tensor.read()
"""


@pytest.mark.parametrize("suffix, order", [(".npy", "C"), (".npy", "F"), (".safetensors", ""), (".npz", "")])
def test_a_file_cut_short_while_it_is_read_is_an_error_and_not_the_end(suffix, order, tmp_path):
    """In a process of its own, which a map of the file would end with SIGBUS, the unfinished results left behind."""
    ran = subprocess.run(
        [sys.executable, "-c", CUT, suffix, order],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 1, (ran.returncode, ran.stderr)
    if suffix == ".npy":
        assert ran.stderr.startswith("Error: x.npy: it was cut short while it was read: it ends within bytes ")
        assert sorted(os.listdir(tmp_path)) == ["m.npz", "x.npy"]
    else:
        assert f"ValueError: big{suffix}: " in ran.stderr


def test_a_map_of_such_a_file_would_be_the_end(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", CUT, ".npy", "map"], cwd=tmp_path, capture_output=True, timeout=120, check=False
    )
    assert ran.returncode == -signal.SIGBUS
    assert len(os.listdir(tmp_path)) == 3  # with what it left behind


def test_a_header_cut_short_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    numlstm.LSTM(3, 2).save(path)
    size = opening.size

    def cut(file):
        whole = size(file)
        os.truncate(path, 100)
        return whole

    monkeypatch.setattr(formats.opening, "size", cut)
    with pytest.raises(ValueError, match="cut short while it was read"):
        numlstm.load(path)


# ---------------------------------------------------------------- the same for whatever is added


def opens(tree):
    """Where a module opens files by itself, or maps them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            of_os = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "os"
            if (name == "open" and (isinstance(node.func, ast.Name) or of_os)) or name in (
                *("memmap", "open_memmap", "mmap", "safe_open", "fromfile", "read_bytes", "read_text"),
            ):
                yield node.lineno, name


OWN = ("kernels/", "wheels/", "bench/", "demo/", "cuda/", "dask/", "export/")  # their own files, or another opener
SYSTEM = {"runtime/cores.py", "base/opening.py", "base/atomic.py"}  # /proc, the one place, and the one that writes


def test_files_of_the_caller_are_opened_in_one_place():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(OWN) and name not in SYSTEM:
            found[name] = list(opens(ast.parse(path.read_text("utf-8"))))
    assert len(found) > 40
    assert {name: places for name, places in found.items() if places} == {}
    assert list(opens(ast.parse("import numpy as np\nnp.memmap(p)\nopen(p)\nos.open(p)\npool.open()"))) == [
        (2, "memmap"),
        (3, "open"),
        (4, "open"),
    ]


# ---------------------------------------------------------------- parts of a file


@pytest.mark.parametrize("near, span", [(0, 16 << 20), (1 << 20, 16 << 20), (1 << 20, 1000)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f4", ">f8", "?", "i2"])
def test_every_part_of_an_array_on_disk_is_what_numpy_has(order, dtype, near, span, tmp_path, monkeypatch):
    """By a read for each run, by one for all that lies near, and by several for what is large."""
    monkeypatch.setattr(disk_array, "NEAR", near)
    monkeypatch.setattr(disk_array, "SPAN", span)
    whole = (NUMBERS > 0).astype(dtype) if dtype == "?" else (100 * NUMBERS).astype(dtype)
    np.save(tmp_path / "x.npy", np.asarray(whole, order=order))
    with sequence_files.opened(tmp_path / "x.npy") as given:
        for outer in (slice(0, 23), slice(3, 4), slice(5, 22), slice(4, 4)):
            for inner in (slice(0, 7), slice(2, 3), slice(1, 7), slice(3, 3)):
                part = given.read(outer, inner)
                assert part.dtype == dtype and part.tobytes() == whole[outer, inner].tobytes()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_sequence_without_a_batch(order, tmp_path):
    np.save(tmp_path / "x.npy", np.asarray(NUMBERS[:, 0], order=order))
    with sequence_files.opened(tmp_path / "x.npy") as given:
        assert given.shape == (23, 5)
        np.testing.assert_array_equal(given.read(slice(2, 9), slice(0, 1)), NUMBERS[2:9, :1])


def test_results_are_written_and_dumped_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_array, "SPAN", 100)
    made = disk_array.DiskArray.new(tmp_path, np.dtype("f4"), NUMBERS.shape)
    for row in range(7):
        made.write(slice(0, 10), slice(row, row + 1), NUMBERS[:10, row : row + 1])
    made.write(slice(10, 23), slice(0, 7), np.asfortranarray(NUMBERS[10:]))
    with open(tmp_path / "x.npy", "wb") as into:
        made.dump(into, NUMBERS.shape)
    made.close()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), NUMBERS)


def test_in_fortran_order_run_gives_the_bits_of_one_call(tmp_path):
    lstm = numlstm.LSTM(5, 3, num_layers=2, batch_first=True, seed=0).eval()
    lstm.save(tmp_path / "m.npz")
    np.save(tmp_path / "x.npy", np.asfortranarray(NUMBERS))
    run.run_file(tmp_path / "m.npz", tmp_path / "x.npy", tmp_path / "out.npz", None, None, None, chunk=500)
    output, (h_n, c_n) = lstm(NUMBERS)
    with np.load(tmp_path / "out.npz") as results:
        for name, want in (("output", output), ("h_n", h_n), ("c_n", c_n)):
            assert results[name].tobytes() == want.tobytes()


# ---------------------------------------------------------------- text that is large, or odd


def test_a_line_without_an_end_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "x.csv", "wb") as file:
        file.truncate(1 << 31)  # of which nothing is on the disk
    with pytest.raises(ValueError, match=r"x\.csv: it has a line of more than 1048576 characters"):
        sequence_files.opened(tmp_path / "x.csv").__enter__()


@pytest.mark.parametrize("cell", ["1_0", "\u0661", "\u00a01", "\uff11"])
def test_only_plain_digits_are_numbers(cell, tmp_path):
    (tmp_path / "x.csv").write_text(f"1,2\n{cell},2\n", "utf-8")
    with pytest.raises(ValueError, match=r"line 2, column 1: .* is not a number"):
        sequence_files.opened(tmp_path / "x.csv").__enter__()


SPARSE = 1 << 31  # bytes
STARTS = {
    "onnx": b"\x08\x08\x3a\x80\x80\x80\x80\x04",  # a graph of a gigabyte
    "safetensors": (SPARSE - 8).to_bytes(8, "little") + b"{",
    "zip": b"PK\x03\x04",
    "hdf5": b"\x89HDF\r\n\x1a\n",
    "pickle": b"\x80\x02",
}


@pytest.mark.parametrize("start", STARTS)
def test_a_sparse_model_file_is_refused_by_what_it_is(start, tmp_path, monkeypatch):
    path = tmp_path / "model"
    with path.open("wb") as file:
        file.write(STARTS[start])
        file.truncate(SPARSE)
    with path.open("rb") as file:
        if opening.stored(file) > 1 << 20:
            leave_out("this file system has no sparse files")
        assert file.read(2) == STARTS[start][:2]
    with pytest.raises(ValueError, match=rf"model: it is a sparse file: the disk holds \d+ of its {SPARSE} bytes"):
        numlstm.load(path)
    reached = []
    monkeypatch.setattr(opening, "stored", lambda file: reached.append("read") or SPARSE)
    with pytest.raises((ValueError, MemoryError, ImportError)) as caught:  # without the guard the readers decide
        numlstm.list_lstms(path)
    assert reached == ["read"] and "is a sparse file" not in str(caught.value)


def test_holes_that_a_model_may_have_are_read(tmp_path):
    path, lstm = tmp_path / "model.npz", numlstm.LSTM(3, 4, seed=0)
    lstm.save(path)
    with path.open("rb") as file:
        assert opening.stored(file) == opening.size(file)
    assert repr(numlstm.load(path)) == repr(lstm)
