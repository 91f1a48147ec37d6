"""inspect, convert, run and check: the same bits, files whole or not at all, errors on one line."""

import hashlib
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from commands import COMMAND, command_names, command_of, invoke, process
from judge import flip_one_bit, same_bits
from needs import leave_out, need
from safetensors.numpy import save_file

import numlstm
from numlstm import reference
from numlstm.base import atomic, console
from numlstm.commands import check, disk_array, run, sequence_files
from numlstm.runtime.packed_weights import Panels

LINUX = sys.platform == "linux"
MB = 1 << 20


def done(*args):
    """Of a call that must succeed: what it printed."""
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*args):
    """Of a call that must fail for what it was given: its one line."""
    result = invoke(*args)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ")
    assert line.isprintable()
    return line


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path, **arguments):
    lstm = numlstm.LSTM(**{"input_size": 6, "hidden_size": 4, "seed": 0, **arguments}).eval()
    lstm.save(path)
    return lstm


def named(prefix, module):
    return {f"{prefix}.{name}": array for name, array in module.state_dict().items()}


def tagger(path="tagger.safetensors"):
    """A file of several LSTMs, as a framework would write it, with what is around them."""
    tensors = {
        "embedding.weight": np.zeros((50, 6), np.float32),
        **named("encoder.lstm", numlstm.LSTM(6, 4, num_layers=2, bidirectional=True, seed=0)),
        **named("decoder.cell", numlstm.LSTMCell(8, 5, bias=False, seed=1, dtype="float64")),
        **named("broken", numlstm.LSTM(3, 2, seed=2)),
        "head.weight": np.zeros((3, 8), np.float16),
    }
    tensors["broken.bias_hh_l0"] = np.zeros(7, np.float32)
    save_file(tensors, path)


def test_run_says_where_a_file_leaves_open_what_comes_first(folder):
    """The axes of a batch mixed up are no error to any engine: T and B are just numbers."""
    save_file(numlstm.LSTM(3, 2, seed=0).state_dict(), "open.safetensors")
    numlstm.LSTM(3, 2, seed=0).save("stated.safetensors")
    np.save("batch.npy", np.ones((4, 5, 3), np.float32))
    np.save("one.npy", np.ones((5, 3), np.float32))
    says = "does not say whether the batch comes first; input (4, 5, 3) is taken as (steps, batch, features)"
    for model, given, options, warned in (
        ("open", "batch", [], True),
        ("open", "batch", ["--steps-first"], False),
        ("open", "batch", ["--batch-first"], False),
        ("open", "one", [], False),
        ("stated", "batch", [], False),
    ):
        ran = process("run", f"{model}.safetensors", f"{given}.npy", "-o", "out.npz", *options)
        assert ran.returncode == 0, ran.stderr
        assert (says in ran.stderr) is warned and bool(ran.stderr) is warned


@pytest.mark.parametrize("command", ["run", "trace", "convert"])
def test_what_a_file_states_of_its_order_is_not_contradicted(folder, command):
    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    np.save("x.npy", x)
    for first in (False, True):
        lstm = numlstm.LSTM(3, 2, seed=0, batch_first=first).eval()
        lstm.save("m.npz")
        args = ["m.npz", "out.npz"] if command == "convert" else ["m.npz", "x.npy", "-o", "out.npz"]
        wrong, right = ("--steps-first", "--batch-first")[:: 1 if first else -1]
        line = refused(command, *args, wrong)
        assert f"m.npz: the file states batch_first={first}, but batch_first={not first} was asked for" in line
        assert not os.path.exists("out.npz")
        done(command, *args, right)
        if command == "convert":
            assert numlstm.load("out.npz").batch_first is first
        else:
            assert same_bits(np.load("out.npz")["output"], lstm(x)[0])
        os.remove("out.npz")


def test_a_cell_runs_in_the_order_that_is_asked_for(folder):
    numlstm.LSTMCell(3, 2, seed=0).save("cell.npz")
    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    np.save("x.npy", x)
    np.save("swapped.npy", x.swapaxes(0, 1))
    done("run", "cell.npz", "x.npy", "-o", "steps.npz")
    done("run", "cell.npz", "swapped.npy", "-o", "rows.npz", "--batch-first")
    assert same_bits(np.load("rows.npz")["output"].swapaxes(0, 1), np.load("steps.npz")["output"])


class TestInspect:
    def test_the_table(self, folder):
        tagger()
        output = done("inspect", "tagger.safetensors")
        rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line and ":" not in line}
        assert rows["name"] == ["kind", "input", "hidden", "proj", "layers", "directions", "parameters", "dtype", "MB"]
        assert rows["encoder.lstm"] == ["LSTM", "6", "4", "-", "2", "2", "832", "float32", "0.003"]
        assert rows["decoder.cell"] == ["LSTMCell", "8", "5", "-", "1", "1", "260", "float64", "0.002"]
        assert rows["broken"] == ["LSTM", *"------", "float32", "-"]
        lines = output.splitlines()
        assert lines[0] == f"tagger.safetensors: safetensors, {os.path.getsize('tagger.safetensors'):,} bytes"
        assert "encoder.lstm: in tensors, encoder.lstm.*" in lines
        assert "decoder.cell: in tensors, decoder.cell.*, bias=False" in lines
        problem = "broken.bias_hh_l0 has shape (7,); hidden_size 2, from weight_hh_l0, asks for (8,)"
        assert lines[lines.index("broken: in tensors, broken.*") + 1] == f"  cannot be loaded: {problem}"
        assert lines[-1].endswith("; --tensors lists them")
        assert max(map(len, lines)) <= 120

    def test_columns_are_aligned(self, folder):
        tagger()
        lines = done("inspect", "tagger.safetensors").splitlines()[2:6]
        assert len({len(line) for line in lines}) == 1  # the last column ends at the right

    def test_the_tensors_besides(self, folder):
        tagger()
        output = done("inspect", "tagger.safetensors", "--tensors")
        table = output[output.index("name", output.index("other tensors")) :].splitlines()
        assert table[0].split() == ["name", "shape", "dtype", "MB"]
        listed = {line.split()[0]: line.split(None, 1)[1] for line in table[1:]}
        assert "embedding.weight" in listed and "encoder.lstm.weight_ih_l0" not in listed
        assert listed["head.weight"].split() == ["(3,", "8)", "float16", "0.000"]
        assert "broken.weight_ih_l0" in listed  # they are no LSTM's

    def test_flags_that_the_file_states(self, folder):
        save("m.npz", num_layers=2, batch_first=True, dropout=0.5, proj_size=2)
        output = done("inspect", "m.npz")
        assert "(no name): in tensors, batch_first=True, dropout=0.5" in output
        assert output.endswith("no other tensors\n")

    def test_no_lstm_is_said_and_is_exit_code_1(self, folder):
        gates = np.zeros((12, 4), np.float32)
        save_file({"gru.weight_ih_l0": gates, "gru.weight_hh_l0": gates}, "gru.safetensors")
        result = invoke("inspect", "gru.safetensors")
        assert result.exit_code == 1
        assert "It holds no LSTM." in result.output
        assert "belongs to a GRU, not to an LSTM" in result.output
        assert "2 tensors, 384 bytes; --tensors lists them" in result.output
        assert "Error" not in result.output

    @pytest.mark.parametrize(
        "name", ["\x1b[2J\x1b]0;x\x07.lstm", "a\nfake row 1 2 3", "\u202egnp.mtsl", "\x9b31m", "x" * 500]
    )
    def test_names_move_no_cursor(self, folder, name):
        tensors = named(name, numlstm.LSTM(3, 2, seed=0)) | {f"{name}!": np.zeros(3)}
        tensors |= named(f"{name} 2", numlstm.LSTM(3, 2, seed=0))
        save_file(tensors, "hostile.safetensors")
        output = done("inspect", "hostile.safetensors", "--tensors")
        assert all(line.isprintable() for line in output.split("\n"))
        assert len(output.split("\n")) == 16
        refused("convert", "hostile.safetensors", "out.npz")
        refused("convert", "hostile.safetensors", "out.npz", "--name", "\x1b[31m")
        done("convert", "hostile.safetensors", "out.npz", "--name", name)

    @pytest.mark.parametrize("name", ["\x1b[31m.npz", "two\nlines.npz", b"\xff\xfe.npz"])
    def test_file_names_move_no_cursor(self, folder, name):
        save(name if isinstance(name, str) else os.fsdecode(name))
        for args in (["inspect", name], ["check", name], ["convert", name, "a.npz"]):
            ran = subprocess.run([*COMMAND, *args], capture_output=True, timeout=120, check=False)
            assert ran.returncode == 0, ran.stderr
            assert all(line.isprintable() for line in ran.stdout.decode().split("\n"))
        ran = subprocess.run([*COMMAND, "convert", name, name], capture_output=True, timeout=120, check=False)
        assert ran.returncode == 1
        assert ran.stderr.decode()[:-1].isprintable()


class TestConvert:
    @pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
    def test_the_parameters_arrive_to_the_bit(self, folder, suffix):
        lstm = save("in.safetensors", num_layers=2, bidirectional=True, batch_first=True)
        output = done("convert", "in.safetensors", f"out{suffix}")
        assert output.startswith(
            f"out{suffix}: LSTM(6, 4, num_layers=2, batch_first=True, bidirectional=True), float32, "
        )
        again = numlstm.load(f"out{suffix}")
        assert repr(again) == repr(lstm)
        for name, array in lstm.state_dict().items():
            assert same_bits(again.state_dict()[name], array)

    def test_one_of_several_and_what_stays_behind(self, folder):
        tagger()
        assert "pass the name of one of them" in refused("convert", "tagger.safetensors", "out.npz")
        assert "broken cannot be loaded" in refused("convert", "tagger.safetensors", "out.npz", "--name", "broken")
        output = done("convert", "tagger.safetensors", "out.npz", "--name", "decoder.cell")
        assert output.splitlines()[0].startswith("out.npz: LSTMCell(8, 5, bias=False), float64, ")
        assert "2 more LSTMs of tagger.safetensors stayed behind" in output
        assert "other tensors of tagger.safetensors stayed behind" in output
        assert isinstance(numlstm.load("out.npz"), numlstm.LSTMCell)

    def test_dtype_and_batch_first_are_stated(self, folder):
        save_file(numlstm.LSTM(6, 4, seed=0).state_dict(), "in.safetensors")
        done("convert", "in.safetensors", "out.safetensors", "--dtype", "float64", "--batch-first")
        lstm = numlstm.load("out.safetensors")
        assert (lstm.dtype, lstm.batch_first) == (np.float64, True)
        done("convert", "out.safetensors", "back.npz", "--batch-first", "--dtype", "float32")
        assert (numlstm.load("back.npz").dtype, numlstm.load("back.npz").batch_first) == (np.float32, True)
        numlstm.LSTMCell(3, 2).save("cell.npz")
        assert "has no batch_first" in refused("convert", "cell.npz", "out.npz", "--batch-first")

    def test_an_assumption_that_becomes_a_statement_is_told(self, folder):
        save_file(numlstm.LSTM(6, 4, seed=0).state_dict(), "in.safetensors")
        says = (
            "Warning: in.safetensors does not say whether the batch comes first, and out.npz states batch_first=False"
        )
        for options, warned in ([], True), (["--steps-first"], False):
            ran = process("convert", "in.safetensors", "out.npz", *options)
            assert ran.returncode == 0 and (says in ran.stderr) is warned and bool(ran.stderr) is warned
            assert numlstm.list_lstms("out.npz")[0].batch_first is False

    def test_the_file_itself_is_never_overwritten(self, folder):
        tagger("in.safetensors")
        os.symlink("in.safetensors", "link.safetensors")
        os.link("in.safetensors", "hard.safetensors")
        before = (folder / "in.safetensors").read_bytes()
        for out in ("in.safetensors", folder / "in.safetensors", "link.safetensors", "hard.safetensors"):
            line = refused("convert", "in.safetensors", out, "--name", "encoder.lstm")
            assert "OUT is the same file as IN" in line
        assert (folder / "in.safetensors").read_bytes() == before

    def test_another_file_is_replaced_whole_or_not_at_all(self, folder, monkeypatch):
        save("in.npz")
        (folder / "out.npz").write_bytes(b"old")

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(atomic.os, "replace", full)
            line = refused("convert", "in.npz", "out.npz")
        assert line == "Error: out.npz cannot be written: No space left on device; nothing was changed"
        assert (folder / "out.npz").read_bytes() == b"old"
        assert sorted(os.listdir()) == ["in.npz", "out.npz"]
        done("convert", "in.npz", "out.npz")
        assert repr(numlstm.load("out.npz")) == "LSTM(6, 4)"

    def test_a_link_and_what_is_no_file_are_not_replaced(self, folder):
        """A user who may do anything would else turn /dev/null into a file."""
        save("in.npz")
        os.mkdir("there")
        os.symlink("there/out.npz", "link.npz")
        for _ in range(2):  # what the link leads to is not there at first
            done("convert", "in.npz", "link.npz")
            assert os.path.islink("link.npz") and repr(numlstm.load("there/out.npz")) == "LSTM(6, 4)"
        os.mkfifo("pipe")
        reading = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
        try:
            done("check", "in.npz", "-o", "pipe")
            assert b"verdict" in os.read(reading, 1 << 16)
        finally:
            os.close(reading)
        assert stat.S_ISFIFO(os.stat("pipe").st_mode)
        assert sorted(os.listdir()) == ["in.npz", "link.npz", "pipe", "there"] and os.listdir("there") == ["out.npz"]

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["absent.npz", "out.npz"], "absent.npz: No such file or directory"),
            ([".", "out.npz"], ". is a directory; a model file is expected"),
            (["in.npz", "out.pt"], "the suffix must be one of .safetensors, .npz, .onnx, not '.pt'"),
            (["in.npz", "out"], "the suffix must be one of .safetensors, .npz, .onnx, not ''"),
            (["in.npz", "no/out.npz"], "no/out.npz cannot be written: there is no folder no"),
            (["in.npz", "folder.npz"], "folder.npz is a directory"),
            (
                ["in.npz", "out.npz", "--name", "encoder"],
                "it holds no LSTM named 'encoder'; it has: (no name): LSTM(6, 4)",
            ),
        ],
    )
    def test_what_is_refused(self, folder, args, says):
        save("in.npz")
        os.mkdir("folder.npz")
        assert says in refused("convert", *args)
        assert sorted(os.listdir()) == ["folder.npz", "in.npz"]


CASES = {
    "one direction": {},
    "batch first": {"batch_first": True},
    "two directions": {"num_layers": 2, "bidirectional": True},
    "two directions, batch first": {"bidirectional": True, "batch_first": True},
    "projected": {"proj_size": 3, "num_layers": 2},
    "projected, two directions, float64": {"proj_size": 2, "bidirectional": True, "dtype": "float64"},
    "float64, batch first": {"num_layers": 3, "dtype": "float64", "batch_first": True},
}


def sequences(lstm, steps=23, rows=7, dtype=np.float32, seed=1):
    shape = (rows, steps, 6) if lstm.batch_first else (steps, rows, 6)
    return (10 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def states(lstm, rows=7, seed=2):
    rng = np.random.default_rng(seed)
    cells = lstm.num_layers * (1 + lstm.bidirectional)
    shapes = (cells, rows, lstm.proj_size or lstm.hidden_size), (cells, rows, lstm.hidden_size)
    return tuple(rng.standard_normal(shape).astype(lstm.dtype) for shape in shapes)


def results(path="out.npz"):
    with np.load(path) as file:
        return file["output"], file["h_n"], file["c_n"]


def agree(got, want):
    output, (h_n, c_n) = want
    return all(same_bits(a, b) for a, b in zip(got, (output, h_n, c_n), strict=True))


@pytest.fixture
def pieces(monkeypatch):
    """How many steps of all rows each piece of a run had."""
    taken = []
    forward = run.LSTM.forward

    def counted(self, x, hx=None):
        taken.append(x.shape)
        return forward(self, x, hx)

    monkeypatch.setattr(run.LSTM, "__call__", counted)
    return taken


class TestRun:
    @pytest.mark.parametrize("chunk", [64, 0.0015, 0.0001])
    @pytest.mark.parametrize("case", CASES)
    def test_pieces_give_the_bits_of_one_call(self, folder, case, chunk, pieces, monkeypatch):
        lstm = save("m.npz", **CASES[case])
        x, hx = sequences(lstm), states(lstm)
        want = lstm.forward(x, hx)
        monkeypatch.setattr(disk_array, "SPAN", 700)
        np.save("x.npy", x)
        np.savez("state.npz", h_0=hx[0], c_0=hx[1])
        output = done("run", "m.npz", "x.npy", "-o", "out.npz", "--state", "state.npz", "--chunk", chunk)
        assert agree(results(), want)
        assert output == (
            f"out.npz: output {want[0].shape}, h_n {want[1][0].shape}, c_n {want[1][1].shape}, {lstm.dtype}\n"
        )
        assert len(pieces) == 1 if chunk == 64 else len(pieces) > 3
        assert sum(np.prod(shape[:2]) for shape in pieces) == 23 * 7
        if lstm.bidirectional:
            assert all(shape[1 if lstm.batch_first else 0] == 23 for shape in pieces)
        assert not agree([flip_one_bit(want[0]), *want[1]], want)  # the comparison sees one bit
        assert sorted(os.listdir()) == ["m.npz", "out.npz", "state.npz", "x.npy"]

    def test_a_piece_too_many_is_noticed(self, folder, monkeypatch):
        """Planted: the state is not handed on from piece to piece."""
        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm))
        forward = run.LSTM.forward
        monkeypatch.setattr(run.LSTM, "__call__", lambda self, x, hx=None: forward(self, x))
        done("run", "m.npz", "x.npy", "-o", "out.npz", "--chunk", 0.004)
        assert not agree(results(), lstm.forward(sequences(lstm)))

    @pytest.mark.parametrize("dtype", ["<f2", ">f8", "<i4", "u1"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_any_real_dtype_and_order(self, folder, dtype, order, pieces):
        lstm = save("m.npz", batch_first=True)
        x = np.asarray(np.abs(sequences(lstm)), dtype, order=order)
        np.save("x.npy", x)
        done("run", "m.npz", "x.npy", "-o", "out.npz", "--chunk", 0.001)
        assert len(pieces) > 2
        assert agree(results(), lstm.forward(x))

    def test_a_run_goes_on_where_another_ended(self, folder):
        lstm = save("m.safetensors", num_layers=2)
        x = sequences(lstm)
        np.save("first.npy", x[:10])
        np.save("second.npy", x[10:])
        done("run", "m.safetensors", "first.npy", "-o", "s.npz")
        first = results("s.npz")[0]
        done("run", "m.safetensors", "second.npy", "-o", "s.npz", "--state", "s.npz")  # out may be the state
        second, *last = results("s.npz")
        assert agree((np.concatenate([first, second]), *last), lstm.forward(x))

    def test_npz_with_states(self, folder):
        lstm = save("m.npz", bidirectional=True)
        x, hx = sequences(lstm), states(lstm)
        np.savez_compressed("x.npz", input=x, h_0=hx[0], c_0=hx[1], label=np.arange(3))
        done("run", "m.npz", "x.npz", "-o", "out.npz", "--chunk", 0.002)
        assert agree(results(), lstm.forward(x, hx))
        np.savez("x.npz", input=x)
        done("run", "m.npz", "x.npz", "-o", "out.npz")
        assert agree(results(), lstm.forward(x))

    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize("chunk", [64, 0.001])
    def test_one_sequence_without_a_batch(self, folder, batch_first, chunk):
        lstm = save("m.npz", batch_first=batch_first, num_layers=2)
        x = np.random.default_rng(3).standard_normal((40, 6))
        hx = states(lstm, rows=1)
        hx = hx[0][:, 0], hx[1][:, 0]
        np.savez("state.npz", h_n=hx[0], c_n=hx[1])
        np.save("x.npy", x)
        done("run", "m.npz", "x.npy", "-o", "out.npz", "--state", "state.npz", "--chunk", chunk)
        assert agree(results(), lstm.forward(x, hx))
        assert results()[1].shape == (2, 4)

    def test_the_batch_first_that_a_file_does_not_state(self, folder):
        lstm = numlstm.LSTM(6, 4, seed=0, batch_first=True).eval()
        save_file(dict(lstm.state_dict()), "m.safetensors")
        x = sequences(lstm)
        np.save("x.npy", x)
        done("run", "m.safetensors", "x.npy", "-o", "out.npz", "--batch-first")
        assert agree(results(), lstm.forward(x))
        done("run", "m.safetensors", "x.npy", "-o", "out.npz")
        assert results()[1].shape == (1, 23, 4)

    def test_a_cell_runs_over_all_steps(self, folder):
        cell = numlstm.LSTMCell(6, 4, seed=0)
        cell.save("cell.npz")
        x = np.random.default_rng(4).standard_normal((9, 3, 6)).astype(np.float32)
        np.save("x.npy", x)
        done("run", "cell.npz", "x.npy", "-o", "out.npz", "--chunk", 0.0005)
        h = c = np.zeros((3, 4), np.float32)
        output, h_n, c_n = results()
        for t, step in enumerate(x):
            h, c = cell(step, (h, c))
            assert same_bits(output[t], h)
        assert same_bits(h_n, h[None]) and same_bits(c_n, c[None])

    def test_an_empty_batch(self, folder):
        lstm = save("m.npz")
        np.save("x.npy", np.zeros((5, 0, 6)))
        done("run", "m.npz", "x.npy", "-o", "out.npz")
        assert agree(results(), lstm.forward(np.zeros((5, 0, 6))))

    def test_nan_is_a_number_here(self, folder):
        lstm = save("m.npz")
        x = sequences(lstm)
        x[3, 2, 1] = np.nan
        np.save("x.npy", x)
        done("run", "m.npz", "x.npy", "-o", "out.npz")
        np.testing.assert_array_equal(results()[0], lstm.forward(x)[0])
        assert np.isnan(results()[0]).any()

    def test_the_archive_is_the_same_bytes_again(self, folder):
        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm))
        done("run", "m.npz", "x.npy", "-o", "a.npz")
        done("run", "m.npz", "x.npy", "-o", "b.npz", "--chunk", 0.001)
        assert (folder / "a.npz").read_bytes() == (folder / "b.npz").read_bytes()
        assert zipfile.ZipFile("a.npz").testzip() is None

    @pytest.mark.parametrize(
        "text", ["a,b,c\n1,2,3\n4,5.5,-6e1\n", "1,2,3\r\n4,5.5,-6e1\r\n\r\n", "\ufeff1, 2,3\n4,5.5,-6e1"]
    )
    def test_csv(self, folder, text):
        lstm = save("m.npz", input_size=3)
        (folder / "x.csv").write_bytes(text.encode())
        done("run", "m.npz", "x.csv", "-o", "out.npz")
        assert agree(results(), lstm.forward([[1, 2, 3], [4, 5.5, -60]]))

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (b"1,2,3\n4,x,6\n", "line 2, column 2: 'x' is not a number"),
            (b"a,b,c\n1,2,3\n4,,6\n", "line 3, column 2: '' is not a number"),
            (b"1,b,3\n", "line 1, column 2: 'b' is not a number"),
            (b"1;2;3\n4;5;6\n7;8;9\n", "line 2 "),
            (b"1,2,3\n4,5\n", "line 2 has 2 columns; the lines before it have 3"),
            (b"a,b\n1,2,3\n", "line 2 has 3 columns; the lines before it have 2"),
            (b"1,2,3\n\n4,5,6\n", "line 2 is empty; a step cannot be left out"),
            (b"", "it holds no line of numbers"),
            (b"\n\n", "it holds no line of numbers"),
            (b"a,b,c\n", "it holds no line of numbers"),
            (b"1,2,\xff\n", "it is no text in UTF-8"),
            (b'1,2,"3\n', "unexpected end of data"),
            (b"1,2\n3,4\n", "Expected 3, got 2"),
        ],
    )
    def test_csv_that_is_none(self, folder, text, says):
        save("m.npz", input_size=3)
        (folder / "x.csv").write_bytes(text)
        if text.startswith(b"1;"):
            says = "line 2, column 1: '4;5;6' is not a number"
        line = refused("run", "m.npz", "x.csv", "-o", "out.npz")
        assert says in line
        assert sorted(os.listdir()) == ["m.npz", "x.csv"]

    @pytest.mark.parametrize(
        ("array", "says"),
        [
            (np.zeros((5, 2, 7)), "input.size(-1) must be equal to input_size. Expected 6, got 7"),
            (np.zeros(6), "LSTM: Expected input to be 2D or 3D, got 1D instead"),
            (np.zeros(()), "LSTM: Expected input to be 2D or 3D, got 0D instead"),
            (np.zeros((1, 2, 3, 6)), "LSTM: Expected input to be 2D or 3D, got 4D instead"),
            (np.zeros((0, 2, 6)), "Expected sequence length to be larger than 0 in RNN"),
            (np.zeros((5, 2, 6), complex), "input must hold real numbers, not complex128"),
            (np.zeros((5, 2, 6), bool), "input must hold real numbers, not bool"),
            (np.zeros((5, 2), [("a", "f4")]), "input must hold real numbers, not"),
            (np.zeros((5, 2, 6), object), "it is an array of Python objects, which are pickles"),
        ],
    )
    def test_input_that_does_not_fit(self, folder, array, says):
        save("m.npz")
        np.save("x.npy", array)
        assert says in refused("run", "m.npz", "x.npy", "-o", "out.npz")
        if not array.dtype.hasobject:
            np.savez("x.npz", input=array)
            refused("run", "m.npz", "x.npz", "-o", "out.npz")
        assert not os.path.exists("out.npz")

    def test_states_that_do_not_fit(self, folder):
        lstm = save("m.npz")
        x, (h, c) = sequences(lstm), states(lstm)
        np.save("x.npy", x)
        says = {
            "Expected hidden[0] size (1, 7, 4), got [2, 7, 4]": {"h_0": np.concatenate([h, h]), "c_0": c},
            "hx and cx should also be 3-D but got (2-D, 2-D) tensors": {"h_n": h[:, 0], "c_n": c[:, 0]},
            "it holds h_n but no c_n; both states are needed": {"h_n": h},
            "it holds neither h_n and c_n nor h_0 and c_0, but x": {"x": h},
            "c_0 must hold real numbers, not bool": {"h_0": h, "c_0": c > 0},
        }
        for sentence, arrays in says.items():
            np.savez("state.npz", **arrays)
            assert sentence in refused("run", "m.npz", "x.npy", "-o", "out.npz", "--state", "state.npz")
        np.savez("x.npz", input=x, h_0=h, c_0=c)
        np.savez("state.npz", h_0=h, c_0=c)
        line = refused("run", "m.npz", "x.npz", "-o", "out.npz", "--state", "state.npz")
        assert "x.npz holds h_0 and c_0 already" in line
        assert "state.npy: it is no .npz file" in self.swapped(lstm, x)

    @staticmethod
    def swapped(lstm, x):
        np.save("state.npy", x)
        return refused("run", "m.npz", "x.npy", "-o", "out.npz", "--state", "state.npy")

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["absent.npz", "x.npy", "-o", "out.npz"], "absent.npz: No such file or directory"),
            (["m.npz", "absent.npy", "-o", "out.npz"], "absent.npy: No such file or directory"),
            (["m.npz", ".", "-o", "out.npz"], ". is a directory; a file is expected"),
            (["m.npz", "x.npy", "-o", "out.npy"], "its name must end in .npz"),
            (["m.npz", "x.npy", "-o", "no/out.npz"], "no/out.npz cannot be written: there is no folder no"),
            (["m.npz", "x.npy", "-o", "folder.npz"], "folder.npz is a directory"),
            (["m.npz", "x.npy", "-o", "m.npz"], "OUT is the same file as MODEL"),
            (["m.npz", "x.npz", "-o", "x.npz"], "OUT is the same file as INPUT"),
            (["m.npz", "m.npz", "-o", "out.npz"], "it holds no array named input; it holds "),
            (["m.npz", "text", "-o", "out.npz"], "text must be named .csv"),
            (["m.npz", "cut.npy", "-o", "out.npz"], "cut.npy: it is no sound .npy file: it states shape (23, 7, 6)"),
            (["m.npz", "huge.npy", "-o", "out.npz"], "huge.npy: it is no sound .npy file: it states shape "),
            (["m.npz", "x.npy", "-o", "out.npz", "--state", "absent"], "absent: No such file or directory"),
            (["m.npz", "x.npy", "-o", "out.npz", "--state", "."], ". is a directory; a file is expected"),
            (["m.npz", "x.npy", "-o", "out.npz", "--name", "a"], "it holds no LSTM named 'a'"),
        ],
    )
    def test_what_is_refused(self, folder, args, says):
        lstm = save("m.npz")
        os.mkdir("folder.npz")
        np.save("x.npy", sequences(lstm))
        np.savez("x.npz", input=sequences(lstm))
        whole = (folder / "x.npy").read_bytes()
        (folder / "cut.npy").write_bytes(whole[:-1])
        (folder / "huge.npy").write_bytes(
            whole.replace(b"(23, 7, 6)", b"(9999999999999999, 7, 6)".ljust(10))[: len(whole)]
        )
        (folder / "text").write_text("1,2\n")
        before = sorted(os.listdir())
        assert says in refused("run", *args)
        assert sorted(os.listdir()) == before

    def test_one_input_at_a_time(self, folder):
        """The hint at quotes is for patterns, which are for Parquet."""
        result = invoke("run", "m.npz", "x.npy", "y.npy", "-o", "out.npz")
        assert result.exit_code == 2
        assert "INPUT is one file, folder or pattern, and 2 were given: x.npy, y.npy" in result.output
        assert "quotes" not in result.output
        result = invoke("run", "m.npz", "a.parquet", "b\x1b.parquet", "-o", "out.npz")
        assert result.exit_code == 2
        assert "2 were given: a.parquet, b\\x1b.parquet; write a pattern in quotes, 'data/*.parquet'" in result.output

    def test_a_pipe_is_not_waited_for(self, folder):
        save("m.npz")
        os.mkfifo("pipe.npy")
        assert "pipe.npy is no regular file" in refused("run", "m.npz", "pipe.npy", "-o", "out.npz")

    @pytest.mark.parametrize("command", ["run", "trace"])
    def test_a_device_that_says_where_one_is(self, folder, command):
        """/dev/null says 0, wherever one is; an archive that believes it cannot be ended."""
        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm))
        os.symlink(os.devnull, "null.npz")
        done(command, "m.npz", "x.npy", "-o", "null.npz")
        assert stat.S_ISCHR(os.stat("null.npz").st_mode)

    def test_results_into_a_pipe(self, folder):
        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm))
        os.mkfifo("pipe.npz")
        reading = os.open("pipe.npz", os.O_RDONLY | os.O_NONBLOCK)
        try:
            done("run", "m.npz", "x.npy", "-o", "pipe.npz")
            (folder / "out.npz").write_bytes(os.read(reading, 1 << 16))
        finally:
            os.close(reading)
        assert agree(results(), lstm.forward(sequences(lstm)))

    def test_a_piece_may_be_as_large_as_a_number(self, folder):
        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm))
        done("run", "m.npz", "x.npy", "-o", "out.npz", "--chunk", "1e308")
        assert agree(results(), lstm.forward(sequences(lstm)))

    @pytest.mark.parametrize(("numbers", "says"), [(np.complex64, "complex"), (str, "text")])
    def test_arrays_of_no_real_numbers_are_named(self, folder, numbers, says):
        lstm = save("m.npz")
        x = sequences(lstm)
        np.savez("x.npz", input=x.astype(numbers))
        line = refused("run", "m.npz", "x.npz", "-o", "out.npz")
        assert "x.npz: its array input must hold real numbers" in line and says in line
        np.save("x.npy", x)
        np.savez("s.npz", h_n=np.zeros((1, 7, 4)), c_n=np.zeros((1, 7, 4)).astype(numbers))
        assert "s.npz: its array c_n must" in refused("run", "m.npz", "x.npy", "-o", "out.npz", "--state", "s.npz")
        np.save("x.npy", x.astype(numbers))
        assert f"of shape {x.shape}" in refused("run", "m.npz", "x.npy", "-o", "out.npz")

    def test_a_header_that_ends_in_the_midst_of_it(self, folder):
        """Python's tokenizer, which NumPy asks, has an error of its own kind."""
        save("m.npz")
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 6, "
        header = header.ljust(117) + b"\n"
        (folder / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(48))
        assert "x.npy: it is no sound .npy file" in refused("run", "m.npz", "x.npy", "-o", "out.npz")

    @pytest.mark.parametrize("where", ["reserve", "write", "dump"])
    @pytest.mark.parametrize("what", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError("no")])
    def test_a_failure_leaves_nothing_and_changes_nothing(self, folder, monkeypatch, where, what):
        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm))
        (folder / "out.npz").write_bytes(b"old")
        calls = []

        def fail(*_):
            calls.append(where)
            if len(calls) == 2:
                raise what

        name = {
            "reserve": (disk_array, "_reserve"),
            "write": (disk_array.DiskArray, "write"),
            "dump": (disk_array.DiskArray, "dump"),
        }
        monkeypatch.setattr(*name[where], fail)
        result = invoke("run", "m.npz", "x.npy", "-o", "out.npz", "--chunk", 0.001)
        assert len(calls) == 2
        assert result.exit_code == 1
        says = {
            OSError: "Error: out.npz cannot be written: No space left on device; nothing was changed\n",
            KeyboardInterrupt: "Aborted!",
            MemoryError: "Error: out of memory: no\n",
        }
        assert result.output.strip() == says[type(what)].strip()
        assert (folder / "out.npz").read_bytes() == b"old"
        assert sorted(os.listdir()) == ["m.npz", "out.npz", "x.npy"]

    def test_where_room_cannot_be_reserved_it_is_written(self, folder, monkeypatch):
        def unable(*_):
            raise OSError(95, "Operation not supported")

        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm))
        monkeypatch.setattr(disk_array.os, "posix_fallocate", unable, raising=False)
        done("run", "m.npz", "x.npy", "-o", "out.npz", "--chunk", 0.001)
        assert agree(results(), lstm.forward(sequences(lstm)))

    def test_a_limit_on_the_size_of_files(self, folder):
        """A real refusal by the system, where a map of a file without room would kill the process."""
        resource = need("resource")
        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm, steps=5000))

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (MB // 4, MB // 4))

        ran = process("run", "m.npz", "x.npy", "-o", "out.npz", preexec_fn=limit)
        assert ran.returncode == 1
        assert ran.stderr == "Error: out.npz cannot be written: File too large; nothing was changed\n"
        assert sorted(os.listdir()) == ["m.npz", "x.npy"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_interrupted_it_leaves_nothing(self, folder, number):
        save("m.npz", input_size=64, hidden_size=512, num_layers=3)
        np.save("x.npy", np.zeros((20_000, 8, 64), np.float32))
        with subprocess.Popen(
            [*COMMAND, "run", "m.npz", "x.npy", "-o", "out.npz", "--chunk", "0.1"],
            stderr=subprocess.PIPE,
            text=True,
            # a shell's background jobs, and so their children, are born deaf to one, and those of nohup to another
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509
        ) as running:
            while not any(name.startswith(".out.npz") for name in os.listdir()):
                assert running.poll() is None
                time.sleep(0.01)
            running.send_signal(number)
            if number == signal.SIGHUP:
                running.send_signal(number)  # as of a terminal that is closed: by the system, and by its shell
            _, said = running.communicate(timeout=60)
        assert (running.returncode, said.strip()) == ((1, "Aborted!") if number == signal.SIGINT else (-number, ""))
        assert sorted(os.listdir()) == ["m.npz", "x.npy"]


ENDED = """
import os, signal, sys
import numpy as np
from numlstm.base import atomic; from numlstm import cli
numbers, commands = {numbers}, {commands}
if {planted}:
    import contextlib
    from numlstm.commands import messages
    messages.tidy = contextlib.nullcontext
for number in numbers:
    for command in commands:
        child = os.fork()
        if not child:
            signal.signal(number, signal.SIG_DFL)
            atomic._sync = lambda handle: os.kill(os.getpid(), number)
            cli.main([str(part) for part in command])
        _, status = os.waitpid(child, 0)
        assert status == number, (command, status)
        assert sorted(os.listdir()) == ["m.npz", "x.npy"], (number, command, os.listdir())
"""


class TestEndedBySignals:
    """At the moment when the file is complete and has not its name yet."""

    COMMANDS = (
        ("convert", "m.npz", "out.safetensors"),
        ("run", "m.npz", "x.npy", "-o", "out.npz"),
        ("trace", "m.npz", "x.npy", "-o", "out.npz"),
        ("check", "m.npz", "-o", "out.txt"),
    )

    def ended(self, commands, planted=False):
        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm))
        code = ENDED.format(numbers=[int(signal.SIGTERM)], commands=commands, planted=planted)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)

    def test_every_command_that_writes_leaves_nothing(self, folder):
        need("fcntl")
        ran = self.ended(self.COMMANDS)
        assert ran.returncode == 0, ran.stderr

    def test_the_guard_is_one(self, folder):
        """Planted: without it the file stays."""
        need("fcntl")
        ran = self.ended(self.COMMANDS[:1], planted=True)
        assert "AssertionError" in ran.stderr and ".part" in ran.stderr

    def test_it_is_around_every_command(self):
        assert all(hasattr(command_of(*words).callback, "__wrapped__") for words in command_names())


def test_a_signal_whose_exception_is_lost_ends_the_command_all_the_same():
    """As in a finalizer, whose exceptions Python only prints."""
    code = """if True:
        import os, signal
        from numlstm.base import console
        with console.tidy():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except BaseException:
                pass
    """
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (-signal.SIGTERM, "")


SMALL = """
import resource, sys
import numpy as np
import numlstm
from numlstm import cli
numlstm.load("m.npz")(np.zeros((2, 2, {inputs}), np.float32))  # kernels and what else is loaded once
with open("/proc/self/statm") as file:
    held = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + {headroom}, held + {headroom}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = cli.main(["run", "m.npz", "x.npy", "-o", "out.npz", "--chunk", "{chunk}"], standalone_mode=False)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


class TestMemory:
    """Inputs and results of several times the memory that the process may take."""

    HEADROOM = 64 * MB

    def ran(self, inputs, chunk):
        code = SMALL.format(inputs=inputs, headroom=self.HEADROOM, chunk=chunk)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)

    @pytest.mark.slow
    @pytest.mark.skipif(not LINUX, reason="the limit is Linux's")
    @pytest.mark.parametrize(
        ("shape", "flags"),
        [
            ((4000, 200, 64), {"hidden_size": 2}),
            ((200, 4000, 64), {"hidden_size": 2, "batch_first": True}),
            ((4000, 200, 64), {"hidden_size": 2, "bidirectional": True, "num_layers": 2}),
            ((4, 500_000, 2), {"hidden_size": 64, "proj_size": 8}),
            ((2000, 400, 2), {"hidden_size": 64, "batch_first": True}),
        ],
    )
    def test_memory_is_bounded(self, folder, shape, flags):
        lstm = save("m.npz", input_size=shape[-1], **flags)
        x = np.lib.format.open_memmap("x.npy", "w+", np.float32, shape)
        rng = np.random.default_rng(0)
        x[:3, :3] = rng.standard_normal((3, 3, shape[2]))
        x[-3:, -3:] = rng.standard_normal((3, 3, shape[2]))
        x.flush()
        ran = self.ran(shape[-1], 4)
        assert ran.returncode == 0, ran.stderr
        assert os.path.getsize("x.npy") + os.path.getsize("out.npz") > 2.5 * self.HEADROOM
        assert int(ran.stdout.splitlines()[-1]) < self.HEADROOM
        assert agree(results(), lstm.forward(x))
        assert sorted(os.listdir()) == ["m.npz", "out.npz", "x.npy"]

    @pytest.mark.skipif(not LINUX, reason="the limit is Linux's")
    def test_the_limit_is_one(self, folder):
        """Planted: a piece as large as the input."""
        save("m.npz", input_size=64, hidden_size=2)
        np.lib.format.open_memmap("x.npy", "w+", np.float32, (4000, 200, 64)).flush()
        ran = self.ran(64, 1000)
        assert ran.returncode == 1
        assert "memory" in ran.stderr.lower()
        assert sorted(os.listdir()) == ["m.npz", "x.npy"]


class TestProgress:
    CODE = (
        "from numlstm import cli; from numlstm.base import console\nconsole.PATIENCE = {}\n"
        "cli.main(['run', 'm.npz', 'x.npy', '-o', 'out.npz', '--chunk', '0.004'])"
    )

    def shown(self, patience):
        """What a terminal shows of a run."""
        ours, theirs = pty.openpty()
        try:
            code = self.CODE.format(patience)
            subprocess.run(
                [sys.executable, "-c", code], stderr=theirs, timeout=120, check=True, stdout=subprocess.DEVNULL
            )
            os.set_blocking(ours, False)
            try:
                return os.read(ours, 1 << 20).decode()
            except BlockingIOError:
                return ""
        finally:
            os.close(ours)
            os.close(theirs)

    def test_a_bar_on_long_work_in_a_terminal_only(self, folder):
        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm, steps=200))
        shown = self.shown(-1)
        assert "####" in shown
        assert "100%" in shown
        assert self.shown(60) == ""  # not for short work
        ran = subprocess.run([sys.executable, "-c", self.CODE.format(-1)], capture_output=True, timeout=120, check=True)
        assert ran.stderr == b""  # not in a file

    def test_a_process_without_stderr(self, folder):
        """As after ``2>&-``: Python then has None in its place."""
        lstm = save("m.npz")
        np.save("x.npy", sequences(lstm, steps=200))
        code = self.CODE.format(-1).replace("cli.main", "import sys; sys.stderr = None; cli.main")
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=True)
        assert ran.stdout.startswith(b"out.npz: ")


def verdict(output):
    return next(line.removeprefix("verdict").strip() for line in output.splitlines() if line.startswith("verdict"))


def without_date(output):
    return [line for line in output.splitlines() if not line.startswith("date")]


@pytest.mark.cpu_level
class TestCheck:
    @pytest.mark.parametrize("case", CASES)
    def test_a_right_engine_passes(self, folder, case):
        if CASES[case].get("dtype") == "float64" and np.finfo(np.longdouble).nmant < 63:
            leave_out("needs a longdouble of 64 bits or more to judge float64")
        lstm = save("m.npz", **CASES[case])
        output = done("check", "m.npz")
        assert verdict(output) == "passed: every error is within its limit"
        facts = {line[:10].strip(): line[10:] for line in output.splitlines() if line[:1].strip()}
        sizes = repr(lstm).removesuffix(")")
        assert facts["model"].startswith(sizes.split(", num_layers")[0].split(", proj_size")[0])
        assert str(lstm.dtype) in facts["engine"] and np.__version__ in facts["engine"]
        digest = hashlib.sha256((folder / "m.npz").read_bytes()).hexdigest()
        assert facts["file"].endswith(f"SHA-256 {digest}")
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts["date"])
        assert facts["seed"] == "0"
        rows = [
            line.split() for line in output.splitlines() if line.split(" ")[0] in ("ordinary", "tiny", "large", "long")
        ]
        assert [row[0] for row in rows] == ["ordinary", "tiny", "large", "long"]
        for row in rows:
            *errors, limit = map(float, row[5:])
            assert len(errors) == 6
            assert 0 < max(errors[:3]) <= limit < 1e-4
        assert max(len(line) for line in output.splitlines() if not line.startswith("kernels ")) <= 120  # a path

    def test_it_is_the_same_again_and_can_be_kept(self, folder):
        save("m.npz", num_layers=2)
        first = done("check", "m.npz", "--seed", 3, "-o", "report.txt")
        assert (folder / "report.txt").read_text() == first
        assert without_date(done("check", "m.npz", "--seed", 3)) == without_date(first)
        assert without_date(done("check", "m.npz", "--seed", 4)) != without_date(first)

    @pytest.mark.slow
    def test_another_kernel_gives_the_same_bits(self, folder):
        from numlstm.kernels.loading import levels, registry

        own = registry.level()
        others = [
            level for level in levels.LEVELS.values() if level.triple == own.triple and level.fused and level != own
        ]
        save("m.npz")

        def digest(output):
            return next(line for line in output.splitlines() if line.startswith("results"))

        ran = [process("check", "m.npz", env={**os.environ, "NUMLSTM_CPU": level.name}) for level in others]
        able = [done.stdout for done in ran if "is not a level that this CPU has" not in done.stderr]
        for output in able:
            assert digest(output) == digest(done("check", "m.npz"))
        assert digest(done("check", "m.npz", "--seed", 1)) != digest(done("check", "m.npz"))

    def test_steps_and_batch(self, folder):
        save("m.npz")
        rows = [line.split() for line in done("check", "m.npz", "--steps", 7, "--batch", 3).splitlines()]
        assert [row[3:5] for row in rows if row and row[0] in ("ordinary", "long")] == [["7", "3"], ["56", "1"]]

    @pytest.mark.slow
    def test_a_large_model_takes_few_steps(self, folder):
        save("m.npz", input_size=300, hidden_size=600, num_layers=2)
        rows = [line.split() for line in done("check", "m.npz").splitlines()]
        taken = [int(row[3]) * int(row[4]) for row in rows if row and row[0] in ("ordinary", "tiny", "large", "long")]
        weights = 4 * 600 * (300 + 3 * 600)
        assert len(taken) == 4
        assert all(check.WORK["float32"] / 2 < steps * weights <= check.WORK["float32"] for steps in taken)

    def test_a_cell(self, folder):
        numlstm.LSTMCell(6, 4, seed=0).save("cell.npz")
        assert "LSTMCell(6, 4), float32, 192 parameters" in done("check", "cell.npz")

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l1", "bias_ih_l0_reverse", "weight_hr_l1"])
    def test_one_bit_of_a_parameter_that_numlstm_lost_is_found(self, folder, monkeypatch, name, dtype):
        """Planted: the engine computes with a number whose highest bit of the fraction is another."""
        save("m.npz", num_layers=2, bidirectional=True, proj_size=3, dtype=dtype)
        pack = Panels.pack.__func__

        def faulty(cls, config, into, named):
            return pack(
                cls, config, into, ((key, self.flipped(array) if key == name else array) for key, array in named)
            )

        assert invoke("check", "m.npz").exit_code == 0
        monkeypatch.setattr(Panels, "pack", classmethod(faulty))
        result = invoke("check", "m.npz")
        assert result.exit_code == 1
        assert verdict(result.output).startswith("FAILED: numlstm is beyond the limit on ordinary")
        assert result.output.splitlines()[-1].startswith("Error: m.npz: FAILED")

    @staticmethod
    def plant(monkeypatch, fault):
        """Let something happen to the results of every call of an LSTM."""
        forward = numlstm.LSTM.forward

        def faulty(self, x, hx=None):
            output, (h_n, c_n) = forward(self, x, hx)
            fault(output, h_n, c_n)
            return output, (h_n, c_n)

        monkeypatch.setattr(numlstm.LSTM, "__call__", faulty)

    @staticmethod
    def flipped(array):
        copy = np.array(array)
        kind, bit = (np.uint32, 22) if copy.dtype == np.float32 else (np.uint64, 51)
        copy.reshape(-1).view(kind)[-1] ^= kind(1 << bit)
        assert (copy != array).sum() == 1
        return copy

    @pytest.mark.parametrize("at", ["output", "h_n", "c_n"])
    def test_one_bit_of_a_result_is_found(self, folder, monkeypatch, at):
        save("m.npz")

        def faulty(output, h_n, c_n):
            array = {"output": output, "h_n": h_n, "c_n": c_n}[at]
            array[...] = self.flipped(array)

        self.plant(monkeypatch, faulty)
        assert verdict(invoke("check", "m.npz").output).startswith("FAILED")

    def test_a_tiny_signal_that_is_lost_is_found(self, folder, monkeypatch):
        """Planted: what is below 1e-7 is lost, which only the tiny numbers of a model without biases show."""
        save("m.npz", bias=False)

        def faulty(output, h_n, c_n):
            output[np.abs(output) < 1e-7] = 0

        self.plant(monkeypatch, faulty)
        assert verdict(invoke("check", "m.npz").output) == "FAILED: numlstm is beyond the limit on tiny numbers"

    def test_nan_from_the_engine_fails(self, folder, monkeypatch):
        save("m.npz")

        def faulty(output, h_n, c_n):
            output[-1, -1, -1] = np.nan

        self.plant(monkeypatch, faulty)
        assert verdict(invoke("check", "m.npz").output).startswith("FAILED")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nan_in_the_weights_is_no_pass(self, folder, value):
        parameters = numlstm.LSTM(6, 4, seed=0).state_dict()
        parameters["weight_hh_l0"][1, 2] = value
        np.savez("m.npz", **parameters)
        result = invoke("check", "m.npz", "-o", "report.txt")
        assert result.exit_code == 1
        assert verdict(result.output).startswith("undefined: NaN or infinity in weight_hh_l0")
        assert verdict((folder / "report.txt").read_text()).startswith("undefined")

    @pytest.mark.slow
    def test_a_model_that_tells_nothing_is_undecided(self, folder):
        parameters = numlstm.LSTM(6, 64, num_layers=8, seed=0).state_dict()
        np.savez("m.npz", **{name: array * 30 for name, array in parameters.items()})
        result = invoke("check", "m.npz")
        assert result.exit_code == 1
        assert verdict(result.output).startswith("undecided: on ")

    def test_where_rounding_grows_fewer_steps_are_taken(self, folder):
        parameters = numlstm.LSTM(6, 12, num_layers=2, seed=0).state_dict()
        np.savez("m.npz", **{name: array * 30 for name, array in parameters.items()})
        rows = {line.split()[0]: line.split() for line in invoke("check", "m.npz").output.splitlines() if line}
        assert int(rows["long"][3]) < 400

    def test_a_reference_without_more_digits(self, folder, monkeypatch):
        monkeypatch.setattr(check, "reference_dtype", lambda dtype: np.dtype(np.float64))
        save("m.npz", dtype="float64")
        output = done("check", "m.npz")
        assert "in float64\n          which has no more digits than the model here" in output
        monkeypatch.setattr(reference, "sigmoid", lambda x, flush=None: 0.5 + x / 4)  # planted: a judge that is wrong
        assert invoke("check", "m.npz").exit_code == 1

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["absent.npz"], "absent.npz: No such file or directory"),
            (["."], ". is a directory; a model file is expected"),
            (["m.npz", "-o", "no/c.txt"], "there is no folder no"),
            (["m.npz", "-o", "m.npz"], "-o is the same file as MODEL"),
            (["m.npz", "--name", "a"], "it holds no LSTM named 'a'"),
            (["junk.pt"], "which is no format that is known"),
        ],
    )
    def test_what_is_refused(self, folder, args, says):
        save("m.npz")
        (folder / "junk.pt").write_bytes(b"junk")
        assert says in refused("check", *args)
        assert sorted(os.listdir()) == ["junk.pt", "m.npz"]


class TestWarnings:
    def test_what_load_warns_of_is_a_line(self, folder):
        parameters = numlstm.LSTM(6, 4, seed=0).state_dict()
        parameters["bias_ih_l0"][1] = np.nan
        np.savez("m.npz", **parameters)
        np.save("x.npy", np.zeros((2, 6)))
        ran = process("run", "m.npz", "x.npy", "-o", "out.npz")
        assert ran.returncode == 0
        assert ran.stderr == "Warning: m.npz: NaN or infinity in bias_ih_l0; results will hold it too\n"


def test_who_ignores_a_signal_keeps_that():
    with console.tidy():
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with console.tidy():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        assert signal.signal(signal.SIGTERM, signal.SIG_DFL) == signal.SIG_IGN


def test_a_folder_that_is_gone_and_a_link_to_itself_are_sentences(folder):
    lstm = save("m.npz")
    np.save("x.npy", sequences(lstm))
    os.symlink("loop.npz", "loop.npz")
    assert "loop.npz cannot be written: it is a link" in refused("convert", "m.npz", "loop.npz")
    assert os.path.islink("loop.npz")
    model, x = folder / "m.npz", folder / "x.npy"
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir(folder / "gone")
    try:
        for args in (["convert", model], ["run", model, x, "-o"], ["trace", model, x, "-o"], ["check", model, "-o"]):
            assert refused(*args, "out.npz") == "Error: out.npz cannot be written: the current folder is gone"
    finally:
        os.chdir(folder)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_names_that_the_terminal_cannot_show(folder, encoding):
    save_file({f"größe温.{name}": value for name, value in numlstm.LSTM(3, 2).state_dict().items()}, "温.safetensors")
    options = {"env": os.environ | {"PYTHONIOENCODING": encoding}, "encoding": "latin-1"}
    for args in (
        ["inspect", "温.safetensors"],
        ["check", "温.safetensors"],
        ["convert", "温.safetensors", "度.npz", "--steps-first"],
    ):
        ran = process(*args, **options)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        if encoding == "latin-1":
            assert "\\u6e29" in ran.stdout or "\\u5ea6" in ran.stdout
    stdout = sys.stdout
    assert invoke("inspect", "温.safetensors").exit_code == 0
    assert sys.stdout is stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is a device of Linux")
@pytest.mark.parametrize("args", [["--help"], ["--version"], ["run", "--help"], ["inspect", "m.npz"]])
def test_no_room_for_what_is_printed(folder, args):
    save("m.npz")
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [*COMMAND, *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )
    assert ran.returncode == 1
    assert ran.stderr == "Error: [Errno 28] No space left on device\n"


def test_an_error_of_reading_names_the_file(folder, monkeypatch):
    save("m.npz")

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(numlstm.formats, "_contents", broken)
    assert refused("inspect", "m.npz") == "Error: m.npz: Input/output error"


def test_a_zip_bomb_is_refused_as_input(folder):
    save("m.npz")
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("input.npy", "w") as into:
        np.lib.format.write_array(into, np.zeros((1000, 500, 6), np.float32))
    assert "times is the limit" in refused("run", "m.npz", "bomb.npz", "-o", "out.npz")


def test_only_what_is_asked_for_is_read(folder):
    np.save("x.npy", np.arange(60.0).reshape(5, 4, 3))
    with sequence_files.opened("x.npy") as given:
        part = given.read(slice(1, 3), slice(2, 4))
        np.testing.assert_array_equal(part, np.arange(60.0).reshape(5, 4, 3)[1:3, 2:4])


@pytest.mark.parametrize("length", [0x80, 0x4B50])
def test_a_header_whose_length_looks_like_another_format(folder, length):
    """A safetensors file begins with the length of its header; b"\\x80" also begins a pickle, b"PK" a zip archive."""
    tensors = dict(numlstm.LSTM(3, 2, seed=0).state_dict())
    if length == 0x80:
        tensors = {"weight": np.zeros(3, np.float32)}
    begin = max(0, length - 600)
    for padding in range(begin, begin + 600):
        save_file(tensors, "m.safetensors", {"a": "b" * padding})
        if (folder / "m.safetensors").read_bytes()[:8] == length.to_bytes(8, "little"):
            break
    else:
        raise AssertionError("no header of that length was made")
    assert "m.safetensors: safetensors, " in invoke("inspect", "m.safetensors").output
