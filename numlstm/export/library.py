"""The library of a target: two objects, in an archive or linked to a shared library."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from numlstm.base.log import lengthy
from numlstm.base.requirements import install
from numlstm.export.archive import archive
from numlstm.export.targets import Target
from numlstm.kernels.loading import cache as kernel_cache
from numlstm.kernels.loading.levels import Level

FUNCTIONS = (
    "load",
    "input_size",
    "hidden_size",
    "num_layers",
    "num_directions",
    "proj_size",
    "output_size",
    "state_bytes",
    "state_init",
    "step",
    "forward",
    "reset",
    "h",
    "c",
    "error_text",
)


def objects(kernel: str, level: Level, prefix: str) -> dict[str, tuple[bytes, list[str]]]:
    """The objects of a library by name, each with the symbols that it exports; cached as kernels are.

    Parameters
    ----------
    kernel : str
        As `CellOptions.kernel` names it: "float32" or "float64" for the plain cell.
    level : Level
        As ``Target.level`` gives it.
    prefix : str
        All symbols begin with it.

    Returns
    -------
    dict of str to (bytes, list of str)
    """
    code = _object("kernel", kernel, level, prefix)  # first: it announces that the library is compiled
    glue = _object("glue", kernel, level, prefix)
    return {
        "glue.o": (glue, [f"{prefix}_{name}" for name in FUNCTIONS]),
        "kernel.o": (code, [f"{prefix}_kernel", f"{prefix}_head"]),
    }


def static(target: Target, kernel: str, level: Level, prefix: str) -> bytes:
    """The archive."""
    made = objects(kernel, level, prefix)
    bsd = "apple" in target.triple
    if bsd:  # there C's names begin with an underscore
        made = {name: (code, [f"_{symbol}" for symbol in symbols]) for name, (code, symbols) in made.items()}
    return archive(made, bsd)


@cache
def _object(part: str, kernel: str, level: Level, prefix: str) -> bytes:
    def make(once: str) -> bytes:
        from numlstm.export import glue

        if part == "kernel":
            lengthy("numlstm: compiling the library for %s and %s, %s; some 20 seconds", kernel, level.name, once)
        build = glue.kernel_object if part == "kernel" else glue.glue_object
        code: bytes = build(kernel, level, prefix)
        return code

    try:
        code, _ = kernel_cache.obtain(
            lambda: f"{prefix}-{part}-{kernel}-{level.name}-{_fingerprint(kernel, level)}.o", make
        )
    except PackageNotFoundError as error:
        raise ImportError(
            f"an exported library is made by Numba and llvmlite, and the package {error.name} is not installed\n"
            f"Install both: {install('numba')}"
        ) from error
    return code


def _fingerprint(kernel: str, level: Level) -> str:
    """A hash of all that an object depends on: what a kernel depends on, and the sources here."""
    digest = hashlib.sha256(kernel_cache.fingerprint(kernel, level).encode())
    for name in ("glue", "c_heads", "c_memory", "c_model", "c_state", "cpu_check", "model_layout"):
        source = Path(__file__).with_name(f"{name}.py")
        digest.update((source if source.exists() else source.with_suffix(".pyc")).read_bytes())
    return digest.hexdigest()[:24]
