"""A cold process: what it imports before its first result, and what it does not."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from shipping import NUMBERS, ship

import numlstm
from numlstm.kernels.loading import registry
from numlstm.wheels import libraries

pytestmark = [pytest.mark.cpu_level, pytest.mark.slow]

# Beyond what NumPy itself imports. What is not here was measured: numpy.random takes 14 ms, importlib.metadata 29,
# hashlib 3, tempfile 5.
NEEDED = {
    "numlstm", "safetensors",
    "__future__", "atexit", "bisect", "copy", "errno", "json", "codeop", "gc", "keyword", "linecache",
    "org", "textwrap", "threading", "token", "tokenize", "zlib",
}  # fmt: skip
LEFT_ALONE = {
    "numlstm.base.console", "numlstm.base.requirements", "numlstm.base.validation.packed", "numlstm.bench",
    "numlstm.cell", "numlstm.cli",
    "numlstm.commands.check", "numlstm.commands.convert", "numlstm.commands.disk_array", "numlstm.commands.inspect",
    "numlstm.commands.run", "numlstm.commands.sequence_files", "numlstm.dask", "numlstm.demo", "numlstm.interop",
    "numlstm.kernels.loading.build", "numlstm.kernels.loading.cache", "numlstm.kernels.loading.jit",
    "numlstm.kernels.loading.linker", "numlstm.kernels.simd",
    "numlstm.parameter_types", "numlstm.reference", "numlstm.sequences.packed_layout",
    "numlstm.sequences.packing", "numlstm.sequences.pool",
    "numlstm.sequences.ragged", "numlstm.sequences.state", "numlstm.sequences.stream", "numlstm.tracing.trace",
}  # fmt: skip
PACKAGES = os.path.dirname(os.path.dirname(np.__file__))
FORMATS = {
    "budget", "detected", "numlstm_config", "other_names", "reparametrized", "safetensors", "state_dict", "tensor",
    "text",
}  # fmt: skip
FIRST = """
import json, sys
import numpy
before = set(sys.modules)
import numlstm
lstm = numlstm.load(sys.argv[1])
lstm(numpy.zeros((3, 1, 5), numpy.float32))
{extra}
print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package that ships the kernels for this CPU, and a model."""
    folder = tmp_path_factory.mktemp("startup")
    package = libraries.copy_of_package(folder)
    for number in NUMBERS:
        ship(package, number, registry.level())
    numlstm.LSTM(5, 7, seed=0).save(folder / "model.safetensors")
    return package


def needless(package, extra=""):
    """What a first result imports and does not need."""
    # without site, whose .pth files let other packages import what they like before anything else
    done = subprocess.run(
        [sys.executable, "-S", "-c", FIRST.format(extra=extra), "model.safetensors"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), PACKAGES])},
        cwd=package.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    before, new = json.loads(done.stdout)
    assert "numlstm.kernels.loading.prebuilt" in new and "numpy" in before

    def superfluous(name):
        top, *below = name.split(".")
        if top == "numpy":
            return "random" in below
        if below[:1] == ["formats"] and len(below) > 1:
            return below[1] not in FORMATS
        if top == "numlstm":
            return any(f"{name}.".startswith(f"{module}.") for module in LEFT_ALONE)
        return top not in NEEDED and not top.startswith("_")  # a built-in part of what is listed

    return [name for name in new if superfluous(name)]


def test_a_first_result_imports_nothing_that_it_does_not_need(package):
    assert needless(package) == []


@pytest.mark.parametrize(
    "planted",
    [
        "click",
        "logging",
        "dataclasses",
        "numlstm.sequences.pool",
        "numlstm.formats.keras.reader",
        "numlstm.kernels.loading.cache",
        "concurrent.futures",
        "asyncio",
        "tempfile",
    ],
)
def test_a_planted_import_is_found(package, planted):
    assert planted in needless(package, extra=f"import {planted}")


def test_dropout_and_copies_still_find_their_generator(package, tmp_path):
    """It is made when it is asked for, once, and goes along in copies."""
    path = tmp_path / "model.npz"
    numlstm.LSTM(3, 4, 2, dropout=0.5, seed=0).save(path)
    lstm = numlstm.load(path)
    assert "_rng" not in lstm.__dict__
    x = np.ones((20, 1, 3), np.float32)  # 80 drawn bits are seldom the same twice
    lstm(x)
    assert "_rng" not in lstm.__dict__
    twin = copy.deepcopy(lstm)
    lstm.train()
    twin.train()
    first, second = lstm(x)[0], lstm(x)[0]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(twin(x)[0], first)
