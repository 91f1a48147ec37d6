"""The wheel for Linux on aarch64, in the Python of that CPU under qemu: kernels, bits, streams, threads and files."""

import json
import os
import sys
import zipfile
from pathlib import Path

import aarch64
import pytest
from bits import DIGEST_OF_ALL
from needs import leave_out

from numlstm.wheels import libraries

pytestmark = pytest.mark.system

TESTS = Path(__file__).parents[1]
SUPPORT = TESTS / "support"
WORK = """
import numpy as np
import numlstm
from bits import digest

def work():
    \"\"\"Results as bits: of each number type, on threads, in a stream, from a file and in training.\"\"\"
    x = np.sin(np.arange(9 * 33 * 5)).reshape(9, 33, 5)
    lstm = numlstm.LSTM(5, 70, num_layers=2, seed=0).eval()
    with numlstm.num_threads(1):
        results = {"digest": digest(), "alone": lstm(x)[0]}
    with numlstm.num_threads(2):
        results["threads"] = lstm(x)[0]
    stream = lstm.stream(batch_size=33)
    results["steps"] = np.stack([stream(row) for row in x.astype("f4")])
    lstm.save("model.safetensors")
    results["file"] = numlstm.load("model.safetensors")(x)[0]
    for kind in ("bfloat16", "int8"):
        results[kind] = numlstm.load("model.safetensors").quantize_weights(kind)(x)[0]
    for dtype in ("float32", "float64"):
        (y, _), backward = numlstm.LSTM(5, 37, dtype=dtype, seed=0).vjp(x)
        gradients = backward(np.ones_like(y))
        results[dtype] = gradients.input
        results |= {f"{dtype} {name}": value for name, value in gradients.parameters.items()}
    return {name: value if name == "digest" else value.tobytes().hex() for name, value in results.items()}
"""
SAY = f"""
import json, sys
sys.path.insert(0, {str(SUPPORT)!r})
{WORK}
from numlstm.kernels.loading import registry
from numlstm.runtime import object_layout
said = work()
origins = {{name: kernel.origin for name, kernel in registry._loaded.items()}}
print(json.dumps([said, origins, object_layout.functions is not None, "numba" in sys.modules]))
"""
FILES = ["test_contract.py", "runtime/test_head.py", "sequences/test_backwards.py"]  # they need no Numba


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The wheel for aarch64, unpacked."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        leave_out("builds for aarch64 on x86-64 with Linux")
    folder = tmp_path_factory.mktemp("aarch64")
    root = TESTS.parent
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, root]
    aarch64.done(*command, NUMLSTM_TARGET="aarch64-linux", NUMLSTM_BUILD_LEVELS="")
    (wheel,) = folder.glob("*-py3-none-manylinux_2_17_aarch64.musllinux_1_1_aarch64.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_its_kernels_give_the_bits_of_this_cpu(site, tmp_path, monkeypatch):
    """All are shipped, since Numba is not there; Python calls them through their built-in functions."""
    monkeypatch.chdir(tmp_path)
    said, origins, fast, with_numba = json.loads(aarch64.done(aarch64.python(), "-c", SAY, PYTHONPATH=str(site)))
    here = {}
    exec(WORK, here)
    assert said == here["work"]() and said["digest"] == DIGEST_OF_ALL
    assert said["alone"] == said["threads"] == said["steps"] == said["file"] != said["bfloat16"]
    assert fast and not with_numba
    assert sorted(origins) == sorted(libraries.NUMBERS)
    assert all(origin.startswith(f"shipped: {site}") for origin in origins.values())


def test_info_says_where_they_came_from(site):
    told = aarch64.done(aarch64.python(), "-P", "-m", "numlstm", "info", PYTHONPATH=str(site))
    assert "kernels for      aarch64: 32 registers of 128 bits, fused multiply-add" in told
    assert f"float32 kernels  shipped: {site}" in told


def test_the_contract_holds(site):
    """The very tests of this CPU; those that need PyTorch or Numba are elsewhere."""
    options = ["-q", "-n0", "-p", "no:cacheprovider", "-c", TESTS.parent / "pyproject.toml"]
    files = [TESTS / name for name in FILES]
    told = aarch64.done(aarch64.python(), "-P", "-m", "pytest", *options, *files, PYTHONPATH=str(site), NUMLSTM_CI="0")
    assert "passed" in told.splitlines()[-1], told[-2000:]
