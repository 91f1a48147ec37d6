"""Files that appear whole or not at all: if any call fails, at any interruption, and at a power cut."""

import errno
import os
import re
import signal
import stat
import threading

import pytest
from disk import CALLS, Disk, failures, interrupts, watching

import numlstm
from numlstm.base import atomic

POSIX = os.name == "posix"


def save(path, content=b"new" * 10_000):
    with atomic.replacing(path) as file:
        file.write(content)


@pytest.fixture(params=["over an old one", "a first one"])
def target(tmp_path, request):
    """What is to be replaced, and what it was."""
    path = tmp_path / "a.npz"
    if request.param == "over an old one":
        path.write_bytes(b"old")
    return path


def state(path):
    return path.read_bytes() if path.exists() else None


OLD = {None, b"old"}
NEW = b"new" * 10_000


@pytest.mark.parametrize("after", [False, True], ids=["undone", "done"])
def test_whatever_call_fails_the_file_is_the_old_or_the_new_one(target, monkeypatch, after):
    old, failed = state(target), []
    for disk, error in failures(target.parent, monkeypatch, lambda: save(target), after):
        failed.append(disk.failed)
        found = state(target)
        assert {path.name for path in target.parent.iterdir()} <= {"a.npz"}, disk.failed
        if disk.failed is None:
            assert (error, found) == (None, NEW)
        elif disk.failed != "unlink":  # of a temporary file that is gone already
            assert isinstance(error, OSError)
            assert found in (old, NEW)
            if disk.failed != "write":  # the caller's, who may have written to something else
                assert re.search(r"a\.npz cannot be written: .*nothing was changed|cannot be synced", str(error))
            if "nothing was changed" in str(error) and not (after and disk.failed == "replace"):
                assert found == old
        if old is None:
            target.unlink(missing_ok=True)
        else:
            target.write_bytes(old)
    assert set(CALLS) <= set(failed)


def test_a_power_cut_leaves_the_old_or_the_new_one(target, monkeypatch):
    old = state(target)
    disk = Disk(target.parent)
    disk.assume_synced()
    with watching(disk, monkeypatch, cuts=True):
        save(target)
    disk.cut()
    assert len(disk.worlds) > 2
    assert all(world.get(target) in (old, NEW) for world in disk.worlds)
    assert disk.names[target] == target.stat().st_ino and disk.contents[target.stat().st_ino] == NEW  # it is kept


@pytest.mark.parametrize("without", ["file", "folder"])
def test_a_sync_that_is_left_out_is_found(target, monkeypatch, without):
    """Planted: the test above fails without either."""
    monkeypatch.setattr(atomic, {"file": "_sync", "folder": "sync_folder"}[without], lambda *_: None)
    with pytest.raises((AssertionError, KeyError)):
        test_a_power_cut_leaves_the_old_or_the_new_one(target, monkeypatch)


def test_wherever_it_is_interrupted_nothing_is_left_and_the_interrupt_is_raised(target):
    old, lines = state(target), set()
    for at, error in interrupts(lambda: save(target)):
        lines.add(at)
        assert error is (None if at is None else KeyboardInterrupt), at
        assert state(target) in (old, NEW), at
        assert {path.name for path in target.parent.iterdir()} <= {"a.npz"}, at
        if at is None:
            assert state(target) == NEW
    assert len(lines) > 30


def test_an_interrupt_amid_a_failure_leaves_nothing_either(target):
    old = state(target)

    def fail():
        with atomic.replacing(target) as file:
            file.write(b"half")
            raise OSError("of the caller")

    for at, error in interrupts(fail):
        assert error is (OSError if at is None else KeyboardInterrupt), at
        assert state(target) == old, at
        assert {path.name for path in target.parent.iterdir()} <= {"a.npz"}, at


def test_an_unguarded_removal_is_found(target, monkeypatch):
    """Planted: one clean-up in the place of two."""
    real, taken = atomic._removed, []

    def once(temporary):
        taken.append(temporary)
        return real(temporary if len(taken) % 2 else temporary.with_name("none"))

    monkeypatch.setattr(atomic, "_removed", once)
    with pytest.raises(AssertionError):
        test_an_interrupt_amid_a_failure_leaves_nothing_either(target)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="lists open files")
def test_interrupts_at_any_instruction_leave_no_file_open(tmp_path, monkeypatch):
    """A signal that comes within a system call is handled before the call's result has a name."""
    monkeypatch.setattr(atomic, "_sync", lambda handle: None)  # opening is to be most of the time
    armed, count, wanted = False, 0, 500

    def strike(number, frame):
        if armed:
            raise KeyboardInterrupt

    before = len(os.listdir("/proc/self/fd"))
    handler = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.00111)
    try:
        while count < wanted:
            try:
                armed = True
                for _ in range(100):
                    atomic.sync_folder(tmp_path)
                armed = False
            except KeyboardInterrupt:
                armed = False
                count += 1
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert len(os.listdir("/proc/self/fd")) - before <= wanted // 50


@pytest.mark.parametrize("what", [KeyboardInterrupt, MemoryError, ValueError])
def test_a_full_disk_does_not_hide_what_happened(tmp_path, monkeypatch, what):
    """What is buffered is not written any more once the caller has failed."""
    disk = Disk(tmp_path)
    with watching(disk, monkeypatch), pytest.raises(what), atomic.replacing(tmp_path / "a") as file:
        file.write(b"half")
        disk.fails = len(disk.calls) + 1
        raise what
    assert disk.failed != "write"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not POSIX, reason="modes are POSIX's")
class TestMode:
    @pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o777 & ~0o600])
    def test_it_is_what_the_umask_leaves(self, tmp_path, umask):
        before = os.umask(umask)
        try:
            save(tmp_path / "a")
            save(tmp_path / "a")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask

    def test_the_umask_of_the_process_is_never_touched(self, tmp_path, monkeypatch):
        """Other threads create files meanwhile."""
        set_to = []
        monkeypatch.setattr(atomic.os, "umask", set_to.append)
        monkeypatch.setattr(atomic.os, "chmod", lambda *_: set_to.append("chmod"))
        threads = [threading.Thread(target=save, args=(tmp_path / str(n),)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        numlstm.LSTM(2, 3, seed=0).save(tmp_path / "m.npz")
        assert not set_to
        assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("name", ["a" * 255, "漢" * 85, "a" * 200 + "é" * 27], ids=["ascii", "three bytes", "two"])
def test_a_name_may_be_as_long_as_the_system_takes(tmp_path, name):
    save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("number", sorted(atomic.NO_SYNC))
def test_a_file_system_that_cannot_sync_is_written_to(tmp_path, monkeypatch, number):
    def unable(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", unable)
    save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == NEW


@pytest.mark.skipif(not POSIX, reason="Windows opens no folder")
def test_a_folder_that_may_not_be_read_is_written_to(tmp_path, monkeypatch):
    real = os.open

    def refused(path, *rest, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *rest, **options)

    monkeypatch.setattr(atomic.os, "open", refused)
    save(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == NEW


def test_new_folders_are_synced_into_those_above(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(atomic, "sync_folder", synced.append)
    atomic.folder(tmp_path / "a" / "b")
    atomic.folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
