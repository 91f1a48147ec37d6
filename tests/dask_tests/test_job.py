"""Jobs over Parquet files: stopped, damaged, killed and resumed; broken inputs; no access for others."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from disk import Disk, failures, watching
from needs import need

import numlstm
from numlstm.base import atomic
from numlstm.cli import main

need("dask")
need("distributed")
need("pyarrow")
import pandas as pd  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from numlstm.dask import inputs, job, parts  # noqa: E402

FEATURES = ["heat", "load", "noise"]
COLUMNS = ("--group", "machine", "--order", "hour", "--features", ",".join(FEATURES))


def rows(machines, seed=0):
    """1 to 30 hours of each machine, all rows shuffled."""
    rng = np.random.default_rng(seed)
    frames = [
        pd.DataFrame(rng.standard_normal((hours, 3)), columns=FEATURES).assign(
            machine=f"m{n:02}", hour=rng.permutation(1000)[:hours]
        )
        for n, hours in zip(machines, rng.integers(1, 31, len(machines)), strict=True)
    ]
    return pd.concat(frames).sample(frac=1, random_state=seed).reset_index(drop=True)


class Place:
    """A folder with a model and Parquet files, each of which holds the whole sequences of some machines."""

    def __init__(self, folder, files=4):
        self.folder, self.out = folder, folder / "out"
        self.lstm = numlstm.LSTM(3, 5, seed=1).eval()
        self.lstm.save(folder / "model.safetensors")
        (folder / "data").mkdir()
        for n in range(files):
            self.give(n, rows(range(10 * n, 10 * n + 10), n))

    def input(self, n):
        return self.folder / "data" / f"{n}.parquet"

    def give(self, n, table, **options):
        table.to_parquet(self.input(n), index=False, **options)

    def run(self, **changes):
        said = []
        arguments = {"scheduler": "local", "group": "machine", "order": "hour", "features": FEATURES} | changes
        pattern = str(arguments.pop("pattern", self.folder / "data"))
        job.run(self.folder / "model.safetensors", pattern, self.out, echo=said.append, **arguments)
        return said

    def command(self, *arguments):
        with contextlib.chdir(self.folder):
            return CliRunner().invoke(main, ["run", "model.safetensors", *arguments])

    def process(self, code, **environment):
        """Run Python code in a process of its own, which has the command's arguments."""
        command = [sys.executable, "-c", code, "run", "model.safetensors", "data", "-o", "out", *COLUMNS]
        return subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | environment,
        )

    def names(self):
        return sorted(os.listdir(self.out)) if self.out.exists() else []

    def stamps(self):
        return {path.name: path.stat().st_ino for path in self.out.glob("part-*")}

    def is_right(self, per="sequence"):
        """Whether the output has the bits of each sequence alone, and nothing else lies beside it."""
        count = len([name for name in self.names() if parts.NAME.fullmatch(name)])
        if self.names() != [job.MANIFEST, *map(parts.name, range(count))]:
            return False
        table = pd.concat([pd.read_parquet(path) for path in sorted((self.folder / "data").iterdir())])
        keys = ["machine"] if per == "sequence" else ["machine", "hour"]
        found = pd.read_parquet(self.out).sort_values(keys)
        known = []
        for machine, steps in table.groupby("machine"):
            steps = steps.sort_values("hour")
            output, (h_n, _) = self.lstm(steps[FEATURES].to_numpy(np.float32))
            known += [h_n[0]] if per == "sequence" else list(output)
            assert machine in set(found["machine"])
        got = found[[f"output_{n}" for n in range(5)]].to_numpy()
        return got.dtype == np.float32 and got.tobytes() == np.stack(known).tobytes()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def small(tmp_path):
    return Place(tmp_path, files=2)


def flipped(content, at=-1):
    at = at % len(content)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


# Results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True], ids=["shuffled", "whole"])
@pytest.mark.parametrize("per", ["sequence", "step"])
def test_a_job_gives_the_bits_of_each_sequence_alone(place, per, whole):
    assert place.run(per=per, whole=whole) == [f"{place.out}: 4 parts, a row for each {per}"]
    assert place.is_right(per)
    stamps = place.stamps()
    assert place.run(per=per, whole=whole)[0] == f"{place.out}: 4 of 4 parts are there already"
    assert place.stamps() == stamps


def test_the_command(place):
    done = place.command("data/*.parquet", "-o", "out", "--scheduler", "local", *COLUMNS)
    assert (done.exit_code, done.output) == (0, "out: 4 parts, a row for each sequence\n")
    assert place.is_right()
    again = place.process("from numlstm import cli; cli.main()")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines() == ["out: 4 of 4 parts are there already", "out: 4 parts, a row for each sequence"]


def test_one_part_is_one_part(place):
    said = place.run(pattern=place.input(0))
    assert said == [f"{place.out}: 1 part, a row for each sequence"]
    assert place.run(pattern=place.input(0))[0] == f"{place.out}: 1 of 1 part is there already"


def test_large_files_are_cut_by_row_groups_and_whole_ones_are_not(place, monkeypatch):
    monkeypatch.setattr(inputs, "PIECE", 1)
    for n in range(4):
        place.give(n, rows(range(10 * n, 10 * n + 10), n), row_group_size=50)
    many = sum(pq.read_metadata(place.input(n)).num_row_groups for n in range(4))
    assert many > 8
    assert f"{many} parts" in place.run()[-1]
    assert place.is_right()
    shutil.rmtree(place.out)
    assert "4 parts" in place.run(whole=True)[-1]
    assert place.is_right()


def test_pieces_are_runs_of_row_groups(monkeypatch):
    monkeypatch.setattr(inputs, "PIECE", 10)
    cut = [(one.path, list(groups)) for one, groups in inputs.pieces([known("a", (4, 4, 4, 20, 1)), known("b", ())])]
    assert cut == [("a", [0, 1]), ("a", [2]), ("a", [3]), ("a", [4]), ("b", [])]


def known(path, groups):
    return inputs.Input(path, 0, "", 0, groups)


@pytest.mark.parametrize("whole", [False, True], ids=["shuffled", "whole"])
def test_files_may_differ_in_types_that_hold_the_same(place, whole):
    for n, kind in enumerate(("int64", "int32", "int16", "int64")):
        keys = {f"m{m:02}": m - 20 for m in range(40)}
        table = rows(range(10 * n, 10 * n + 10), n)
        place.give(n, table.assign(machine=table["machine"].map(keys).astype(kind), heat=table["heat"].astype("f4")))
    change(place.input(0), lambda table: table.assign(heat=7))
    place.run(whole=whole)
    assert place.is_right()
    assert {str(pq.read_schema(path).field("machine").type) for path in place.out.glob("part-*")} == {"int64"}


def test_an_index_of_pandas_is_a_key_where_it_is_named_and_no_feature(place):
    for n in range(4):
        table = rows(range(10 * n, 10 * n + 10), n)
        table.set_index("hour").to_parquet(place.input(n))
    assert "4 parts" in place.run(features=None)[-1]
    found = pd.read_parquet(place.out)
    assert len(found) == 40


# Going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True], ids=["shuffled", "whole"])
def test_a_job_goes_on_where_it_was_stopped(place, monkeypatch, whole):
    written, write = [], parts.write

    def broken(piece, path, source):
        if len(written) == 2:
            raise OSError("the disk is full")
        written.append(path)
        write(piece, path, source)

    with monkeypatch.context() as patched:
        patched.setattr(parts, "write", broken)
        patched.setattr(job, "usable_cores", lambda: 1)
        with pytest.raises(OSError, match="the disk is full"):
            place.run(whole=whole)
    assert place.names() == [job.MANIFEST, *sorted(os.path.basename(path) for path in written)]
    stamps = place.stamps()
    assert place.run(whole=whole)[0] == f"{place.out}: 2 of 4 parts are there already"
    assert stamps.items() <= place.stamps().items()
    assert place.is_right()


DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:1000],
    "end cut": lambda content: content[:-1],
    "grown": lambda content: content + b"\0",
    "a bit of the data": lambda content: flipped(content, 10),
    "a bit of the footer": lambda content: flipped(content, len(content) - 200),
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("whole", [False, True], ids=["shuffled", "whole"])
def test_a_damaged_part_is_computed_again(place, whole, how):
    place.run(whole=whole)
    path = place.out / parts.name(2)
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    stamps = place.stamps()
    said = place.run(whole=whole)
    assert said[:2] == [
        f"{place.out}: 3 of 4 parts are there already",
        f"{place.out}: damaged, and computed again: part-00002.parquet",
    ]
    assert place.is_right()
    assert [name for name, stamp in place.stamps().items() if stamps[name] != stamp] in ([], [path.name])


def test_parts_of_other_content_are_computed_again(place):
    """A part of another job, one with another number, and a Parquet file of something else."""
    place.run(whole=True)
    shutil.copy(place.out / parts.name(0), place.out / parts.name(1))
    rows(range(3)).to_parquet(place.out / parts.name(2))
    said = place.run(whole=True)
    assert f"{place.out}: damaged, and computed again: part-00002.parquet" in said
    assert f"{place.out}: of an input that has changed, and computed again: part-00001.parquet" in said
    assert place.is_right()


def test_a_part_that_is_not_verified_is_found(place, monkeypatch):
    """Planted: a checksum that is always the right one."""
    monkeypatch.setattr(parts, "_digest", lambda file, digest: digest)
    place.run()
    path = place.out / parts.name(2)
    content = path.read_bytes()
    path.write_bytes(flipped(content, 10))
    assert place.run()[0] == f"{place.out}: 4 of 4 parts are there already"
    assert path.read_bytes() != content


def test_every_bit_of_a_part_is_under_its_checksum(tmp_path):
    path = str(tmp_path / "a.parquet")
    parts.write(pd.DataFrame({"machine": ["a", "b", parts.BLANK.decode()], "output_0": [1.0, 2.0, 3.0]}), path, "of")
    assert parts.source(path) == "of"
    content = Path(path).read_bytes()
    for at in range(0, len(content), 11):
        Path(path).write_bytes(flipped(content, at))
        assert parts.source(path) is None, at
    for at in range(0, len(content), 50):
        Path(path).write_bytes(content[:at])
        assert parts.source(path) is None, at


def test_a_part_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def broken(table, into):
        into.write(b"half")
        raise OSError("killed")

    monkeypatch.setattr(parts.pq, "write_table", broken)
    with pytest.raises(OSError, match="killed"):
        parts.write(pd.DataFrame({"a": [1]}), str(tmp_path / "part.parquet"), "of")
    assert not list(tmp_path.iterdir())


# Whatever fails ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["undone", "done"])
def test_whatever_call_fails_the_job_goes_on(small, monkeypatch, after):
    failed = set()

    def run():
        small.run(whole=True)

    for disk, error in failures(small.out, monkeypatch, run, after):
        failed.add(disk.failed)
        left = [name for name in small.names() if name.endswith(".part")]
        assert not left or disk.failed == "unlink", disk.failed
        if error is not None:
            assert isinstance(error, OSError), error
        run()
        assert small.is_right(), disk.failed
        shutil.rmtree(small.out)
    assert failed >= {"open", "write", "fsync", "close", "replace", "unlink", None}


@pytest.mark.slow
def test_a_power_cut_at_any_time_leaves_what_goes_on(small, monkeypatch, tmp_path):
    small.out.mkdir()
    disk = Disk(small.out)
    with watching(disk, monkeypatch, cuts=True):
        small.run(whole=True)
    disk.cut()
    assert len(disk.worlds) > 6
    assert len(disk.worlds[-2]) == 3  # all is kept once the job has ended
    for world in disk.worlds:
        shutil.rmtree(small.out)
        small.out.mkdir()
        for path, content in world.items():
            path.write_bytes(content)
        small.run(whole=True)
        assert small.is_right(), {path.name: len(content) for path, content in world.items()}


def test_what_a_killed_job_left_does_not_block_the_folder(place):
    place.out.mkdir()
    for name in (job.MANIFEST, parts.name(0), parts.name(12345)):
        atomic._beside(place.out / name).write_bytes(b"half")
    assert len(place.names()) == 3
    place.run()
    assert place.is_right()


@pytest.mark.slow
def test_killed_amid_a_save_it_goes_on(place):
    code = """if True:
        import os, signal
        from numlstm.base import atomic; from numlstm import cli
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        cli.main()
    """
    assert place.process(code).returncode == -signal.SIGKILL
    (left,) = place.names()
    assert atomic.is_temporary(left, job.MANIFEST)
    place.run()
    assert place.is_right()


@pytest.mark.slow
def test_ended_by_a_signal_it_leaves_no_unfinished_file(place, tmp_path_factory):
    code = """if True:
        import os, signal, threading
        from numlstm.base import atomic; from numlstm import cli
        def end(handle):
            if threading.current_thread() is not threading.main_thread():  # a part, not the manifest
                os.kill(os.getpid(), signal.SIGTERM)
        atomic._sync = end
        cli.main()
    """
    folder = tmp_path_factory.mktemp("shuffled")
    assert place.process(code, TMPDIR=str(folder)).returncode == -signal.SIGTERM
    assert all(name == job.MANIFEST or parts.NAME.fullmatch(name) for name in place.names())
    assert not list(folder.glob("numlstm-*"))
    place.run()
    assert place.is_right()


# The folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, says",
    [({"per": "step"}, "per"), ({"order": "load", "features": ["heat", "hour", "noise"]}, "features, order")],
)
def test_another_job_in_the_same_folder_is_refused(place, changes, says):
    place.run()
    before = {path.name: path.read_bytes() for path in place.out.iterdir()}
    with pytest.raises(ValueError, match=f"holds parts of another job, with another {says}"):
        place.run(**changes)
    assert {path.name: path.read_bytes() for path in place.out.iterdir()} == before
    assert json.loads(before[job.MANIFEST])["per"] == "sequence"


def test_another_model_is_another_job(place):
    place.run()
    numlstm.LSTM(3, 5, seed=2).save(place.folder / "model.safetensors")
    with pytest.raises(ValueError, match="with another model"):
        place.run()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'"a"', b"\xff\xfe{}", b"[" * 100_000, b'{"sha256": 1}'])
def test_a_damaged_manifest_is_an_error_where_parts_are(place, content):
    place.run()
    manifest = place.out / job.MANIFEST
    manifest.write_bytes(content)
    with pytest.raises(ValueError, match=r"job\.json is damaged"):
        place.run()
    assert manifest.read_bytes() == content
    manifest.unlink()  # as the message says
    assert place.run()[0] == f"{place.out}: 4 of 4 parts are there already"
    assert place.is_right()
    for path in place.out.glob("part-*"):
        path.unlink()
    manifest.write_bytes(content)
    place.run()  # nothing is at stake
    assert place.is_right()


def test_a_manifest_is_under_its_checksum(place):
    place.run()
    manifest = place.out / job.MANIFEST
    manifest.write_text(manifest.read_text().replace('"per": "sequence"', '"per": "step"'))
    with pytest.raises(ValueError, match=r"job\.json is damaged"):
        place.run(per="step")


def test_parts_without_a_manifest_are_only_taken_from_the_same_job(place):
    place.run()
    (place.out / job.MANIFEST).unlink()
    stamps = place.stamps()
    with pytest.raises(ValueError, match="is not empty, and no job began there"):
        place.run(per="step")
    assert place.stamps() == stamps


def test_a_folder_with_other_things_and_no_input_are_refused(place):
    place.out.mkdir()
    (place.out / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, and no job began there"):
        place.run()
    assert place.names() == ["thesis.txt"]
    with pytest.raises(ValueError, match="there is no such file"):
        place.run(pattern=place.folder / "*.pq")


def test_an_input_in_the_output_is_refused(place):
    place.run()
    with pytest.raises(ValueError, match="takes in files of"):
        place.run(pattern=place.folder / "*" / "*.parquet")


def test_two_runs_at_once_are_refused(place, monkeypatch):
    need("fcntl")
    within, go_on, write = threading.Event(), threading.Event(), parts.write

    def waiting(*arguments):
        within.set()
        assert go_on.wait(60)
        write(*arguments)

    monkeypatch.setattr(parts, "write", waiting)
    first = threading.Thread(target=place.run)
    first.start()
    try:
        assert within.wait(60)
        with pytest.raises(RuntimeError, match="another run is at work"):
            place.run()
    finally:
        go_on.set()
        first.join()
    assert place.is_right()


# Inputs -----------------------------------------------------------------------------------------------------------


def test_one_changed_file_redoes_its_own_part_alone(place):
    place.run(whole=True)
    stamps = place.stamps()
    place.give(2, rows(range(20, 25), 9))
    said = place.run(whole=True)
    assert f"{place.out}: 3 of 4 parts are there already" in said
    assert f"{place.out}: of an input that has changed, and computed again: part-00002.parquet" in said
    assert [name for name, stamp in place.stamps().items() if stamps[name] != stamp] in ([], ["part-00002.parquet"])
    assert place.is_right()


def test_a_file_of_the_same_size_and_time_with_other_content_is_another(place):
    place.run(whole=True)
    path = place.input(1)
    facts, content = path.stat(), path.read_bytes()
    table = pq.read_table(path).to_pandas()
    table.loc[0, "heat"] += 1
    place.give(1, table)
    assert len(path.read_bytes()) == len(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    place.run(whole=True)
    assert place.is_right()


def test_a_changed_file_redoes_all_that_is_shuffled(place):
    place.run()
    place.give(2, rows(range(20, 25), 9))
    said = place.run()
    assert (
        f"{place.out}: of an input that has changed, and computed again: " + ", ".join(map(parts.name, range(4)))
        in said
    )
    assert place.is_right()


@pytest.mark.parametrize("whole", [False, True], ids=["shuffled", "whole"])
def test_inputs_may_come_and_go(place, whole):
    place.run(whole=whole)
    place.give(5, rows(range(50, 60), 5))
    place.run(whole=whole)
    assert place.is_right() and len(place.stamps()) == 5
    for n in (0, 3):
        place.input(n).unlink()
    place.run(whole=whole)
    assert place.is_right() and len(place.stamps()) == 3


def test_files_that_only_moved_are_the_same(place):
    place.run(whole=True)
    (place.folder / "data").rename(place.folder / "there")
    assert place.run(whole=True, pattern=place.folder / "there")[0] == f"{place.out}: 4 of 4 parts are there already"


def test_an_input_of_other_files_is_another_job(place):
    place.run()
    shutil.copytree(place.folder / "data", place.folder / "other")
    for n in range(4):
        rows(range(4), n + 50).to_parquet(place.folder / "other" / f"{n}.parquet", index=False)
    with pytest.raises(ValueError, match="with another input"):
        place.run(pattern=place.folder / "other")


def change(path, how, **options):
    how(pd.read_parquet(path)).to_parquet(path, index=False, **options)


def twice(path):
    table = pq.read_table(path)
    pq.write_table(table.append_column("heat", table.column("heat")), path)


def broken_page(path, group):
    """Spoil a page of a row group; the rest of the file is sound."""
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=30, write_page_checksum=True, compression="none")
    column = pq.read_metadata(path).row_group(group).column(table.schema.names.index("heat"))
    path.write_bytes(flipped(path.read_bytes(), column.data_page_offset + column.total_compressed_size - 1))


BROKEN = {
    "empty": (lambda path: path.write_bytes(b""), ": Parquet file size is 0 bytes"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-100]), ": Parquet magic bytes not found"),
    "text": (lambda path: path.write_text("no Parquet file, whatever its name"), ": Parquet magic bytes not found"),
    "column": (lambda path: change(path, lambda t: t.rename(columns={"heat": "x"})), ": there is no column 'heat'"),
    "kind": (lambda path: change(path, lambda t: t.assign(heat="a")), "'heat' must hold real numbers, not "),
    "twice": (twice, ": there are 2 columns 'heat'"),
    "key": (lambda path: change(path, lambda t: t.assign(hour="noon")), ", row group 0: "),
    "lossy key": (lambda path: change(path, lambda t: t.assign(hour=t["hour"] + 0.5)), ", row group 0: "),
    "null": (
        lambda path: change(path, lambda t: t.assign(machine=t["machine"].where(t.index != 70)), row_group_size=30),
        ", row group 2: the column 'machine' lacks a value in 1 row",
    ),
    "page": (lambda path: broken_page(path, 2), ", row group 2: "),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("whole", [False, True], ids=["shuffled", "whole"])
def test_a_broken_file_is_named_and_once_it_is_mended_the_job_goes_on(place, whole, how):
    path, sound = place.input(2), place.input(2).read_bytes()
    spoil, says = BROKEN[how]
    spoil(path)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + re.escape(says)):
        place.run(whole=whole)
    assert not [name for name in place.names() if name.endswith(".part")]
    stamps = place.stamps()
    path.write_bytes(sound)
    place.run(whole=whole)
    assert place.is_right()
    if whole:
        assert stamps.items() <= place.stamps().items()  # what was done of the others is kept


@pytest.mark.parametrize("n", [0, 3])
def test_a_broken_file_among_parts_that_are_done_takes_none_of_them(place, n):
    place.run(whole=True)
    stamps, content = place.stamps(), place.input(n).read_bytes()
    place.input(n).write_bytes(content[:-50])
    with pytest.raises(ValueError, match=re.escape(str(place.input(n)))):
        place.run(whole=True)
    assert place.stamps() == stamps
    place.input(n).write_bytes(content)
    assert place.run(whole=True)[0] == f"{place.out}: 4 of 4 parts are there already"


def test_all_broken_files_are_named_at_once(place):
    for n in (1, 3):
        place.input(n).write_bytes(b"")
    done = place.command("data", "-o", "out", *COLUMNS)
    (line,) = done.output.splitlines()
    assert line.startswith("Error: ") and "1.parquet" in line and "3.parquet" in line
    assert place.names() == []


def test_two_rows_of_one_step_name_their_file_where_it_is_whole(place):
    place.give(3, rows(range(30, 40)).assign(hour=0))
    done = place.command("data", "-o", "out", *COLUMNS, "--whole")
    (line,) = done.output.splitlines()
    assert line.startswith(f"Error: {place.input(3)}: two rows have machine m3")
    assert "which step comes first?" in line


def test_a_number_beyond_the_dtype_is_infinity_as_in_a_call(place):
    place.give(3, rows(range(30, 40)).assign(heat=1e300))
    done = place.command("data", "-o", "out", *COLUMNS)
    assert (done.exit_code, done.output) == (0, "out: 4 parts, a row for each sequence\n")


def test_a_file_that_changes_while_the_job_runs_is_an_error(place, monkeypatch):
    inspected = inputs.inspected

    def changed(path, wanted):
        found = inspected(path, wanted)
        if path.endswith("2.parquet"):
            place.give(2, rows(range(20, 30), 77))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(inputs, "inspected", changed)
        with pytest.raises(ValueError, match=r"2\.parquet: it was changed while the job ran"):
            place.run(whole=True)
    place.run(whole=True)
    assert place.is_right()


# Who may come in --------------------------------------------------------------------------------------------------


def listening():
    """The addresses on which this process and its children listen."""
    import psutil

    us = psutil.Process()
    found = []
    for process in (us, *us.children(recursive=True)):
        found += [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    return found


def within(place, monkeypatch, look):
    """What `look` finds while the parts are computed."""
    found, write = [], parts.write

    def looking(*arguments):
        if not found:
            found.append(look())
        write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(parts, "write", looking)
        place.run()
    return found[0]


def test_nobody_can_connect_to_a_local_job(place, monkeypatch):
    before = set(listening())
    assert set(within(place, monkeypatch, listening)) == before
    assert place.is_right()


@pytest.mark.slow
def test_a_scheduler_that_lets_strangers_in_is_found():
    """Planted: what the job would be among workers of Dask's own, where a stranger can run code."""
    from distributed import Client, LocalCluster

    before = set(listening())
    with LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address=":0") as cluster:
        port = int(cluster.scheduler_address.rpartition(":")[2])
        assert port in {address.port for address in set(listening()) - before}
        with Client(f"tcp://127.0.0.1:{port}", timeout=60) as stranger:
            assert stranger.run_on_scheduler(os.getpid) == os.getpid()


@pytest.mark.slow
def test_workers_of_a_scheduler_give_the_same_parts(place):
    from distributed import LocalCluster

    change(place.input(0), lambda table: table.assign(heat=7))  # the others' are not cut to integers as well
    place.run()
    local = {path.name: pd.read_parquet(path) for path in place.out.glob("part-*")}
    shutil.rmtree(place.out)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        place.run(scheduler=cluster.scheduler_address)
        assert place.is_right()
        for name, part in local.items():
            pd.testing.assert_frame_equal(part, pd.read_parquet(place.out / name))
        for n in (1, 2):
            (place.out / parts.name(n)).unlink()
        said = place.run(scheduler=cluster.scheduler_address)
        assert said[0] == f"{place.out}: 2 of 4 parts are there already"
        assert place.is_right()
        place.input(1).write_bytes(b"")
        with pytest.raises(ValueError, match=r"1\.parquet: "):
            place.run(scheduler=cluster.scheduler_address)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("data/*.parquet", "-o", "out"), "Parquet needs --group and --order"),
        (("data", "-o", "out", *COLUMNS, "--state", "s.npz"), "--state is not for Parquet"),
        (
            ("data", "-o", "model.safetensors", *COLUMNS),
            "model.safetensors is no folder. The name of a folder is expected",
        ),
        (
            (*(f"data/{n}.parquet" for n in range(4)), "-o", "out", *COLUMNS),
            "and 4 were given: data/0.parquet, data/1.parquet, data/2.parquet, ...; write a pattern in quotes",
        ),
        (("x.npy", "-o", "out.npz", "--group", "machine"), "--group: for Parquet files, and INPUT is none: x.npy"),
        (("data", "-o", "out", *COLUMNS, "--scheduler", "tcp://127.0.0.1:9"), "127.0.0.1:9"),
    ],
)
def test_the_command_says_what_is_wrong(place, monkeypatch, arguments, says):
    monkeypatch.setattr(job, "TIMEOUT", 0.2)
    done = place.command(*arguments)
    assert done.exit_code != 0
    assert says in " ".join(done.output.split())
    assert isinstance(done.exception, SystemExit)
