"""Fresh processes of an unprivileged user under prepared faults, with kernels in the cache or a stand-in for compiling.

Root may write anywhere, so where the tests run as root the processes run as nobody. What they may lack then is the
right to read an interpreter or a checkout in root's home: they are given that right alone, and none to write.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import judge
import numpy as np
from needs import leave_out

import numlstm
from numlstm.kernels.loading import cache, registry
from numlstm.kernels.loading.entry_points import ENTRIES

NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
NO_RIGHTS = ["--bounding-set=-all"]
READING = ["--bounding-set=-all,+dac_read_search", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
MARK = 42  # the exit status of a process that has run the marker
# What every process begins with. Compiling is replaced by reading what was compiled, unless the test is about it.
START = """
import logging, os, sys, time, types
if os.environ.get("FAULTS_PATH"):
    sys.path.insert(0, os.environ["FAULTS_PATH"])
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
building = False
def built(number, level):
    global building
    building = True
    print("BUILT", flush=True)
    time.sleep(float(os.environ.get("FAULTS_SECONDS", 0)))
    with open(os.environ["FAULTS_OBJECT"], "rb") as file:
        return file.read()
if "FAULTS_OBJECT" in os.environ:
    stand_in = types.ModuleType("numlstm.kernels.loading.build")
    stand_in.object_code = built
    sys.modules["numlstm.kernels.loading.build"] = stand_in
def result():
    import numlstm, numpy
    x = numpy.linspace(-2, 2, 30, dtype=numpy.float32).reshape(6, 1, 5)
    return numlstm.LSTM(5, 7, seed=0)(x)[0].tobytes().hex()
def tell():
    bits = result()
    from numlstm.kernels.loading import registry
    print("BITS", bits)
    print("ORIGIN", registry.kernel("float32").origin)
    print("NUMBA", "numba" in sys.modules)
"""


@dataclass
class Said:
    """How a process ended and what it printed."""

    status: int
    out: str
    error: str

    def all_of(self, word):
        """What follows a word that begins a line."""
        return [line[len(word) + 1 :] for line in self.out.splitlines() if line.startswith(word + " ")]

    @property
    def bits(self):
        (bits,) = self.all_of("BITS")
        return bits

    @property
    def origin(self):
        (origin,) = self.all_of("ORIGIN")
        return origin

    @property
    def built(self):
        return self.out.splitlines().count("BUILT")

    def right(self, bits):
        """Itself, having come to the right bits."""
        assert self.status == 0, (self.status, self.out, self.error)
        assert self.bits == bits
        return self


def is_root():
    return hasattr(os, "geteuid") and os.geteuid() == 0


@functools.cache
def unprivileged():
    """The command that makes the one after it run as a user who is not root; nothing where we are none."""
    if not is_root():
        return []
    if not shutil.which("setpriv"):
        leave_out("needs the command setpriv (Debian: util-linux) to be another user than root")
    said = "nothing was tried"
    for rights in (NO_RIGHTS, READING):
        command = [*AS_NOBODY, *rights]
        # one who may not enter the interpreter's folder may get another that runs, but not all the way
        same = f"import sys; assert sys.base_prefix == {sys.base_prefix!r}; "
        probe = [*command, sys.executable, "-c", same + "import numpy, numlstm, llvmlite.binding, numba.core.config"]
        done = subprocess.run(probe, env=surroundings(), capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            return command
        said = done.stderr.strip()
    leave_out(f"needs an interpreter that the user nobody can run: {said}")
    return []


def surroundings(**changes):
    """The environment of a process; a change to None takes a variable away."""
    package = str(Path(numlstm.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    given = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **changes}
    for name in ("HOME", "XDG_CACHE_HOME", "NUMLSTM_CACHE_DIR"):  # never those of who runs the tests
        if name not in changes:
            given.pop(name, None)
    return {name: str(value) for name, value in given.items() if value is not None}


class Place:
    """A folder that all can enter, with a home of the unprivileged user in it, and compiled kernels beside it."""

    def __init__(self, code):
        self.path = Path(tempfile.mkdtemp(prefix="numlstm"))
        self.path.chmod(0o755)
        self.object = self.path / "kernels.o"
        self.object.write_bytes(code)
        self.object.chmod(0o644)
        self.home = self.folder("home")
        self.cache = self.home / "cache"

    def own(self, path, mode):
        """Give a path to the unprivileged user."""
        path.chmod(mode)
        if is_root():
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        return path

    def folder(self, *parts, mode=0o700):
        path = self.path.joinpath(*parts)
        path.mkdir()
        return self.own(path, mode)

    def file(self, path, content, mode=0o600):
        path.write_bytes(content)
        return self.own(path, mode)

    def fill(self, code, level=None):
        """Put an object where a process looks for its kernels."""
        if not self.cache.exists():
            self.folder("home", "cache")
        path = self.cache / cache.file_name("float32", level or registry.level())
        return self.file(path, cache.sealed(path, code))

    def command(self, script, options=(), before=(), between=()):
        return [*before, *unprivileged(), *between, sys.executable, *options, "-c", START + script]

    def environment(self, compiles=False, **changes):
        given = {"NUMLSTM_CACHE_DIR": self.cache, "HOME": self.home, **changes}
        return surroundings(**({} if compiles else {"FAULTS_OBJECT": self.object}), **given)

    def run(self, script="tell()", options=(), before=(), between=(), **changes):
        """What a process says that runs a script here; commands go before or between those that change the user."""
        return self.run_command(self.command(script, options, before, between), **changes)

    def run_command(self, command, **changes):
        done = subprocess.run(
            command,
            env=self.environment(**changes),
            cwd=self.path,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=300,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def start(self, script="tell()", **changes):
        """A process that runs a script here, not waited for."""
        pipe = subprocess.PIPE
        environment = self.environment(**changes)
        return subprocess.Popen(
            self.command(script), env=environment, cwd=self.path, stdout=pipe, stderr=pipe, text=True
        )

    def remove(self):
        for folder, _, _ in os.walk(self.path):
            if os.stat(folder).st_uid == os.geteuid():
                os.chmod(folder, 0o700)  # a fault may have taken the right to empty it
        shutil.rmtree(self.path)


def end(process, timeout=300):
    """What a process said that was started, at its end."""
    try:
        out, error = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Said(process.returncode, out, error)


def marker():
    """An object with the entries of a kernel, each of which ends the process with the status ``MARK``."""
    import llvmlite.binding as llvm

    x86 = registry.level().name.startswith("x86")
    leave = (
        f'call void asm sideeffect "syscall", "{{rax}},{{rdi}},~{{rcx}},~{{r11}},~{{memory}}"(i64 231, i64 {MARK})'
        if x86
        else f'call void asm sideeffect "svc #0", "{{x8}},{{x0}},~{{memory}}"(i64 94, i64 {MARK})'
    )
    text = "\n".join(f"define void @{name}() {{ {leave}\nunreachable }}" for name in ENTRIES)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small")
    return machine.emit_object(llvm.parse_assembly(text))


def judged():
    """The bits that every process is to come to; this process's own, which the reference finds right."""
    x = np.linspace(-2, 2, 30, dtype=np.float32).reshape(6, 1, 5)
    net = numlstm.LSTM(5, 7, seed=0)
    got = net(x)[0]
    np.testing.assert_allclose(got, judge.exact(net, x, dtype=np.float64)[0], rtol=0, atol=1e-6)
    return got.tobytes().hex()
