"""A disk whose calls can be made to fail, one at a time, and whose power can be cut, for tests of what must be whole.

As SQLite tests itself: a run is repeated with its first, second, third... call failing until one passes without a
failure, and after each what must hold is looked at.
"""

import builtins
import errno
import io
import itertools
import os
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

CALLS = ("open", "write", "fsync", "close", "replace", "unlink")


class Disk:
    """Python's calls to the files below a folder: counted, and one of them failing.

    Parameters
    ----------
    folder : path
    fails : int
        Which call fails, from 1.
    after : bool
        The call does what it should before it fails, as over a network.
    """

    def __init__(self, folder, fails=0, after=False):
        self.folder, self.fails, self.after = os.path.realpath(folder), fails, after
        self.calls, self.failed = [], None
        self.contents, self.names, self.worlds = {}, {}, []
        self.lock = threading.RLock()

    def has(self, path):
        path = os.fspath(path) if isinstance(path, str | os.PathLike) else None
        return path is not None and os.path.realpath(os.path.dirname(path) or ".").startswith(self.folder)

    def call(self, name, do):
        with self.lock:
            self.calls.append(name)
            failing = len(self.calls) == self.fails
        if not failing:
            return do()
        self.failed = name
        if self.after or name == "close":  # a handle is gone however close ends
            do()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    # A power cut ------------------------------------------------------------------------------------------------

    def entries(self):
        return {path: os.stat(path).st_ino for path in Path(self.folder).rglob("*") if path.is_file()}

    def assume_synced(self):
        self.names = self.entries()
        self.contents = {inode: path.read_bytes() for path, inode in self.names.items()}

    def synced(self, handle):
        """What a call of fsync makes sure of: the bytes of a file, or the names in a folder."""
        inode = os.fstat(handle).st_ino
        for path, known in self.entries().items():
            if known == inode:
                self.contents[inode] = path.read_bytes()
            if os.stat(path.parent).st_ino == inode:
                self.names[path] = known
        for path in list(self.names):
            if os.stat(path.parent).st_ino == inode and not path.exists():
                del self.names[path]

    def cut(self):
        """What may be there after a power cut now: names as of the last sync or as of now; bytes as of the sync."""
        for names in (self.names, self.entries()):
            world = {path: self.contents.get(inode, b"") for path, inode in names.items()}
            if world not in self.worlds:
                self.worlds.append(world)


class Raw(io.FileIO):
    """A file of the disk."""

    disk = None

    def write(self, data):
        return self.disk.call("write", lambda: super(Raw, self).write(data))

    def close(self):
        if self.closed:
            return
        self.disk.call("close", super().close)


@contextmanager
def watching(disk, monkeypatch, cuts=False):
    """While it lasts, calls go by the disk."""
    real_open, real = (
        builtins.open,
        {name: getattr(os, name) for name in ("open", "fsync", "close", "replace", "unlink")},
    )
    handles = set()

    def opened(path, mode="r", *rest, **options):
        if not disk.has(path):
            return real_open(path, mode, *rest, **options)
        if mode not in ("wb", "xb"):
            return disk.call("open", lambda: real_open(path, mode, *rest, **options))

        def made():
            raw = Raw(path, mode)
            raw.disk = disk
            return io.BufferedWriter(raw)

        return disk.call("open", made)

    def open_handle(path, *rest, **options):
        if not disk.has(path):
            return real["open"](path, *rest, **options)
        handle = disk.call("open", lambda: real["open"](path, *rest, **options))
        handles.add(handle)
        return handle

    def close_handle(handle):
        if handle not in handles:
            return real["close"](handle)
        handles.discard(handle)
        return disk.call("close", lambda: real["close"](handle))

    def fsync(handle):
        if cuts:
            disk.cut()
        disk.call("fsync", lambda: real["fsync"](handle))
        if cuts:
            disk.synced(handle)
            disk.cut()

    def replace(source, target):
        if not disk.has(target):
            return real["replace"](source, target)
        disk.call("replace", lambda: real["replace"](source, target))
        if cuts:
            disk.cut()

    def unlink(path, *rest, **options):
        if not disk.has(path):
            return real["unlink"](path, *rest, **options)
        disk.call("unlink", lambda: real["unlink"](path, *rest, **options))
        if cuts:
            disk.cut()

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", opened)
        patched.setattr(io, "open", opened)
        for name, stand_in in (
            ("open", open_handle),
            ("close", close_handle),
            ("fsync", fsync),
            ("replace", replace),
            ("unlink", unlink),
        ):
            patched.setattr(os, name, stand_in)
        yield disk


def failures(folder, monkeypatch, run, after=False):
    """Run with each call failing in turn; give the disk and the error of each, at last with none.

    Examples
    --------
    >>> # for disk, error in failures(folder, monkeypatch, save): ...
    """
    for n in itertools.count(1):
        disk, error = Disk(folder, n, after), None
        with watching(disk, monkeypatch):
            try:
                run()
            except Exception as caught:
                error = caught
        yield disk, error
        if disk.failed is None:
            return


def interrupts(run, within=("atomic.py", "contextlib.py")):
    """Run with KeyboardInterrupt at each line of these files in turn; give the line and what came out of it."""
    for n in itertools.count(1):
        left, at, error = n, None, None

        def trace(frame, event, _):
            nonlocal left, at
            if os.path.basename(frame.f_code.co_filename) not in within:
                return None
            if event == "line" and at is None:
                left -= 1
                if not left:
                    at = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            run()
        except BaseException as caught:
            error = type(caught)
        finally:
            sys.settrace(before)
        yield at, error
        if at is None:
            return
