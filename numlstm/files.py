"""Models in files, whatever framework wrote them: ``load``, ``load_cell``, ``list_lstms`` and ``load_tensors``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from numlstm import formats, lazy
from numlstm.base.typing import Array
from numlstm.base.validation.arguments import FLOAT32, FLOAT64, check_flag, weights_kind
from numlstm.formats import Found, Tensor
from numlstm.formats.detected import UNSTATED
from numlstm.lstm import LSTM


def load(
    path: formats.Source, name: str | None = None, *, batch_first: bool | None = None, weights: str | None = None
) -> LSTM | Any:
    """Return the LSTM in a model file, in eval mode.

    A PyTorch state dict does not record ``batch_first``. Pass ``batch_first=True`` if the model was made with it: the
    default is False, and a batch in the other layout gives wrong results without an error. `list_lstms` and
    ``numlstm inspect`` report files that do not record it.

    Parameters
    ----------
    path : path, bytes or binary file
        A file of PyTorch (``.pt``, ``.pth``, ``.ckpt``, ``.bin``: state dicts, checkpoints, pickled modules,
        TorchScript; ``.pt2``), of Keras (``.keras``, ``.h5``), ``.safetensors``, ``.npz``, ``.onnx`` (extra ``onnx``),
        pickles of arrays by name, or JSON of guitar amplifiers (``.json``, ``.nam``). A file object is read from its
        position. The format is detected from the content, not the name. Nothing in the file is executed.
    name : str, optional
        The LSTM to load if the file holds several: a name from `list_lstms`, or its last parts if they are unique, as
        ``"rnn"`` for ``encoder.rnn``.
    batch_first : bool, optional
        Whether input and output are (batch, steps, features), for a file that does not record it. It cannot override
        the file; to use another layout, assign ``lstm.batch_first``.
    weights : {"bfloat16", "int8", "float32"}, optional
        Keep the weights of an LSTM in fewer bits, as `LSTM.quantize_weights` does; by default as the file does.

    Returns
    -------
    LSTM or LSTMCell
        A cell if the file holds the parameters of a ``torch.nn.LSTMCell``; `load_cell` is typed for it. float64 if a
        parameter is, else float32, which holds float16 and bfloat16 exactly.

    Raises
    ------
    OSError
        The file cannot be opened.
    ValueError
        The file is damaged or of unknown format; it holds no LSTM, none of that name, or several and no name was
        given; the LSTM is not supported; `batch_first` contradicts the file or is given for a cell; or `weights` is
        no kind of weights, or not one for this file.
    TypeError
        `batch_first` is not a bool, `name` not a str, or the file none of these.
    ImportError
        The extra for its format is not installed.

    Warns
    -----
    UserWarning
        A parameter holds NaN or infinity; or the model does something around the LSTM that the caller must do
        instead, such as reversing time.

    Examples
    --------
    >>> import tempfile, os
    >>> from numlstm import LSTM
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> LSTM(6, 4, num_layers=2, batch_first=True).save(path)
    >>> load(path)
    LSTM(6, 4, num_layers=2, batch_first=True)
    """
    # Typed as "LSTM | Any": type checkers treat it as an LSTM without a cast, and still find misspelt attributes.
    loaded = read(path, name, batch_first, weights)
    if batch_first is not None:
        check_has_batch_first(path, loaded.found)
    return loaded.module


def load_cell(path: formats.Source, name: str | None = None) -> lazy.LSTMCell:
    """Return the LSTMCell in a model file, in eval mode.

    Parameters
    ----------
    path, name
        As for `load`, which returns the same cell.

    Returns
    -------
    LSTMCell

    Raises
    ------
    OSError, ValueError, ImportError
        As `load` raises them; ValueError also if it is an LSTM.

    Warns
    -----
    UserWarning
        As for `load`.

    Examples
    --------
    >>> import tempfile, os
    >>> from numlstm import LSTMCell
    >>> path = os.path.join(tempfile.mkdtemp(), "cell.npz")
    >>> LSTMCell(6, 4).save(path)
    >>> load_cell(path)
    LSTMCell(6, 4)
    """
    module, found, _ = read(path, name)
    if isinstance(module, LSTM):
        raise ValueError(
            f"{formats.name_of(path)}: {found.name or 'its content'} is an LSTM, not an LSTMCell\n"
            "numlstm.load returns it."
        )
    return module


class Loaded(NamedTuple):
    """A module, its entry in the file, and the contents of the file, which is closed."""

    module: LSTM | lazy.LSTMCell
    found: Found
    contents: formats.Contents


def read(path: formats.Source, name: str | None, batch_first: bool | None = None, weights: str | None = None) -> Loaded:
    """Load for a function that the user has called: warns at its caller. A cell may be given `batch_first`."""
    if name is not None and not isinstance(name, str):
        hint = f"Did you mean batch_first={name}?" if isinstance(name, bool) else "numlstm.list_lstms lists the names."
        raise TypeError(f"name must be None or a str, not {name!r}\n{hint}")
    if batch_first is not None:
        check_flag("batch_first", batch_first)
    with formats.opened(path) as contents:
        found = pick(contents, name)
        if batch_first is not None:
            found = ordered(found, batch_first)
        module, suspects = built(found, weights)
    if found.warning:
        warnings.warn(f"{formats.name_of(path)}: {found.warning}", stacklevel=3)
    if suspects:
        warnings.warn(
            f"{formats.name_of(path)}: NaN or infinity in {', '.join(suspects)}; results will hold it too", stacklevel=3
        )
    return Loaded(module, found, contents)


def check_has_batch_first(path: formats.Source, found: Found) -> None:
    """Raise ValueError for a cell."""
    if found.kind == "LSTMCell":
        raise ValueError(
            f"{formats.name_of(path)}: {found.name or 'its content'} is an LSTMCell, which takes one step and has no "
            "batch_first"
        )


def ordered(found: Found, batch_first: bool) -> Found:
    """The entry with the caller's `batch_first`; ValueError if the file records the opposite."""
    if found.config is None or found.kind == "LSTMCell":
        return found
    if found.batch_first is (not batch_first):
        raise ValueError(
            f"the file states batch_first={found.batch_first}{f' for {found.name}' if found.name else ''}, but "
            f"batch_first={batch_first} was asked for\n"
            "Leave it out, and lay the input out as the file says."
        )
    notes = tuple(note for note in found.notes if note != UNSTATED)
    return found._replace(config=found.config._replace(batch_first=batch_first), notes=notes)


def built(found: Found, weights: str | None = None) -> tuple[LSTM | lazy.LSTMCell, list[str]]:
    """The module of an entry, in eval mode, and the names of parameters that hold NaN or infinity. Reads the file."""
    dtype = FLOAT64 if any(tensor.dtype == "float64" for tensor in found.parameters.values()) else FLOAT32
    assert found.config is not None, "pick() has raised its problem"
    suspects: list[str] = []
    config = found.config
    if weights is not None:
        if found.kind == "LSTMCell":
            raise ValueError(
                f"{found.name or 'its content'} is an LSTMCell, whose weights are those of its dtype alone"
            )
        config = config._replace(weights=weights_kind(weights, dtype))
    kind: type[LSTM | lazy.LSTMCell] = lazy.LSTMCell if found.kind == "LSTMCell" else LSTM
    return kind._from_parameters(config, dtype, Read(found.parameters, suspects)), suspects


def as_lstm(module: LSTM | lazy.LSTMCell) -> LSTM:
    """The module, or for a cell the LSTM of one layer with the same bits."""
    if isinstance(module, LSTM):
        return module
    parameters = {f"{name}_l0": array for name, array in module._parameters().items()}
    return LSTM._from_parameters(module._config, module.dtype, parameters)


class Read(Mapping[str, Array]):
    """Parameters that are read from the file on access, so that only one is in memory at a time."""

    def __init__(self, tensors: Mapping[str, Tensor], suspects: list[str]) -> None:
        self.tensors, self.suspects = tensors, suspects

    def __getitem__(self, name: str) -> Array:
        array = self.tensors[name].read()
        # min and max are NaN or infinite if any number is; isfinite(array) would allocate an array of flags
        if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
            self.suspects.append(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def pick(contents: formats.Contents, name: str | None) -> Found:
    """The entry to load; ValueError lists the alternatives, or says why it cannot be loaded."""
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
    matches = [found for found in lstms if name is None or found.name == name]
    if not matches and name:
        matches = [found for found in lstms if found.name.endswith(tuple(f"{mark}{name}" for mark in "./"))]
        if len(matches) > 1:
            raise ValueError(f"it holds {len(matches)} LSTMs whose names end in {name!r}; it has:\n{listed}")
    if not matches:
        raise ValueError(f"it holds no LSTM named {name!r}; it has:\n{listed}")
    found = matches[0]
    if found.problem:
        raise ValueError(f"{found.name or 'its LSTM'} cannot be loaded: {found.problem}")
    return found


def list_lstms(path: formats.Source) -> list[Found]:
    """List the LSTMs in a model file, without reading their numbers.

    Parameters
    ----------
    path : path
        As for `load`.

    Returns
    -------
    list of Found
        In the order of the file, each with ``name``, ``kind``, ``config`` (sizes and flags), ``dtype``, ``where`` in
        the file, ``batch_first`` (None if not recorded), ``notes``, ``problem`` (why it cannot be loaded, if so) and
        ``warning`` (the text that `load` warns with). Empty if there is none.

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
    >>> (found,) = list_lstms(path)
    >>> print(found)
    (no name): LSTM(6, 4, bidirectional=True), float64
    >>> found.config.hidden_size, found.dtype
    (4, 'float64')
    """
    with formats.opened(path) as contents:
        return list(contents.lstms)


def load_tensors(path: formats.Source) -> dict[str, Array]:
    """Return every tensor in a model file by name, such as the embedding before the LSTM and the linear head after it.

    Parameters
    ----------
    path : path
        As for `load`.

    Returns
    -------
    dict of str to ndarray
        In the file's dtypes, gate orders and layouts; bfloat16 as float32.

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
    >>> {name: array.shape for name, array in load_tensors(path).items()}
    {'weight_ih_l0': (16, 6), 'weight_hh_l0': (16, 4), 'bias_ih_l0': (16,), 'bias_hh_l0': (16,)}
    """
    with formats.opened(path) as contents:
        return {name: tensor.read() for name, tensor in contents.tensors.items()}
