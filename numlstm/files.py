"""Models in files: ``load``, ``find`` and ``tensors``, whatever framework wrote them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from numlstm import formats
from numlstm.checks import FLOAT32, FLOAT64
from numlstm.formats import Found, Tensor
from numlstm.lstm import LSTM

if TYPE_CHECKING:
    from numlstm.cell import LSTMCell

Array = np.ndarray[Any, np.dtype[Any]]
Path = str | os.PathLike[str]


def load(path: Path, name: str | None = None) -> LSTM | LSTMCell:
    """Return the LSTM that a model file holds, in eval mode.

    Parameters
    ----------
    path : path
        A file of PyTorch (``.pt``, ``.pth``, ``.ckpt``, ``.bin``: state dicts, checkpoints, pickled modules,
        TorchScript), of Keras (``.keras``, ``.h5``), ``.safetensors``, ``.npz`` or ``.onnx`` (extra ``onnx``). What it
        holds decides, not its name; nothing in it is run.
    name : str, optional
        Which one, where there are several: a name that `find` gives.

    Returns
    -------
    LSTM or LSTMCell
        A cell where the file holds the parameters of a ``torch.nn.LSTMCell``. In float64 if one of its parameters is,
        else in float32, which holds float16 and bfloat16 exactly. A state dict does not say whether the batch came
        first: ``lstm.batch_first = True`` says so.

    Raises
    ------
    OSError
        The file cannot be opened.
    ValueError
        It is damaged or of no format that is known; it holds no LSTM, none of that name, or several and no name
        was given; or the LSTM computes something that is not supported. The message says which.
    ImportError
        The extra for its format is not installed.

    Warns
    -----
    UserWarning
        A parameter holds NaN or infinity; or the model in the file does something around the LSTM that the caller
        must do for it, such as reversing time.

    Examples
    --------
    >>> import tempfile, os
    >>> from numlstm import LSTM
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> LSTM(6, 4, num_layers=2, batch_first=True).save(path)
    >>> load(path)
    LSTM(6, 4, num_layers=2, batch_first=True)
    """
    with formats.opened(path) as contents:
        found = pick(contents, name)
        module, suspects = built(found)
    if found.warning:
        warnings.warn(f"{os.fspath(path)}: {found.warning}", stacklevel=2)
    if suspects:
        warnings.warn(
            f"{os.fspath(path)}: NaN or infinity in {', '.join(suspects)}; results will hold it too", stacklevel=2
        )
    return module


def built(found: Found) -> tuple[LSTM | LSTMCell, list[str]]:
    """What was found, loaded in eval mode while its file is open; and which parameters hold NaN or infinity."""
    dtype = FLOAT64 if any(tensor.dtype == "float64" for tensor in found.parameters.values()) else FLOAT32
    assert found.config is not None, "a problem was raised"
    suspects: list[str] = []
    kind: type[LSTM | LSTMCell] = LSTM
    if found.kind == "LSTMCell":
        from numlstm.cell import LSTMCell

        kind = LSTMCell
    return kind._from_parameters(found.config, dtype, Read(found.parameters, suspects)), suspects


def as_lstm(module: LSTM | LSTMCell) -> LSTM:
    """The module itself, or the LSTM of one layer that a cell is, to the bit."""
    if isinstance(module, LSTM):
        return module
    parameters = {f"{name}_l0": array for name, array in module.named_parameters()}
    return LSTM._from_parameters(module._config, module.dtype, parameters)


class Read(Mapping[str, Array]):
    """Parameters read from the file when they are asked for, so that one of them is in memory at a time."""

    def __init__(self, tensors: Mapping[str, Tensor], suspects: list[str]) -> None:
        self.tensors, self.suspects = tensors, suspects

    def __getitem__(self, name: str) -> Array:
        array = self.tensors[name].read()
        # the extremes are NaN or infinite where any number is, without an array of flags as large as the parameter
        if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            self.suspects.append(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def pick(contents: formats.Contents, name: str | None) -> Found:
    """The one that is meant; ValueError says what there is instead, or why it cannot be loaded."""
    lstms = contents.lstms
    if not lstms:
        said = f"this {contents.format} file holds no LSTM"
        if contents.others:
            said += ": " + "; ".join(contents.others[:4])
        elif contents.tensors:
            names = list(contents.tensors)
            said += f"; its tensors are {', '.join(names[:6])}" + (", …" if len(names) > 6 else "")
        raise ValueError(said)
    listed = "\n".join(f"  {found}" for found in lstms)
    if name is None and len(lstms) > 1:
        raise ValueError(f"it holds {len(lstms)} LSTMs; pass the name of one of them:\n{listed}")
    for found in lstms:
        if name is None or found.name == name:
            if found.problem:
                raise ValueError(f"{found.name or 'its LSTM'} cannot be loaded: {found.problem}")
            return found
    raise ValueError(f"it holds no LSTM named {name!r}; it has:\n{listed}")


def find(path: Path) -> list[Found]:
    """Return what LSTMs a model file holds, without reading their numbers.

    Parameters
    ----------
    path : path
        As for `load`.

    Returns
    -------
    list of Found
        In the order of the file, each with ``name``, ``kind``, ``config`` (sizes and flags), ``dtype``, ``where`` in
        the file, ``notes``, ``problem``, which says why it cannot be loaded where it cannot, and ``warning``, which
        `load` warns with. Empty where there is none.

    Raises
    ------
    OSError, ValueError, ImportError
        As `load` raises them for the file itself.

    Examples
    --------
    >>> import tempfile, os
    >>> from numlstm import LSTM
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> LSTM(6, 4, bidirectional=True, dtype="float64").save(path)
    >>> (found,) = find(path)
    >>> print(found)
    (no name): LSTM(6, 4, bidirectional=True), float64
    >>> found.config.hidden_size, found.dtype
    (4, 'float64')
    """
    with formats.opened(path) as contents:
        return list(contents.lstms)


def tensors(path: Path) -> dict[str, Array]:
    """Return every tensor in a model file by its name: the embedding before the LSTM, the linear head behind it.

    Parameters
    ----------
    path : path
        As for `load`.

    Returns
    -------
    dict of str to ndarray
        In the dtypes of the file; bfloat16 as float32. Gate orders and layouts are the file's own.

    Raises
    ------
    OSError, ValueError, ImportError
        As `load` raises them for the file itself.

    Examples
    --------
    >>> import tempfile, os
    >>> from numlstm import LSTM
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> LSTM(6, 4).save(path)
    >>> {name: array.shape for name, array in tensors(path).items()}
    {'weight_ih_l0': (16, 6), 'weight_hh_l0': (16, 4), 'bias_ih_l0': (16,), 'bias_hh_l0': (16,)}
    """
    with formats.opened(path) as contents:
        return {name: tensor.read() for name, tensor in contents.tensors.items()}
