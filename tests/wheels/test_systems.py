"""Libraries of kernels for Windows and macOS, linked here: one runs under Wine, the others are looked at."""

import hashlib
import os
import struct
import sys
from pathlib import Path

import numpy as np
import objects
import pytest
from embedded import run, tool
from needs import need_files
from samples import data, make

import numlstm
from numlstm.export import link, targets
from numlstm.kernels.loading import build, prebuilt, registry
from numlstm.kernels.loading.entry_points import ENTRIES
from numlstm.kernels.plan_layout import Header
from numlstm.wheels import libraries

pytestmark = pytest.mark.system

HERE = Path(__file__).parent
LC_CODE_SIGNATURE, LC_BUILD_VERSION, LC_SEGMENT_64 = 0x1D, 0x32, 0x19
SUPER_BLOB, CODE_DIRECTORY, AD_HOC = 0xFADE0CC0, 0xFADE0C02, 0x2
PLAN, RESULTS = range(Header.INPUT, Header.HIDDEN + 1), (Header.OUTPUT, Header.H_N, Header.C_N)


@pytest.fixture(scope="module", params=["x86_64-windows", "aarch64-macos"])
def made(request, tmp_path_factory):
    """A target, and the library of its float32 kernels: of this CPU's level, if it has that."""
    need_files("ziglang")
    target, own = targets.find(request.param), registry.level().name
    level = target.level(own if own in target.levels else None)
    return target, libraries.build("float32", level, target, tmp_path_factory.mktemp("library"))


def only(made, name):
    target, path = made
    if target.name != name:
        pytest.skip(f"this is the library for {target.name}")
    return path


def test_it_exports_the_entries_and_needs_nothing(made):
    """On macOS every program has the system's library; it is named and not used."""
    target, path = made
    content = path.read_bytes()
    assert path.suffix == prebuilt.SUFFIXES[{"macos": "darwin", "windows": "win32"}[target.name.split("-")[1]]]
    if path.suffix == ".dll":
        exported, imports = _portable_executable(content)
        assert exported == sorted(ENTRIES) and imports == 0
    else:
        facts = objects.facts(content)
        assert facts.kind == "Mach-O aarch64"
        assert {f"_{name}" for name in ENTRIES} <= facts.defined
        assert facts.undefined <= {"dyld_stub_binder"}


@pytest.mark.parametrize("name", sorted(targets.TARGETS.keys() - {"wasm32"}))
def test_the_same_object_links_to_the_same_bytes(name):
    """Or else the same commit gave another wheel on each day."""
    import llvmlite.binding as llvm

    target = targets.find(name)
    machine = build.target_machine(target.level())
    module = llvm.parse_assembly("\n".join(f"define void @{entry}() {{ ret void }}" for entry in ENTRIES))
    module.triple = machine.triple
    code = build.emitted(module, machine)
    one, again = (libraries.linked("float32", code, target, libraries.linker(target)) for _ in range(2))
    assert one == again


def test_windows_loads_it_and_runs_a_plan_to_the_same_bits(made, tmp_path):
    """Under Wine, from a program in C: the calling convention and the loader are Windows'."""
    library, wine = only(made, "x86_64-windows"), tool("wine64", "/usr/lib/wine/wine64")
    lstm = make(37, 5, num_layers=2, bidirectional=True)
    x, hx = data(lstm, 6, 11)
    with numlstm.num_threads(1):
        output, (h_n, c_n) = lstm(x, hx)
    workspace, results = lstm._model.executor.idle[-1], (output, h_n, c_n)
    arrays = dict(zip(PLAN, (x, *hx, *map(np.zeros_like, results), lstm._panels.data), strict=False))
    for slot, name in ((Header.BELOW, "below"), (Header.GATES, "gates"), (Header.HIDDEN, "hidden")):
        arrays[slot] = workspace.buffers[name]
    slots = workspace.plan.slots.copy()
    slots[Header.ROWS_TO] = x.shape[1]
    with open(tmp_path / "plan", "wb") as file:
        file.write(struct.pack("<q", slots.size) + slots.tobytes())
        for slot, array in arrays.items():
            content = np.ascontiguousarray(array).tobytes()
            file.write(struct.pack("<3q", slot, len(content), slot in RESULTS) + content)
    program = tmp_path / "run_plan.exe"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", link.ZIG["x86_64-windows"]]
    run(*compiler, "-O1", HERE / "run_plan.c", "-o", program)
    environment = {**os.environ, "WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
    run(wine, program, library, tmp_path / "plan", tmp_path / "results", env=environment)
    assert (tmp_path / "results").read_bytes() == b"".join(array.tobytes() for array in results)


def test_macos_would_accept_it(made):
    """Segments begin on pages of 16 KB, the oldest system is the tag's, and the ad-hoc signature's hashes are right."""
    content = only(made, "aarch64-macos").read_bytes()
    commands = dict(_load_commands(content))
    for at in (at for command, at in _load_commands(content) if command == LC_SEGMENT_64):
        address, _, offset, size = struct.unpack_from("<QQQQ", content, at + 24)
        assert address % 0x4000 == 0 and offset % 0x4000 == 0 and offset + size <= len(content)
    assert struct.unpack_from("<I", content, commands[LC_BUILD_VERSION] + 12)[0] >> 16 == 11
    assert _signed(content, commands)
    at = content.index(b"numlstm_step")
    assert not _signed(content[:at] + b"N" + content[at + 1 :], commands), "a change is not noticed"


def _load_commands(content):
    at = 32
    for _ in range(struct.unpack_from("<I", content, 16)[0]):
        command, size = struct.unpack_from("<II", content, at)
        yield command, at
        at += size


def _signed(content, commands):
    """Whether the hashes of an ad-hoc signature, without a certificate, are those of the pages (xnu, cs_blobs.h)."""
    start, size = struct.unpack_from("<II", content, commands[LC_CODE_SIGNATURE] + 8)
    blob = content[start : start + size]
    assert struct.unpack_from(">I", blob)[0] == SUPER_BLOB
    directory = blob[struct.unpack_from(">I", blob, 16)[0] :]
    magic, _, _, flags, hashes, _, _, count, end = struct.unpack_from(">9I", directory)
    width, kind, _, page = struct.unpack_from(">4B", directory, 36)
    assert magic == CODE_DIRECTORY and flags & AD_HOC and (width, kind) == (32, 2) and end == start
    pages = [content[at : min(at + (1 << page), end)] for at in range(0, end, 1 << page)]
    held = [directory[hashes + n * width :][:width] for n in range(count)]
    return held == [hashlib.sha256(one).digest() for one in pages]


def _portable_executable(content):
    """The names that a DLL exports, and the bytes of its table of imports (Microsoft's PE format)."""
    header = struct.unpack_from("<I", content, 0x3C)[0]
    machine, sections, optional = struct.unpack_from("<4xHH12xH", content, header)
    assert content[header : header + 4] == b"PE\0\0" and machine == 0x8664
    tables = header + 24 + 112
    (exports,), imports = struct.unpack_from("<I", content, tables), struct.unpack_from("<I", content, tables + 12)[0]
    places = [struct.unpack_from("<4I", content, header + 24 + optional + 40 * n + 8) for n in range(sections)]

    def at(address):
        return next(raw + address - start for size, start, _, raw in places if start <= address < start + size)

    count, _, names = struct.unpack_from("<3I", content, at(exports) + 24)
    found = struct.unpack_from(f"<{count}I", content, at(names))
    return [content[at(one) : content.index(b"\0", at(one))].decode() for one in found], imports
