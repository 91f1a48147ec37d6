"""What a format's reader returns: the tensors of a file and the LSTMs among them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from numlstm.base.config import Config
from numlstm.formats.tensor import Tensor

Kind = Literal["LSTM", "LSTMCell"]
# notes
UNSTATED = "the file does not say whether the batch comes first; batch_first=False is assumed unless you pass it"
QUANTISED = (
    "its weights are quantised and become float32 again: results differ by some 1e-2 from those of an engine that "
    "computes with integers"
)
SEVERAL_DTYPES = "its parameters have several dtypes; all are converted to the widest"


class Found(NamedTuple):
    """An LSTM in a file.

    Attributes
    ----------
    name : str
        Its name for `numlstm.load`: the prefix of its parameters or the name of its layer; "" if it has none.
    kind : "LSTM" or "LSTMCell"
        What `numlstm.load` returns for it.
    config : Config or None
        Sizes and flags; None if the tensors fit no LSTM.
    dtype : str
        Number type in the file: float16, bfloat16, float32 or float64; the widest of its parameters.
    where : str
        Its place in the file, in words.
    notes : tuple of str
        What else the file says about it, a sentence each.
    problem : str
        Why it cannot be loaded, a sentence; "" if it can be.
    warning : str
        What the caller must do to reproduce the file's model, a sentence; `numlstm.load` warns with it. "" if nothing.
    parameters : mapping of str to Tensor
        By the names of the state dict; empty if there is a problem.
    batch_first : bool or None
        Whether the batch comes first in its input; None if the file does not say, and for an LSTMCell.
    """

    name: str
    kind: Kind
    config: Config | None
    dtype: str
    where: str
    notes: tuple[str, ...] = ()
    problem: str = ""
    warning: str = ""
    parameters: Mapping[str, Tensor] = MappingProxyType({})

    @property
    def batch_first(self) -> bool | None:
        if self.config is None or self.kind == "LSTMCell" or UNSTATED in self.notes:
            return None
        return self.config.batch_first

    def __reduce__(self) -> tuple[Any, ...]:
        return Found, (*self[:-1], dict(self.parameters))  # a mappingproxy cannot be pickled

    def __repr__(self) -> str:
        told = zip(self._fields[:-1], self, strict=False)  # without the parameters, which are many
        return f"Found({', '.join(f'{name}={value!r}' for name, value in told)})"

    def __str__(self) -> str:
        return f"{self.name or '(no name)'}: {self.sizes()}"

    def sizes(self) -> str:
        """The call that constructs it, and its dtype; or its problem."""
        config = self.config
        if config is None:
            return self.problem
        text = f"{self.kind}({config.input_size}, {config.hidden_size}"
        if config.num_layers > 1:
            text += f", num_layers={config.num_layers}"
        usual = (("bias", True), ("batch_first", False), ("dropout", 0.0), ("bidirectional", False))
        for flag, default in usual:
            if getattr(config, flag) != default:
                text += f", {flag}={getattr(config, flag)}"
        if config.proj_size:
            text += f", proj_size={config.proj_size}"
        if config.direction != "forward":
            text += f", direction={config.direction!r}"
        if not config.cell_options.plain:
            text += f", cell_options={config.cell_options!r}"
        return f"{text}), {self.dtype}"


class Contents(NamedTuple):
    """Everything that a reader found in a file.

    Attributes
    ----------
    format : str
        The format, in words.
    tensors : mapping of str to Tensor
        Every tensor by its name in the file.
    lstms : tuple of Found
        In the order of the file.
    others : tuple of str
        What resembles an LSTM but is none, a sentence each; shown if there is no LSTM.
    model : object
        What the file says about the whole model, as its format has it; None if it holds weights alone. Which module of
        `numlstm.models` reads it is in `numlstm.models.loading`.
    """

    format: str
    tensors: Mapping[str, Tensor]
    lstms: tuple[Found, ...]
    others: tuple[str, ...] = ()
    model: Any = None


def with_quantised_named(contents: Contents) -> Contents:
    """The contents, with a warning for each LSTM whose weights are integers in the file."""
    lstms = []
    for found in contents.lstms:
        is_own = found.config is not None and found.config.weights
        if not is_own and any(tensor.is_quantised for tensor in found.parameters.values()):
            warning = "; ".join(filter(None, (found.warning, QUANTISED)))
            found = found._replace(notes=(*found.notes, QUANTISED), warning=warning)
        lstms.append(found)
    return contents._replace(lstms=tuple(lstms))
