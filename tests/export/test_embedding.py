"""Exported libraries in C and C++ programs: the bits of Python, no crash on any file, many threads, other CPUs."""

import os
import platform
import re
import sys
from functools import cache
from pathlib import Path

import embedded
import numpy as np
import pytest
from embedded import LARGE, SIZES, cases, compiled, differing, model, run, tool, write_cases
from needs import need_files

from numlstm.export import MODEL, export, link
from numlstm.export.model_layout import VERSION

pytestmark = pytest.mark.system

DTYPES = ("float32", "float64")
HOST = "host"
ARM, WINDOWS = "aarch64-linux", "x86_64-windows"


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """``folder(dtype, target)`` of a library, its header, and a small model."""

    @cache
    def folder(dtype, target=HOST, level=None):
        where = tmp_path_factory.mktemp(f"{dtype}-{target}")
        export(model(SIZES[6], dtype), where, target=target, level=level, echo=lambda line: None)
        return where

    return folder


def check(program, before, folder, dtype, sizes, target=HOST, level=None, most_steps=11, environment=None):
    """Run all cases of a model through a program, and compare."""
    lstm = model(sizes, dtype)
    where = folder / "models"
    export(lstm, where, target=target, level=level, echo=lambda line: None)
    some = cases(lstm.bidirectional, most_steps)
    write_cases(lstm, some, where / "cases")
    run(*before, program, where / MODEL, where / "cases", where / "results", env=environment)
    wrong, compared = differing(lstm, some, (where / "results").read_bytes())
    assert not wrong, (sizes, wrong)
    assert compared > 100
    return len(some)


@pytest.mark.cpu_level
@pytest.mark.parametrize("names", [("gcc", "cc"), ("g++", "c++")], ids=["C", "C++"])
def test_a_program_gives_the_bits_of_python(names, dtype, folders):
    folder = folders(dtype)
    program = compiled("runner", folder, folder / "libnumlstm.a", tool(*names), "-O1")
    ran = sum(check(program, [], folder, dtype, sizes) for sizes in SIZES)
    assert ran > 100
    check(program, [], folder, dtype, LARGE, most_steps=5)


def test_under_valgrind(dtype, folders):
    """Memcheck reads the machine code of the kernels too; the sanitizers see only what the compiler made."""
    folder, valgrind = folders(dtype), tool("valgrind")
    program = compiled("runner", folder, folder / "libnumlstm.a", tool("gcc"), "-g", "-DPLAIN_MEMORY")
    before = [valgrind, "-q", "--error-exitcode=9", "--leak-check=full"]
    for sizes in (SIZES[2], SIZES[7], SIZES[9]):
        assert check(program, before, folder, dtype, sizes) >= 10


def test_valgrind_finds_a_planted_fault(folders):
    """A state whose last byte is missing."""
    folder, valgrind = folders("float32"), tool("valgrind")
    planted = folder / "planted"
    planted.mkdir()
    text = (embedded.SOURCES / "runner.c").read_text()
    assert "void *memory = guarded((size_t)needed)" in text
    text = text.replace("void *memory = guarded((size_t)needed)", "void *memory = guarded((size_t)needed - 64 - 8)")
    text = text.replace("memset(memory, 0xa5, (size_t)needed)", "memset(memory, 0xa5, (size_t)needed - 72)")
    (planted / "runner.c").write_text(text)
    program = planted / "runner"
    run(tool("gcc"), "-g", "-DPLAIN_MEMORY", "-I", folder, "-I", embedded.SOURCES, planted / "runner.c",
        folder / "libnumlstm.a", "-o", program)  # fmt: skip
    with pytest.raises(AssertionError, match=r"Invalid (write|read)"):
        check(program, [valgrind, "-q", "--error-exitcode=9"], folder, "float32", SIZES[7])


def test_with_sanitizers(dtype, folders):
    folder = folders(dtype)
    flags = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DPLAIN_MEMORY"]
    program = compiled("runner", folder, folder / "libnumlstm.a", tool("gcc"), *flags)
    assert check(program, [], folder, dtype, SIZES[6]) >= 10


@pytest.mark.parametrize("names", [("gcc", "cc"), ("g++", "c++")], ids=["C", "C++"])
def test_no_damaged_or_forged_model_crashes(names, dtype, folders):
    folder = folders(dtype)
    program = compiled("mutate", folder, folder / "libnumlstm.a", tool(*names), "-O1")
    said = run(program, folder / MODEL)
    counts = {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", said)}
    assert counts["bits"] > 1024 and counts["overwritten"] == 2000 and counts["cut"] == 900 and counts["forged"] == 4000
    assert counts["ran"] > 20  # forged ones with the same number of weights


def test_threads_with_a_state_each_share_a_model(dtype, folders):
    folder = folders(dtype)
    program = compiled("threads", folder, folder / "libnumlstm.a", tool("gcc"), "-O1", "-pthread")
    assert run(program, folder / MODEL) == "compared 800\n"


def test_no_data_race_is_seen(folders):
    """Helgrind reads the machine code of the kernels too."""
    folder, valgrind = folders("float32"), tool("valgrind")
    program = compiled("threads", folder, folder / "libnumlstm.a", tool("gcc"), "-g", "-pthread", "-DPLAIN_MEMORY")
    said = run(valgrind, "-q", "--tool=helgrind", "--error-exitcode=9", program, folder / MODEL, "3")
    assert said == "compared 12\n"


def test_helgrind_finds_a_planted_race(folders):
    """All threads use one state."""
    folder, valgrind = folders("float32"), tool("valgrind")
    planted = folder / "race"
    planted.mkdir()
    text = (embedded.SOURCES / "threads.c").read_text()
    declared = "    numlstm_state *state;\n"
    used = "    for (round = 0; round < job->rounds; round++)\n"
    assert declared in text and used in text
    text = text.replace("static void *work", "static numlstm_state *shared;\n\nstatic void *work")
    text = text.replace(used, f"    if (shared == NULL) shared = state;\n    state = shared;\n{used}")
    text = text.replace("    discard(memory, (size_t)needed);\n", "")
    (planted / "threads.c").write_text(text)
    program = planted / "threads"
    run(tool("gcc"), "-g", "-pthread", "-DPLAIN_MEMORY", "-I", folder, "-I", embedded.SOURCES, planted / "threads.c",
        folder / "libnumlstm.a", "-o", program)  # fmt: skip
    with pytest.raises(AssertionError, match="Possible data race"):
        run(valgrind, "-q", "--tool=helgrind", "--error-exitcode=9", program, folder / MODEL, "3")


def test_another_processor_gives_the_same_bits(dtype, folders):
    """aarch64 under qemu: tails, projections, both directions, decayed states, saturation, long chains."""
    folder, qemu = folders(dtype, ARM), tool("qemu-aarch64", "qemu-aarch64-static")
    compiler = tool("aarch64-linux-gnu-gcc")
    program = compiled("runner", folder, folder / "libnumlstm.a", compiler, "-O1", "-static")
    ran = sum(check(program, [qemu], folder, dtype, sizes, ARM) for sizes in SIZES)
    assert ran > 100
    check(program, [qemu], folder, dtype, LARGE, ARM, most_steps=5)
    mutate = compiled("mutate", folder, folder / "libnumlstm.a", compiler, "-O1", "-static")
    assert "overwritten 2000" in run(qemu, mutate, folder / MODEL)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the library's check of the CPU is for x86-64")
@pytest.mark.parametrize("level, able, lacking", [
    ("x86-64-v3", "max", "Nehalem"),
    ("x86-64-v4", None, "max"),
    ("x86-64", "qemu64", None),
])  # fmt: skip
def test_a_cpu_without_the_instructions_is_told_so(level, able, lacking, folders):
    """An error code, no illegal instruction; and on a CPU that qemu makes of the level, it runs."""
    folder, qemu = folders("float32", HOST, level), tool("qemu-x86_64", "qemu-x86_64-static")
    # qemu's masked loads touch the lanes that are left out, as no CPU does: no guard behind arrays here
    program = compiled("runner", folder, folder / "libnumlstm.a", tool("gcc"), "-O1", "-static", "-DPLAIN_MEMORY")
    if able:
        # without a fused multiply-add the bits are others
        compare = check if level != "x86-64" else check_runs
        compare(program, [qemu, "-cpu", able], folder, "float32", SIZES[6], HOST, level)
    if lacking:
        with pytest.raises(AssertionError, match="error 9: this CPU lacks instructions"):
            check(program, [qemu, "-cpu", lacking], folder, "float32", SIZES[6], HOST, level)


def check_runs(program, before, folder, dtype, sizes, target, level):
    with pytest.raises(AssertionError, match="Case"):
        check(program, before, folder, dtype, sizes, target, level)


# What users copy --------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text()


def test_the_page_tells_the_version_of_the_format():
    assert re.findall(r"version of the format: (\d+)", PAGE) == [str(VERSION)]


def block(language, first):
    """The code block of the page that begins so."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if text.startswith(first)]
    assert len(found) == 1, (language, first)
    return found[0]


def last_output(lstm):
    """What the examples print: the output after steps of 0, 0.1, … 0.9 in every feature."""
    x = np.stack([np.full((1, lstm.input_size), n, lstm.dtype) for n in range(10)]) / lstm.dtype.type(10)
    return lstm(x)[0][-1, 0]


def printed(text, dtype):
    return np.array(text.split(), np.float64).astype(dtype)


@pytest.mark.parametrize("names", [("gcc", "cc"), ("g++", "c++")], ids=["C", "C++"])
def test_the_example_that_is_exported(names, folders):
    folder, compiler = folders("float32"), tool(*names)
    language = ["-x", "c++", "-std=c++11"] if "++" in names[0] else ["-std=c99"]
    sources = ["example.c", "-x", "none", "libnumlstm.a", "-o", "example"]
    run(compiler, *language, *embedded.STRICT, *sources, cwd=folder)
    got = printed(run("./example", MODEL, cwd=folder), "float32")
    assert (got == last_output(model(SIZES[6]))).all()
    (folder / "cut").write_bytes((folder / MODEL).read_bytes()[:-64])
    with pytest.raises(AssertionError, match="cut: the length is not that of the model"):
        run("./example", "cut", cwd=folder)


def test_the_program_of_the_page(folders):
    folder = folders("float32")
    (command,) = re.findall(r"^printf .*", PAGE, re.M)
    run("sh", "-c", command, cwd=folder)
    text = block("c", '#include "numlstm.h"').replace('#include "numlstm.h"', "")
    text = text.replace("bytes, length", "model_bytes, model_end - model_bytes")
    (folder / "page.c").write_text(
        '#include <stdio.h>\n#include <stdlib.h>\n#include "numlstm.h"\n'
        'extern const char model_bytes[] __asm__("model"), model_end[];\n'
        f"int main(void) {{ float input[7] = {{0}}, output[5]; {text} return code; }}\n"
    )
    strict = ("-Wall", "-Werror", "-Wl,--fatal-warnings")
    run(tool("gcc"), *strict, "page.c", "model.S", "libnumlstm.a", "-o", "page", cwd=folder)
    run("./page", cwd=folder)


def test_the_rust_of_the_page(folders):
    folder, rustc = folders("float32"), tool("rustc")
    (folder / "main.rs").write_text(block("rust", "use std::ffi"))
    run(rustc, "--edition", "2021", "-O", "-L", ".", "main.rs", cwd=folder)
    got = printed(run("./main", MODEL, cwd=folder), "float32")
    assert (got == last_output(model(SIZES[6]))).all()


def test_a_launcher_that_launches_nothing_is_passed_over(monkeypatch, tmp_path):
    """rustup's shim, say, in a home without a toolchain."""
    for name, code in (("broken", 1), ("sound", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "compiler").write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name / "compiler").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join(str(tmp_path / name) for name in ("broken", "sound")))
    assert tool("compiler") == str(tmp_path / "sound" / "compiler")
    monkeypatch.setenv("PATH", str(tmp_path / "broken"))
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception), match="compiler"):
        tool("absent", "compiler")


def test_two_libraries_in_one_program(tmp_path):
    """Of float and double, by their prefixes."""
    for dtype, prefix in (("float32", "single"), ("float64", "twice")):
        export(model(SIZES[0], dtype), tmp_path / prefix, prefix=prefix, echo=lambda line: None)
        (tmp_path / prefix / "example.c").write_text(
            (tmp_path / prefix / "example.c").read_text().replace("int main(", f"int {prefix}(")
        )
    text = "int single(int, char **); int twice(int, char **);\n"
    text += (
        'int main(void) { char *s[] = {"", "single/M"}, *t[] = {"", "twice/M"}; return single(2, s) + twice(2, t); }'
    )
    (tmp_path / "both.c").write_text(text.replace("/M", f"/{MODEL}"))
    sources = ["both.c", *(f"{p}/{f}" for p in ("single", "twice") for f in ("example.c", f"lib{p}.a"))]
    run(tool("gcc"), *sources, "-o", "both", cwd=tmp_path)
    first, second = run("./both", cwd=tmp_path).split()
    assert np.float32(first) == last_output(model(SIZES[0]))[0]
    assert abs(float(second) - last_output(model(SIZES[0], "float64"))[0]) < 1e-8


def zig(target):
    """A compiler for another system, with what its linkers and libraries are."""
    need_files("ziglang")
    return [sys.executable, "-m", "ziglang", "cc", "-target", link.ZIG[target]]


@pytest.mark.parametrize("target", ["aarch64-macos", "x86_64-windows"])
def test_programs_and_shared_libraries_are_linked_for_other_systems(target, tmp_path):
    compiler = zig(target)
    export(model(SIZES[0]), tmp_path, target=target, shared=True, echo=lambda line: None)
    library = next(path for path in tmp_path.iterdir() if path.suffix in (".a", ".lib"))
    run(*compiler, tmp_path / "example.c", library, "-o", tmp_path / "example.exe")
    magic = {"aarch64-macos": b"\xcf\xfa\xed\xfe", "x86_64-windows": b"MZ"}[target]
    shared = next(path for path in tmp_path.iterdir() if path.suffix in (".dylib", ".dll"))
    for path in (tmp_path / "example.exe", shared):
        assert path.read_bytes()[: len(magic)] == magic
    assert b"numlstm_load" in shared.read_bytes()


def test_another_system_gives_the_same_bits(dtype, folders, tmp_path):
    """A program for Windows, whose calling convention is another one, under wine."""
    folder, wine = folders(dtype, WINDOWS), tool("wine64", "/usr/lib/wine/wine64")
    program = tmp_path / "runner.exe"
    source, flags = embedded.SOURCES / "runner.c", ["-O1", "-DPLAIN_MEMORY", "-I", folder]
    run(*zig(WINDOWS), *flags, source, folder / "numlstm.lib", "-o", program)
    environment = {**os.environ, "WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
    ran = sum(
        check(program, [wine], folder, dtype, sizes, WINDOWS, environment=environment)
        for sizes in (SIZES[2], SIZES[4], SIZES[7], SIZES[9])
    )
    assert ran > 30
