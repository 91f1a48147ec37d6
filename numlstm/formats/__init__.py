"""Model files as data: a reader for each format, chosen by the file's content, not by its name.

A reader takes an open file and returns `Contents`: every tensor with its shape, still unread, and the LSTMs among them.
It raises ValueError, without the path, for what it does not understand; `opened` adds the path. No reader executes
anything in a file, or allocates memory on the word of a header alone.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

from numlstm.base import bfloat16, int8, opening
from numlstm.base.config import Config
from numlstm.base.typing import Path
from numlstm.formats import detected
from numlstm.formats.budget import ALWAYS, TIMES
from numlstm.formats.detected import Contents, Found, Kind
from numlstm.formats.tensor import Tensor

__all__ = ["WRITTEN", "Contents", "Found", "Source", "Tensor", "name_of", "opened", "written"]

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK"
PICKLE = re.compile(rb"\x80|\([dlIVSc(]|[]}]q\x00|c[A-Za-z_][\w.]*\n\w+\n[pq(]")  # of protocol 2 and later, of 0, of 1
TORCH_TAR = (b"sys_info", b"pickle", b"storages", b"tensors")  # names that such an archive begins with
Source = Path | bytes | bytearray | memoryview | BinaryIO
INNER = ("policy.pth", "serialized_state_dict.pt")  # of Stable-Baselines3, and of torch.export before 2.8
WRITTEN = (".safetensors", ".npz", ".onnx")


@contextmanager
def opened(source: Source) -> Iterator[Contents]:
    """Open a model file; its tensors can be read inside the context.

    Parameters
    ----------
    source : path, bytes or binary file
        A file of any of the formats, with any name. A file object is read from its position to its end.

    Raises
    ------
    TypeError
        It is none of these.
    OSError
        It cannot be opened, or is no regular file.
    ValueError
        It is damaged, or of an unknown format; the message begins with the path.
    ImportError
        The format needs a package that is not installed; the message says which.
    """
    shown = name_of(source)
    with ExitStack() as stack:
        if isinstance(source, str | os.PathLike) and os.path.isdir(source):
            from numlstm.formats import unread

            if said := unread.what_folder(source):
                raise OSError(f"{shown} is {said}")
        path = source if isinstance(source, str | os.PathLike) else None
        file = stack.enter_context(opening.regular(path, "a model file") if path is not None else _in_memory(source))
        try:
            yield detected.with_quantised_named(_contents(file, path, stack))
        except OSError as error:
            if error.filename is None and error.strerror:  # a read error, which does not name the file
                raise OSError(error.errno, error.strerror, shown) from error
            raise
        except MemoryError as error:
            if error.args:
                raise
            raise MemoryError(f"{shown}: reading it took more memory than there is") from error
        except (ImportError, Warning):
            raise
        except ValueError as error:
            raise ValueError(f"{shown}: {error}") from error
        except Exception as error:  # a reader trips only over a damaged file
            said = f"{type(error).__name__}: {error}"
            raise ValueError(f"{shown}: it is damaged; reading it ended with {said}") from error


def name_of(source: Source) -> str:
    """The name of a file for messages.

    Examples
    --------
    >>> name_of("model.pt"), name_of(b"PK"), name_of(io.BytesIO())
    ('model.pt', '<bytes>', '<BytesIO>')
    """
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"<{type(source).__name__}>"


def _in_memory(source: Any) -> BinaryIO:
    """A file of these bytes, or of what is left of a file object."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    data = source.read() if hasattr(source, "read") else None
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(
            f"a model file must be a path, bytes or a binary file, not {source!r}\n"
            'Open it in binary mode: open(path, "rb").'
        )
    return io.BytesIO(data)


def _contents(file: BinaryIO, path: Path | None, stack: ExitStack) -> Contents:
    size = opening.size(file) if path is not None else file.seek(0, os.SEEK_END)
    file.seek(0)
    if path is not None and size > ALWAYS and size > TIMES * (held := opening.stored(file)) + ALWAYS:
        raise ValueError(f"it is a sparse file: the disk holds {held} of its {size} bytes\nNo model is that empty.")
    start = file.read(64)
    file.seek(0)
    if not start:
        raise ValueError("it is empty")
    from numlstm.formats import safetensors

    if safetensors.looks_like(start):  # first: it begins with a length, which may equal any other format's signature
        return safetensors.read(file, size)
    if start.startswith(ZIP):
        return _of_zip(file, size)
    if start.startswith(HDF5):
        from numlstm.formats.keras import reader as keras

        return keras.read_h5(file)
    if PICKLE.match(start):
        from numlstm.formats.torch import legacy

        return legacy.read(file, size)
    if start.partition(b"\0")[0] in TORCH_TAR:
        raise ValueError(
            "it is a tar archive, the format of the first releases of PyTorch\n"
            "If you trust its source, load it with PyTorch and save its state dict again: torch.save."
        )
    from numlstm.formats import json_models, unread

    if json_models.looks_like(start):
        return json_models.read(file, size, path, stack, _shard)
    if said := unread.what_it_is(start, file, size):
        raise ValueError(f"it is {said}")
    file.seek(0)
    from numlstm.formats.onnx import reader as onnx

    if onnx.looks_like(start):
        return onnx.read(file, path, size)
    raise ValueError(
        f"it begins with {start[:8]!r}, which is no format that is known: .safetensors, .npz, PyTorch's .pt, .onnx, "
        "Keras' .keras and .h5, or JSON"
    )


def _shard(file: BinaryIO, size: int) -> Contents:
    """One of the files that an index refers to."""
    from numlstm.formats import safetensors

    start = file.read(9)
    file.seek(0)
    if safetensors.looks_like(start):
        return safetensors.read(file, size)
    if start.startswith(ZIP):
        return _of_zip(file, size)
    raise ValueError("the index refers to a file that is neither .safetensors nor PyTorch's")


def _of_zip(file: BinaryIO, size: int) -> Contents:
    """Several formats are zip archives; the names of the entries tell them apart."""
    from numlstm.formats import npz, zips
    from numlstm.formats.budget import Budget
    from numlstm.formats.keras import reader as keras
    from numlstm.formats.torch import archive as torch_zip
    from numlstm.formats.torch import exported

    archive, budget = zips.open_zip(file, size), Budget(size)
    names = archive.namelist()
    if npz.looks_like(names):
        return npz.read(archive, budget)
    if exported.looks_like(names):
        return exported.read(archive, budget)
    if torch_zip.looks_like(names):
        return torch_zip.read(archive, budget)
    if keras.looks_like(names):
        return keras.read_zip(archive, budget)
    for name in INNER:
        if name in names:  # what is in it is charged to the outer file
            budget.hold(archive.getinfo(name).file_size, f"its entry {name!r}")
            data = zips.entry_bytes(archive, name)
            inner = zips.open_zip(io.BytesIO(data), len(data))
            if torch_zip.looks_like(inner.namelist()):
                return torch_zip.read(inner, budget)
    shown = ", ".join(repr(name) for name in sorted(names)[:4]) + (", …" if len(names) > 4 else "")
    raise ValueError(f"it is a zip archive of {shown or 'nothing'}, which is no model that is known")


def written(path: Path, kind: Kind, config: Config, parameters: dict[str, Any]) -> None:
    """Write a model file in the format of the path's suffix, whole or not at all.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors``, ``.npz`` or ``.onnx``.
    kind : "LSTM" or "LSTMCell"
    config : Config
    parameters : dict of str to ndarray
        A state dict.

    Raises
    ------
    ValueError
        Another suffix.
    """
    suffix = suffix_written(path)
    from numlstm.base.atomic import replacing
    from numlstm.formats import numlstm_config

    if suffix == ".safetensors":
        from numlstm.formats import safetensors

        parameters = _in_fewer_bits(config.weights, parameters)
        data = safetensors.dump(parameters, numlstm_config.metadata(kind, config))
    elif suffix == ".npz":
        from numlstm.formats import npz

        data = npz.dump(parameters, numlstm_config.metadata(kind, config))
    else:
        from numlstm.formats.onnx import export as onnx_export

        data = onnx_export.dump(kind, config, parameters)
    with replacing(path) as file:
        file.write(data)


def _in_fewer_bits(weights: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Matrices as they are stored with these weights: bfloat16 as bits, int8 with a tensor of scales for each."""
    from numlstm.formats import safetensors

    stored = {}
    for name, value in parameters.items():
        if not weights or value.ndim == 1:
            stored[name] = value
        elif weights == "bfloat16":
            stored[name] = bfloat16.rounded(value)
        else:
            stored[name], scales = int8.rounded(value)
            stored[name + safetensors.SCALE] = scales[:, None]
    return stored


def suffix_written(path: Path) -> str:
    """The suffix of a path to be written, which selects the format; ValueError for any other suffix."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in WRITTEN:
        raise ValueError(
            f"{os.fspath(path)}: the suffix must be one of {', '.join(WRITTEN)}, not {suffix!r}\nIt selects the format."
        )
    return suffix
