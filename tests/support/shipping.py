"""Copies of the package that ship kernels, as a wheel does, and fresh processes that run them."""

import json
from pathlib import Path

from commands import child

from numlstm.export import targets
from numlstm.kernels.loading import jit
from numlstm.wheels import libraries

NUMBERS = ("float32", "float64")
RUN = """
import json, logging, sys
class Told(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())
told = []
logging.getLogger("numlstm").addHandler(Told())
logging.getLogger("numlstm").setLevel(logging.INFO)
for name in HIDDEN:
    sys.modules[name] = None
import numlstm, numpy
from numlstm.kernels.loading import registry
bits, error = {}, None
try:
    for dtype in NUMBERS:
        lstm = numlstm.LSTM(5, 7, num_layers=2, bidirectional=True, dtype=dtype, seed=0)
        x = numpy.random.default_rng(0).standard_normal((6, 3, 5)).astype(dtype)
        bits[dtype] = lstm(x)[0].tobytes().hex()
except ImportError as caught:
    error = str(caught)
print(json.dumps({
    "where": numlstm.__file__, "bits": bits, "error": error, "told": told,
    "origins": {number: kernel.origin for number, kernel in registry._loaded.items()},
    "imported": [name for name in ("numba", "llvmlite") if sys.modules.get(name)],
}))
"""


def computed(package, hidden=(), numbers=NUMBERS, **environment):
    """What a fresh process says that runs this copy of the package, with other packages hidden from it.

    The copy may stand in an archive.
    """
    code = RUN.replace("HIDDEN", repr(hidden)).replace("NUMBERS", repr(numbers))
    said = json.loads(
        child(
            "-c",
            code,
            cwd=next(folder for folder in package.parents if folder.is_dir()),
            path=[package.parent],
            **environment,
        )
    )
    assert Path(said["where"]).parent == package
    return said


def ship(package, number, level):
    """Put the library of a number type into a copy of the package; its path."""
    here = targets.find("host")
    command = libraries.linker(here)
    assert command, "no linker: binutils, LLVM's lld or the package ziglang"
    code, _ = jit.object_code(number, level)
    library = libraries.linked(number, code, here, command)
    return libraries.place(number, level, library, here, package / "kernels" / "shipped")
