"""The files for JavaScript: two WebAssembly modules, and an ES module with its types that loads the fitting one.

Both WebAssembly modules read the same model. The one with relaxed SIMD is for engines whose multiply-add is fused, and
has the bits of numlstm in Python. The other one runs everywhere else.
"""

from __future__ import annotations

from importlib import resources

from numlstm.base.cell_options import of_kernel
from numlstm.export import link
from numlstm.export.library import FUNCTIONS, objects
from numlstm.export.targets import WEB, WEB_RELAXED


def files(kernel: str, prefix: str, linker: list[str]) -> dict[str, bytes]:
    """The files by name, for a kernel as `registry` names it."""
    made = {}
    for level, name in ((WEB, f"{prefix}.wasm"), (WEB_RELAXED, f"{prefix}-relaxed.wasm")):
        codes = {member: code for member, (code, _) in objects(kernel, level, "numlstm").items()}
        made[name] = link.web(linker, codes, [f"numlstm_{function}" for function in FUNCTIONS])
    array = "Float64Array" if of_kernel(kernel)[0] == "float64" else "Float32Array"
    for ending in ("js", "d.ts"):
        text = resources.files(__name__).joinpath(f"numlstm.{ending}").read_text("utf-8")
        made[f"{prefix}.{ending}"] = text.replace("@PREFIX@", prefix).replace("@ARRAY@", array).encode()
    return made
