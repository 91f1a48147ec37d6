"""Python without what only Linux or POSIX has, as on macOS and Windows, as far as Linux can imitate them."""

import json
import stat

import pytest
from commands import child

pytestmark = pytest.mark.slow

# What a system lacks of modules and of os, before anything of numlstm is imported
LACKS = """
import ctypes, json, os, pathlib, sys, threading
system, folder = sys.argv[1:]
linux = ["sched_getaffinity", "sched_setaffinity", "sched_getcpu", "memfd_create"]
posix = ["geteuid", "getuid", "getgid", "fork", "register_at_fork", "sysconf", "getloadavg", "sched_yield", "fchmod"]
gone = {"macos": linux, "windows": linux + posix}[system]
modules = {"macos": [], "windows": ["resource", "fcntl", "pwd", "grp", "termios"]}[system]
for name in gone:
    if hasattr(os, name):
        delattr(os, name)
for name in modules:
    sys.modules[name] = None
touched = set()
opened = open
def no_proc(path, *arguments, **options):
    if isinstance(path, (str, os.PathLike)) and str(path).startswith(("/proc/", "/sys/")):
        touched.add(str(path))
        raise FileNotFoundError(path)
    return opened(path, *arguments, **options)
import builtins, io
builtins.open = io.open = no_proc
library = ctypes.CDLL
class CDLL(library):
    def __init__(self, name, *arguments, **options):
        if name is None and system == "windows":
            raise TypeError("LoadLibrary() argument 1 must be str, not None")
        super().__init__(name, *arguments, **options)
ctypes.CDLL = CDLL
if system == "windows":
    from types import SimpleNamespace
    ctypes.windll = SimpleNamespace(kernel32=SimpleNamespace(SwitchToThread=library(None).sched_yield))
"""
USE = """
import logging
said = []
class Keep(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger("numlstm").addHandler(Keep())
import numpy as np
import numlstm
lstm = numlstm.LSTM(5, 7, num_layers=2, seed=0).eval()
x = np.random.default_rng(0).normal(size=(9, 3, 5)).astype("f4")
y, _ = lstm(x)
with numlstm.num_threads(2):
    big = numlstm.LSTM(32, 128, num_layers=2, seed=0).eval()
    z, _ = big(np.ones((40, 32, 32), "f4"))
stream = lstm.stream(batch_size=3)
steps = np.stack([stream(row) for row in x])
lstm.save(folder + "/m.safetensors")
again, _ = numlstm.load(folder + "/m.safetensors")(x)
from click.testing import CliRunner
from numlstm.cli import main
info = CliRunner().invoke(main, ["info"])
out = [array.tobytes().hex() for array in (y, z, steps, again)]
print(json.dumps([out, info.exit_code, info.output, said, sorted(touched), "resource" in sys.modules]))
"""


def said(program, *arguments, cache):
    """The last line that a program prints in a fresh process, as JSON."""
    return json.loads(child("-c", program, *arguments, timeout=600, NUMLSTM_CACHE_DIR=str(cache)).splitlines()[-1])


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """What this system gives, and its cache."""
    cache = tmp_path_factory.mktemp("cache") / "numlstm"
    plain = "import json, sys\nsystem, folder = sys.argv[1:]\ntouched = set()\n" + USE
    return said(plain, "linux", tmp_path_factory.mktemp("here"), cache=cache)[0], cache


@pytest.mark.parametrize("system", ["macos", "windows"])
def test_the_same_bits_without_what_linux_has(system, here, tmp_path):
    want, cache = here
    mode = stat.S_IMODE(cache.stat().st_mode) if cache.exists() else None
    if system == "windows" and mode is not None:
        cache.chmod(0o777)  # what os.stat says of every folder there
    try:
        got, code, info, told, touched, _ = said(LACKS + USE, system, tmp_path, cache=cache)
    finally:
        if mode is not None:
            cache.chmod(mode)
    assert got == want
    assert code == 0 and "versions" in info and "threads" in info, info
    assert not [text for text in told if "not cached" in text], told
    assert touched, "nothing asked for what is missing: this test would not see it"


def test_what_is_missing_would_be_seen(tmp_path):
    """The names are gone, and the files of /proc with them."""
    program = LACKS + (
        "lost = [not hasattr(os, n) for n in gone]\n"
        "try:\n    open('/proc/self/status')\nexcept FileNotFoundError:\n    lost.append(True)\n"
        "try:\n    import resource\nexcept ImportError:\n    lost.append(True)\n"
        "try:\n    ctypes.CDLL(None)\nexcept TypeError:\n    lost.append(True)\n"
        "print(json.dumps(lost))"
    )
    lost = said(program, "windows", tmp_path, cache=tmp_path)
    assert all(lost) and len(lost) == 13 + 3
