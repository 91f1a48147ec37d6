"""Model files as data: a reader for each format, chosen by the file's content, not by its name.

A reader takes an open file and returns `Contents`: every tensor with its shape, still unread, and the LSTMs among them.
It raises ValueError, without the path, for what it does not understand; `opened` adds the path. No reader executes
anything in a file, or allocates memory on the word of a header alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from numlstm.base import opening
from numlstm.base.atomic import replacing
from numlstm.base.config import Config
from numlstm.formats.budget import ALWAYS, TIMES
from numlstm.formats.detected import Contents, Found, Kind
from numlstm.formats.tensor import Tensor

__all__ = ["WRITTEN", "Contents", "Found", "Tensor", "opened", "written"]

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK"
PICKLE = b"\x80"
TORCH_TAR = (b"sys_info", b"pickle", b"storages", b"tensors")  # names that such an archive begins with
WRITTEN = (".safetensors", ".npz", ".onnx")


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Contents]:
    """Open a model file; its tensors can be read inside the context.

    Parameters
    ----------
    path : path
        A file of any of the formats, with any name.

    Raises
    ------
    OSError
        It cannot be opened, or is no regular file.
    ValueError
        It is damaged, or of an unknown format; the message begins with the path.
    ImportError
        The format needs a package that is not installed; the message says which.
    """
    shown = os.fspath(path)
    with opening.regular(path, "a model file") as file:
        try:
            yield _contents(file, path)
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


def _contents(file: BinaryIO, path: str | os.PathLike[str]) -> Contents:
    size = opening.size(file)
    if size > ALWAYS and size > TIMES * (held := opening.stored(file)) + ALWAYS:
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
    if start.startswith(PICKLE):
        from numlstm.formats.torch import legacy as torch_legacy

        return torch_legacy.read(file, size)
    if start.partition(b"\0")[0] in TORCH_TAR:
        raise ValueError(
            "it is a tar archive, the format of the first releases of PyTorch\n"
            "If you trust its source, load it with PyTorch and save its state dict again: torch.save."
        )
    from numlstm.formats.onnx import reader as onnx

    if onnx.looks_like(start):
        return onnx.read(file, path, size)
    raise ValueError(
        f"it begins with {start[:8]!r}, which is no format that is known: .safetensors, .npz, PyTorch's .pt, .onnx, "
        "Keras' .keras and .h5"
    )


def _of_zip(file: BinaryIO, size: int) -> Contents:
    """Three formats are zip archives; the names of the entries tell them apart."""
    from numlstm.formats import npz, zips
    from numlstm.formats.budget import Budget

    archive = zips.open_zip(file, size)
    names = archive.namelist()
    if npz.looks_like(names):
        return npz.read(archive, Budget(size))
    from numlstm.formats.torch import archive as torch_zip

    if torch_zip.looks_like(names):
        return torch_zip.read(archive, Budget(size))
    from numlstm.formats.keras import reader as keras

    if keras.looks_like(names):
        return keras.read_zip(archive, Budget(size))
    shown = ", ".join(repr(name) for name in sorted(names)[:4]) + (", …" if len(names) > 4 else "")
    raise ValueError(f"it is a zip archive of {shown or 'nothing'}, which is no model that is known")


def written(path: str | os.PathLike[str], kind: Kind, config: Config, parameters: dict[str, Any]) -> None:
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
    from numlstm.formats import numlstm_config

    metadata = numlstm_config.metadata(kind, config)
    if suffix == ".safetensors":
        from numlstm.formats import safetensors

        data = safetensors.dump(parameters, metadata)
    elif suffix == ".npz":
        from numlstm.formats import npz

        data = npz.dump(parameters, metadata)
    else:
        from numlstm.formats.onnx import export as onnx_export

        data = onnx_export.dump(kind, config, parameters, metadata)
    with replacing(path) as file:
        file.write(data)


def suffix_written(path: str | os.PathLike[str]) -> str:
    """The suffix of a path to be written, which selects the format; ValueError for any other suffix."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in WRITTEN:
        raise ValueError(
            f"{os.fspath(path)}: the suffix must be one of {', '.join(WRITTEN)}, not {suffix!r}\nIt selects the format."
        )
    return suffix
