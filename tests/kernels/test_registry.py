"""Where kernels come from: built once, then cached. What can go wrong with that is in ``test_faults.py``."""

import os
import subprocess
import sys

import numpy as np
import pytest
from commands import child

from numlstm.kernels.loading import cache, jit, levels, linker, registry

pytestmark = pytest.mark.cpu_level

RUN = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
import numlstm, numpy
lstm = numlstm.LSTM(2, 3, seed=0)
print("SUM", float(lstm(numpy.ones((2, 1, 2)))[0].sum()))
print("NUMBA", "numba" in sys.modules)
"""


def computed(**environment):
    """What a fresh process prints that computes something."""
    return child("-c", RUN, **environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache folder that one process has filled."""
    folder = tmp_path_factory.mktemp("cache") / "numlstm"
    said = computed(NUMLSTM_CACHE_DIR=str(folder))
    assert "compiling the float32 kernels" in said and "NUMBA True" in said
    return folder


def only_file(folder):
    (path,) = folder.glob("*.o")
    return path


@pytest.mark.slow
def test_the_second_process_compiles_nothing_and_imports_no_numba(folder):
    said = computed(NUMLSTM_CACHE_DIR=str(folder))
    assert "compiling" not in said and "NUMBA False" in said


@pytest.mark.slow
def test_the_cache_is_private_and_whole(folder):
    path = only_file(folder)
    assert folder.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o077 == 0
    assert cache.read(path) is not None


def test_another_level_is_another_object(monkeypatch):
    names = {cache.fingerprint("float32", level) for level in levels.LEVELS.values()}
    assert len(names | {cache.fingerprint("float64", registry.level())}) == len(levels.LEVELS) + 1


def test_a_level_that_the_cpu_lacks_is_refused(monkeypatch):
    monkeypatch.setenv("NUMLSTM_CPU", "x86-64-v9")
    with pytest.raises(RuntimeError, match="NUMLSTM_CPU='x86-64-v9' is not a level that this CPU has"):
        levels.this_machine()


def test_levels_follow_the_flags_of_the_cpu(monkeypatch):
    monkeypatch.delenv("NUMLSTM_CPU", raising=False)
    monkeypatch.setattr(levels.platform, "machine", lambda: "x86_64")
    v4 = levels.FEATURES["x86-64-v4"]
    for flags, name in (
        (v4, "x86-64-v4"),
        (v4 - {"avx512dq"}, "x86-64-v3"),
        ({"sse2"}, "x86-64"),
    ):
        monkeypatch.setattr(levels, "_x86_flags", lambda flags=flags: flags)
        assert levels.this_machine().name == name
    monkeypatch.setattr(levels.platform, "machine", lambda: "vax")
    with pytest.raises(RuntimeError, match="no kernels for the CPU 'vax'"):
        levels.this_machine()


def test_numpy_finds_the_level_where_the_system_does_not_say(monkeypatch):
    """As on macOS and Windows, where Numba need not be there."""
    if levels.host() != "x86_64-linux":
        pytest.skip("needs another source to compare with")
    names = [level.name for level in levels.supported()]
    for source in ("_c_library_flags", "_file_flags"):
        monkeypatch.setattr(levels, source, lambda: None)
    assert [level.name for level in levels.supported()] == names
    umath = levels.import_module("numpy._core._multiarray_umath")
    features = dict.fromkeys(("AVX2", "FMA3", "F16C", "AVX512_SKX"), True)
    for missing, first in ((None, "x86-64-v4"), ("AVX512_SKX", "x86-64-v3"), ("FMA3", "x86-64")):
        monkeypatch.setattr(umath, "__cpu_features__", features | {missing: False})
        assert levels.supported()[0].name == first


def test_a_level_has_the_calling_convention_of_its_system(monkeypatch):
    """And its object format. With Linux's, each call of a kernel on Windows would end the process."""
    monkeypatch.setattr(levels, "_x86_flags", lambda: levels.FEATURES["x86-64-v3"])
    for machine, system, triple in (
        ("AMD64", "Windows", "x86_64-pc-windows-msvc"),
        ("x86_64", "Darwin", "x86_64-apple-macosx10.13.0"),
        ("arm64", "Darwin", "arm64-apple-macosx11.0.0"),
        ("aarch64", "Linux", "aarch64-unknown-linux-gnu"),
        ("x86_64", "FreeBSD", "x86_64-unknown-linux-gnu"),
    ):
        monkeypatch.setattr(levels.platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(levels.platform, "system", lambda system=system: system)
        assert levels.supported()[0].triple == triple


@pytest.mark.slow
def test_without_fused_multiply_add_the_results_are_other_bits_but_close():
    """The level for old CPUs runs here too: right within rounding, and documented as other bits."""
    if registry.level().name.startswith("aarch64"):
        pytest.skip("needs an x86-64 CPU")
    sums = [float(computed(NUMLSTM_CPU=name).split("SUM ")[1].split()[0]) for name in ("x86-64", registry.level().name)]
    assert np.isclose(*sums, rtol=1e-5, atol=0)


OWN = """
import numba
from numba.core import config
@numba.njit
def total(a):
    s = 0.0
    for v in a:
        s += v
    return s
import numlstm, numpy
if {build}:
    numlstm.LSTM(2, 3)(numpy.ones((2, 1, 2)))
total(numpy.ones(9))
(code,) = total.inspect_asm().values()
print(code.count("rsp"), config.OPT, config.LOOP_VECTORIZE, config.DISABLE_JIT)
"""


@pytest.mark.slow
def test_building_leaves_the_users_own_numba_functions_as_they_were(tmp_path):
    """Counted: the stack accesses of a function compiled in a process that built kernels, and in one that did not."""
    said = []
    for build in (False, True):
        environment = {**os.environ, "NUMLSTM_CACHE_DIR": str(tmp_path / str(build))}
        code = OWN.format(build=build)
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=True
        )
        said.append(done.stdout)
    assert said[0] == said[1]


@pytest.mark.slow
def test_kernels_are_built_where_numbas_jit_is_switched_off(tmp_path):
    said = computed(NUMBA_DISABLE_JIT="1", NUMLSTM_CACHE_DIR=str(tmp_path / "cache"))
    assert "compiling" in said and "SUM" in said


LATE = """
import gc, numpy, numlstm
from numlstm.kernels.loading import registry
class Late:
    def __init__(self, call, x, data):
        self.call, self.x, self.data = call, x, data
    def __del__(self):
        print("SUM", self.call(self.x, None, self.data)[0].sum())
lstm = numlstm.LSTM(2, 3, seed=0)
x = numpy.ones((2, 1, 2), numpy.float32)
lstm(x)
call = lstm._model.executor.dispatch_table[False][x.shape]
late = Late(call, x, lstm._panels.data)
kernel = registry._loaded.pop("float32")
del lstm, call, kernel
gc.collect()
want = late.call(x, None, late.data)[0].sum()
print("WANT", want)
"""


@pytest.mark.slow
def test_a_built_in_function_may_be_called_until_python_has_ended(folder):
    """Its code stays where it is, whoever has let go of the kernel."""
    want, got = child("-c", LATE, NUMLSTM_CACHE_DIR=str(folder)).split()[1::2]
    assert want == got


def test_code_and_constants_are_one_piece_of_memory(monkeypatch):
    """LLVM's own memory manager may put them too far apart for the code to reach its constants."""
    import llvmlite.binding as llvm

    asked = []
    create = llvm.create_mcjit_compiler

    def asking(module, machine, use_lmm=None):
        asked.append(use_lmm)
        return create(module, machine, use_lmm)

    monkeypatch.setattr(llvm, "create_mcjit_compiler", asking)
    linker.link(jit.object_code("float32", registry.level())[0], registry.level(), "", 0.0)
    assert asked == [True]
