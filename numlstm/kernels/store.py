"""Kernel -> C function: from the cache, or built and cached. The one door to the kernels.

A cached object runs as code, so it is used only from a directory that belongs to this
user and that nobody else can write to, and only with its checksum. Whatever goes wrong
with the cache, the kernel is built in memory, and the log says so once.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ..locks import fork_safe
from .abi import CALL, EXCHANGE, FORWARD, LIVE, QUICK, STEP
from .levels import Level, this_machine

Forward = Callable[[int], None]
Call = Callable[[int, int], int]
Step = Callable[[int], int]
Exchange = Callable[[int, int, int], int]
Bind = Callable[[object], Any]
METHOD_FASTCALL = 0x80  # a built-in function that takes its arguments as a C array
METHOD_NOARGS, METHOD_O = 0x4, 0x8  # one that takes none, or just one
MAGIC = b"numlstm object 1\n"
log = logging.getLogger("numlstm")
_lock = fork_safe(threading.Lock())
_loaded: dict[str, Kernel] = {}


@dataclass(frozen=True)
class Kernel:
    """A loaded kernel: its C functions, and where it came from.

    ``forward`` takes the address of a plan, ``call`` that of a plan and that of the tuple of arrays. ``quick`` takes
    the array of ``abi.Quick`` slots and gives the built-in function that is bound to it. ``step`` takes the address of
    a stream, ``live_step`` and ``live_call`` the array of its slots, and ``exchange`` sets its flag.
    """

    forward: Forward
    call: Call
    quick: Bind
    step: Step
    live_step: Bind
    live_call: Bind
    exchange: Exchange
    level: Level
    origin: str
    seconds: float
    keep: object  # what owns the code's memory


@cache
def level() -> Level:
    """The kind of CPU that kernels are loaded for in this process."""
    return this_machine()


def lanes(number: str) -> int:
    """Numbers of this type in one register of this process's kernels."""
    return level().lanes(number)


def kernel(number: str) -> Kernel:
    """The kernel for "float32" or "float64", loaded on first use. Safe from any number of threads."""
    loaded = _loaded.get(number)
    if loaded is None:
        with _lock:
            loaded = _loaded.get(number)
            if loaded is None:
                loaded = _loaded[number] = _load(number, level())
    return loaded


def cache_folder() -> Path:
    """Where objects are cached: NUMLSTM_CACHE_DIR, or numlstm in the user's cache folder.

    Raises
    ------
    OSError
        If there is no home folder to put it in.
    """
    if given := os.environ.get("NUMLSTM_CACHE_DIR"):
        return Path(given)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "numlstm"
    try:
        return Path.home() / ".cache" / "numlstm"
    except RuntimeError as error:
        raise OSError(str(error)) from None


def _load(number: str, level: Level) -> Kernel:
    begun = time.perf_counter()
    name = f"{number}-{level.name}-{_fingerprint(number, level)}.o"
    try:
        path = cache_folder() / name
        code = _read(path)
    except OSError as error:
        path, code = None, None
        log.warning("numlstm: kernels are not cached, since %s; they are compiled for this process alone", error)
    origin = f"cache: {path}"
    if code is None:
        log.info(
            "numlstm: compiling the %s kernels for %s; the next process finds them in %s", number, level.name, path
        )
        from .build import object_code

        code, origin = object_code(number, level), "compiled in this process"
        if path is not None:
            try:
                _write(path, code)
            except OSError as error:
                log.warning("numlstm: compiled kernels cannot be cached, since %s", error)
    return link(code, level, origin, begun)


def _fingerprint(number: str, level: Level) -> str:
    """A hash of all that decides the object: sources, compiler versions, level and number type."""
    digest = hashlib.sha256(f"{number} {level!r}".encode())
    for package in ("numba", "llvmlite"):
        digest.update(metadata.version(package).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:24]


def _trusted(path: Path, folder: bool = False) -> None:
    """Refuse what another user could have written, and what is no file to read."""
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        raise OSError(f"{path} is a symbolic link")
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(facts.st_mode):
        raise OSError(f"{path} is not a {'folder' if folder else 'file'}")
    if hasattr(os, "geteuid") and facts.st_uid != os.geteuid():
        raise OSError(f"{path} belongs to another user")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"others can write to {path}")


def _read(path: Path) -> bytes | None:
    """The cached object, or None where there is no sound one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _trusted(path.parent, folder=True)
    try:
        _trusted(path)
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    code = content[len(MAGIC) + 32 :]
    if content[: len(MAGIC)] != MAGIC or content[len(MAGIC) : len(MAGIC) + 32] != hashlib.sha256(code).digest():
        log.warning("numlstm: the cached kernels in %s are damaged and are built again", path)
        return None
    return code


def _write(path: Path, code: bytes) -> None:
    """Write to a temporary name and move, so that no other process sees half a file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(MAGIC + hashlib.sha256(code).digest() + code)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def link(code: bytes, level: Level, origin: str, begun: float) -> Kernel:
    """Load an object by LLVM's linker. Its functions drop the GIL, as every ctypes call does."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    # one piece of memory for code and constants: LLVM's own manager may put them more than 2 GB apart in a process with
    # much memory, which ends it (llvm/llvm-project#71963, halide/Halide#3208)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=True)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = {name: engine.get_function_address(name) for name in (FORWARD, CALL, QUICK, STEP, LIVE, EXCHANGE)}
    if not all(address.values()):
        raise RuntimeError(f"the kernel object lacks one of its entries {', '.join(address)}")
    forward = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address[FORWARD])
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(address[CALL])
    word = ctypes.c_int64
    return Kernel(
        forward,
        call,
        _binder(address[QUICK], engine, b"numlstm_quick", METHOD_FASTCALL),
        ctypes.CFUNCTYPE(word, word)(address[STEP]),
        _binder(address[LIVE], engine, b"step", METHOD_NOARGS),
        _binder(address[LIVE], engine, b"numlstm_live", METHOD_O),
        ctypes.CFUNCTYPE(word, word, word, word)(address[EXCHANGE]),
        level,
        origin,
        time.perf_counter() - begun,
        engine,
    )


class _Method(ctypes.Structure):
    """``PyMethodDef`` of Python's stable interface."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def _binder(address: int, code: object, name: bytes, kind: int) -> Bind:
    """What makes built-in functions of the machine code at an address: they hold the GIL, and cost less than ctypes."""
    method = _Method(name, address, kind, None)
    kinds = ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p
    new = ctypes.PYFUNCTYPE(*kinds)(("PyCFunction_NewEx", ctypes.pythonapi))  # once: it makes a class

    def bind(bound_to: object) -> Any:
        for needed in (method, code):  # never let go, since a function may be called until Python has ended
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(needed))
        return new(ctypes.addressof(method), bound_to, None)

    return bind
