"""Make examples/amplifier.json: the amplifier of audio_effect.py, in the form of GuitarML's trained ones.

python examples/make_amplifier.py

A trained model has the same form: a state dict as nested lists, with the LSTM in ``rec`` and the head in ``lin``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import audio_effect
import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).with_name("amplifier.json")


def main(path: Path = PATH) -> None:
    """Write the file, with numbers as short as float32 allows."""
    amplifier = audio_effect.built(audio_effect.RATE)
    lstm = amplifier.lstm
    state = {f"rec.{name}": array for name, array in lstm.state_dict().items()}
    state["lin.weight"] = amplifier.head_weight[None]
    state["lin.bias"] = np.array([amplifier.head_bias])
    about = {
        "model": "SimpleRNN",
        "unit_type": "LSTM",
        "input_size": lstm.input_size,
        "hidden_size": lstm.hidden_size,
        "num_layers": lstm.num_layers,
        "output_size": 1,
        "bias_fl": True,
        "skip": 0,
    }
    document = {"model_data": about, "state_dict": {name: _short(array) for name, array in state.items()}}
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n", "utf-8")


def _short(array: NDArray[Any]) -> list[Any]:
    """Nested lists of the numbers in float32, each with the fewest digits that give it back."""
    if array.ndim > 1:
        return [_short(row) for row in array]
    return [int(number) if number == int(number) else float(str(number)) for number in array.astype(np.float32)]


if __name__ == "__main__":
    main()
