"""``load_model``: a builder for each format that describes a whole model."""

from __future__ import annotations

from importlib import import_module

from numlstm import formats
from numlstm.models.protocol import Model
from numlstm.nn.summary import Summary

# The module here whose ``build(contents)`` makes the model, by `Contents.format`. Imported when a file asks for it.
BUILDERS = {
    "GuitarML's JSON": "json",
    "Keras or HDF5": "keras.model",
    "Neural Amp Modeler": "json",
    "ONNX": "onnx.model",
    "RTNeural's JSON": "json",
    "safetensors": "saved",
}
SEQUENTIAL = [name for name, module in BUILDERS.items() if module in ("json", "saved")]  # that give a `Sequential`


def load_model(path: formats.Source) -> Model:
    """Return the model in a file: the LSTMs with the layers around them, in eval mode.

    Parameters
    ----------
    path : path, bytes or binary file
        A file that describes a whole model: ``.safetensors`` of `numlstm.nn.Sequential.save`, ``.keras`` and ``.h5``
        of Keras, ``.onnx`` (extra ``onnx``), or JSON of guitar amplifiers (``.json``, ``.nam``). The format is detected
        from the content. Nothing in the file is executed.

    Returns
    -------
    Model
        ``model(*inputs)`` gives what the framework's own model gives. ``model.stream()`` runs it step by step, where no
        layer needs later steps; ``model.sequential()`` is the `Sequential` that it is, if it is a chain of layers.
        ``model.layers``, ``model.lstms`` and ``model.summary()`` show what it consists of.

    Raises
    ------
    OSError
        The file cannot be opened.
    ValueError
        The file is damaged or of unknown format; it holds weights alone; or the model has a layer that cannot be run.
        The message names the layer.
    TypeError
        `path` is none of these.
    ImportError
        The extra for the format is not installed.

    Examples
    --------
    >>> import tempfile, os
    >>> from numlstm import LSTM, nn
    >>> path = os.path.join(tempfile.mkdtemp(), "tagger.safetensors")
    >>> nn.Sequential(nn.Embedding(100, 8), LSTM(8, 16), nn.Linear(16, 5), nn.softmax).save(path)
    >>> load_model(path)([[4], [17], [99]]).shape
    (3, 1, 5)
    """
    with formats.opened(path) as contents:
        return build(contents)


HINT = "\n--hidden runs its LSTM alone, whose states may be loaded without the rest."


def whole_model(path: formats.Source) -> Model | None:
    """The model of a file, or None for weights alone and for an LSTM that numlstm wrote as ONNX.

    Raises
    ------
    ValueError
        The model has a layer that cannot be run.
    """
    with formats.opened(path) as contents:
        is_alone = contents.format == "ONNX" and [found.name for found in contents.lstms] == [""]
        if contents.model is None or is_alone:
            return None
        try:
            return build(contents)
        except ValueError as error:
            raise ValueError(f"{error}{HINT}") from error


def summary(contents: formats.Contents) -> Summary:
    """The layers of the model that an open file describes, without a run of a graph."""
    if contents.format == "ONNX":
        from numlstm.models.onnx.listing import summary_of

        return summary_of(contents.model[0])
    return build(contents).summary()


def build(contents: formats.Contents) -> Model:
    """The model that an open file describes."""
    if contents.model is None or contents.format not in BUILDERS:
        raise ValueError(
            f"this {contents.format} file holds weights, and does not say what its model computes\n"
            "Build the model with numlstm.nn.Sequential, and give it the weights: "
            "model.load_state_dict(numlstm.load_tensors(path))."
        )
    module = import_module(f"numlstm.models.{BUILDERS[contents.format]}")
    model: Model = module.build(contents)
    return model
