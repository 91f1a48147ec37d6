"""``numlstm export``: a model as a library and a model file, for programs in C, C++, Rust and JavaScript."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

from numlstm.base import atomic
from numlstm.base.cell_options import of_kernel
from numlstm.cell import LSTMCell
from numlstm.export import link, targets, web
from numlstm.export.library import objects, static
from numlstm.export.model_file import model_bytes
from numlstm.export.model_layout import TEXTS, Code
from numlstm.export.targets import Target
from numlstm.kernels.loading.levels import Level
from numlstm.kernels.plan_layout import INT8
from numlstm.lstm import LSTM
from numlstm.nn.layers import Dropout
from numlstm.nn.sequential import Sequential
from numlstm.nn.stages import HEAD, OUTPUT, STATE, Stage

MODEL = "model.numlstm"


class Described(Protocol):
    """A model of a file that may be a chain of layers."""

    def sequential(self) -> Sequential:
        """The layers; ValueError names what is none."""


def export(
    module: LSTM | LSTMCell | Sequential | Described,
    folder: str | PathLike[str],
    *,
    target: str = "host",
    level: str | None = None,
    prefix: str = "numlstm",
    shared: bool = False,
    echo: Callable[[str], None] = print,
) -> None:
    """Write the files that a program needs to run a model without Python: see docs/embedding.md and docs/web.md.

    Parameters
    ----------
    module : LSTM, LSTMCell, Sequential, or another model of `load_model`
        A `Sequential` is an LSTM with Linear layers and the functions relu, sigmoid, tanh and softmax behind it; a
        model of Keras or ONNX must be one, as its ``sequential`` says. With `last_state` each step gives what the model
        gives for the steps so far. The parameters are copied as they are now. There is no dropout, as in eval mode.
    folder : path
        Where to write. It is created if it is missing; files of the same names are replaced.
    target : str
        "host" or one of ``targets.TARGETS``. "wasm32" is for JavaScript: WebAssembly and an ES module.
    level : str, optional
        The instructions that may be used on x86-64: "x86-64-v3" (the default; Haswell, Zen and later), "x86-64-v4"
        (AVX-512), or "x86-64", whose results have other bits.
    prefix : str
        The library's names begin with it. Two libraries in one program need two prefixes.
    shared : bool
        Whether to link a shared library too. That takes a C compiler or ``ziglang``. WebAssembly is always linked, by
        ``wasm-ld`` or ``ziglang``.
    echo : callable
        Called with a line of text about each file.

    Raises
    ------
    ValueError
        The target, the level or the prefix is invalid; a size of the model is too large; or it has a layer that a
        library does not have. The message names it.
    RuntimeError
        There is no linker for a shared library or WebAssembly, or it failed.
    ImportError
        Numba or llvmlite is not installed.
    OSError
        The folder cannot be written.

    Examples
    --------
    >>> import tempfile, numlstm
    >>> from numlstm.export import export
    >>> folder = Path(tempfile.mkdtemp())
    >>> export(numlstm.LSTM(3, 5, seed=0), folder, target="aarch64-linux", echo=lambda line: None)
    >>> sorted(path.name for path in folder.iterdir())
    ['example.c', 'libnumlstm.a', 'model.numlstm', 'numlstm.h']
    """
    chosen = targets.find(target)
    wanted = chosen.level(level)
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,63}", prefix):
        raise ValueError(
            f"prefix is {prefix!r}; it must be a name in C: up to 64 letters, digits and underscores, no digit first"
        )
    if hasattr(module, "sequential"):
        module = module.sequential()
    lstm, layers = parts(module) if isinstance(module, Sequential) else (module, [])
    if isinstance(lstm, LSTM):
        lstm._forward_only("export")
    if lstm._config.weights == INT8:
        raise NotImplementedError(
            f"exported libraries compute with weights in float32, float64 or bfloat16, and this is {lstm!r}\n"
            'Export lstm.quantize_weights("bfloat16").'
        )
    model = model_bytes(lstm._panels, wanted, [stage.packed(wanted.lanes(lstm.dtype.name)) for stage in layers])
    linker = link.find(chosen) if shared or not chosen.static else None  # fail before the work begins
    atomic.folder(folder)
    library = _library(chosen, wanted, prefix, lstm._config.kernel(lstm.dtype), linker)
    for name, content in (library | {MODEL: model}).items():
        path = Path(folder, name)
        with atomic.replacing(path) as file:
            file.write(content)
        echo(f"{fspath(path)}: {len(content)} bytes")


def parts(model: Sequential) -> tuple[LSTM, list[Stage]]:
    """The LSTM and the heads of a model; ValueError names what a library does not have."""
    first, *rest = [stage for stage in model._stages if not isinstance(stage.layer, Dropout)]
    if not isinstance(first.layer, LSTM):
        raise ValueError(
            f"layer {first.name!r} comes before the LSTM, where a library has none: {first.layer!r}\n"
            "Apply it in the program that calls the library, and export the rest of the model."
        )
    stack = [first]
    while rest and rest[0].kind in (OUTPUT, STATE) and stack[-1].kind == OUTPUT:
        stack.append(rest.pop(0))
    for stage in rest:
        if stage.kind != HEAD:
            raise ValueError(
                f"layer {stage.name!r} cannot be exported: it is {stage.layer!r}\n"
                "A library has one LSTM, and behind it Linear layers and relu, sigmoid, tanh and softmax."
            )
    if stack[-1].kind == STATE and stack[-1].layer._config.needs_whole_sequences:
        raise ValueError(
            f"layer {stack[-1].name!r} cannot be exported: last_state follows it, which is no step's output where a "
            "direction ends with the first step\nExport the model without last_state."
        )
    if model.initial_states:
        raise ValueError(
            "the model begins with states of its own, and a library begins with zeros\n"
            f"Export its LSTM, model.layers[{first.name!r}] (numlstm export --hidden), and write the states through "
            "the functions h and c."
        )
    return _stacked(stack), rest


def _stacked(stages: list[Stage]) -> LSTM:
    """LSTMs that follow one another as one of several layers."""
    lstm: LSTM = stages[0].layer
    if len(stages) == 1:
        return lstm
    sizes: dict[str, Any] = {"input_size": lstm.input_size, "num_layers": 1, "dropout": 0.0}
    arrays, count = {}, 0
    for stage in stages:
        own: LSTM = stage.layer
        if own._config._replace(**sizes) != lstm._config._replace(**sizes):
            raise ValueError(
                f"layer {stage.name!r} cannot be exported: it is {own!r}, and its hidden_size or flags are not those "
                f"of {lstm!r} before it\nA library has one LSTM, whose layers are alike."
            )
        for name, array in own.named_parameters():
            base, _, layer = name.removesuffix("_reverse").rpartition("_l")
            arrays[f"{base}_l{int(layer) + count}{'_reverse' * name.endswith('_reverse')}"] = array
        count += own.num_layers
    return LSTM._from_parameters(lstm._config._replace(num_layers=count), lstm.dtype, arrays)


def _library(target: Target, level: Level, prefix: str, kernel: str, linker: list[str] | None) -> dict[str, bytes]:
    """The files of a library by name, with an example of its use."""
    if linker is not None and not target.static:
        return web.files(kernel, prefix, linker)
    static_name, shared_name = target.static.format(prefix), target.shared.format(prefix)
    words = {
        "PREFIX": prefix,
        "GUARD": prefix.upper(),
        "KIND": "double" if of_kernel(kernel)[0] == "float64" else "float",
        "TARGET": f"{target.name}, {level.name}",
        "CODES": _codes(prefix),
        "COMPILE": f"cc -O2 example.c {static_name} -o example",
    }
    files = {
        f"{prefix}.h": _filled("numlstm.h", words),
        "example.c": _filled("example.c", words),
        static_name: static(target, kernel, level, prefix),
    }
    if linker is not None:
        made = {name: code for name, (code, _) in objects(kernel, level, prefix).items()}
        files[shared_name] = link.shared(linker, made, shared_name)
    return files


def _codes(prefix: str) -> str:
    """The error codes as lines of C."""
    lines = [f"    {prefix.upper()}_{code.name} = {code.value}" for code in Code]
    ended = [*(f"{line}," for line in lines[:-1]), lines[-1]]
    return "\n".join(f"    /* {TEXTS[code]} */\n{line}" for code, line in zip(Code, ended, strict=True))


def _filled(name: str, words: dict[str, str]) -> bytes:
    """A template of this folder with the words between @ replaced."""
    text = resources.files(__name__).joinpath(name).read_text("utf-8")
    return re.sub(r"@([A-Z]+)@", lambda found: words[found[1]], text).encode()
