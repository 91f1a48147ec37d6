"""Sizes and flags in the metadata of files that numlstm writes, so that reading them back guesses nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping

from numlstm.base.cell_options import PLAIN, CellOptions
from numlstm.base.config import DIRECTIONS, QUANTIZED, Config
from numlstm.formats.detected import UNSTATED, Contents, Found, Kind
from numlstm.formats.tensor import Tensor
from numlstm.formats.text import unique

KEY = "numlstm.config"
MODEL = "numlstm.model"  # the layers of a whole model: `numlstm.nn.saved`
LETTERS = 4096  # far more than it has; parsed JSON may take many times its text
FLAGS = ("batch_first", "dropout", "direction", "cell_options", "weights")  # what tensors do not say


def metadata(kind: Kind, config: Config, *, options: bool = True) -> dict[str, str]:
    """The metadata of a file with this LSTM, with or without the options of its cell.

    Examples
    --------
    >>> metadata("LSTMCell", Config(2, 3))["numlstm.config"]
    '{"kind": "LSTMCell", "input_size": 2, "hidden_size": 3, "bias": true}'
    """
    known = config._asdict()
    del known["cell_options"]
    if config.direction == "forward":  # as earlier releases write and read it
        del known["direction"]
    if not config.weights:
        del known["weights"]
    if kind == "LSTMCell":
        known = {name: known[name] for name in ("input_size", "hidden_size", "bias")}
    if options and not config.cell_options.plain:
        own, usual = config.cell_options._asdict(), PLAIN._asdict()
        known["cell_options"] = {name: value for name, value in own.items() if value != usual[name]}
    return {"format": "np", KEY: json.dumps({"kind": kind, **known})}


def contents(
    format: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    lstms: tuple[Found, ...],
    others: tuple[str, ...],
) -> Contents:
    """The contents of a file, with the flags of its metadata if numlstm saved it."""
    if KEY in metadata and len(lstms) == 1 and not lstms[0].problem:
        lstms = (_stated(lstms[0], metadata[KEY]),)
    return Contents(format, tensors, lstms, others, metadata.get(MODEL))


def _stated(found: Found, text: str) -> Found:
    """The LSTM with the flags of the metadata, whose sizes must be those of the tensors."""
    try:
        known = json.loads(text, object_pairs_hook=unique) if len(text) <= LETTERS else {}
        kind = known.pop("kind")
        if "cell_options" in known:
            known["cell_options"] = CellOptions(**known["cell_options"])
        flags = {name: known[name] for name in FLAGS if name in known}
        batch_first, dropout = flags.get("batch_first", False), flags.get("dropout", 0.0)
        direction = flags.get("direction", "forward")
        sound = type(batch_first) is bool and type(dropout) in (int, float) and 0 <= dropout <= 1
        sound &= direction in DIRECTIONS and (direction == "forward" or not known.get("bidirectional"))
        sound &= flags.get("weights", "") in ("", *QUANTIZED)
        if found.config is not None and "cell_options" in flags:  # whose peepholes are tensors
            sound &= flags["cell_options"].peepholes == found.config.cell_options.peepholes
        config = found.config and found.config._replace(**flags)
        agrees = sound and kind == found.kind and known.items() <= (config or Config(0, 0))._asdict().items()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        agrees = False
    if not agrees:
        return found._replace(
            config=None,
            problem=f"its metadata {KEY} is {text[:200]!r}, which does not fit its tensors: {found.sizes()}",
        )
    return found._replace(config=config, notes=tuple(note for note in found.notes if note != UNSTATED))
