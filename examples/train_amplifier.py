"""Train the model of a guitar amplifier by truncated backpropagation through time, with numlstm alone.

pip install -e .
python examples/train_amplifier.py trained.safetensors
python examples/train_amplifier.py trained.safetensors --input guitar.wav --target amplified.wav --epochs 200
python examples/audio_effect.py sound.wav --model trained.safetensors

The model is that of audio_effect.py: an LSTM of 40 units, a Linear head, and the input added to its output. A recording
is cut into rows that train side by side. Each step of the optimiser reads 2048 samples of every row and goes on from
the states in which the step before it ended: gradients do not cross that border, but what the amplifier remembers does.
Without recordings it learns the textbook amplifier of audio_effect.py from a riff.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import audio_effect
import numpy as np
from numpy.typing import NDArray

import numlstm
from numlstm import nn, optim

Array = NDArray[Any]
UNITS, ROWS = 40, 8
BLOCK = 2048  # samples of a step: how far gradients go back


def rows_of(sound: Array, rows: int = ROWS) -> Array:
    """A mono sound (samples,) as (samples, rows, 1): rows that follow one another, whole blocks of each."""
    length = len(sound) // rows // BLOCK * BLOCK
    if length == 0:
        raise ValueError(f"the sound has {len(sound)} samples; {rows} rows of {BLOCK} are the least")
    return np.ascontiguousarray(sound[: length * rows].reshape(rows, length).T[:, :, None], np.float32)


def model(seed: int = 0) -> tuple[numlstm.LSTM, nn.Linear]:
    """An untrained LSTM and its head."""
    return numlstm.LSTM(1, UNITS, seed=seed), nn.Linear(UNITS, 1, seed=seed)


def losses(lstm: numlstm.LSTM, head: nn.Linear, x: Array, y: Array, optimiser: optim.Optimizer) -> Iterator[float]:
    """Train once over the rows, a step of the optimiser a block; yield the error of each.

    The error is that of the model before the step, as a part of the signal's energy (the error-to-signal ratio, ESR).
    """
    energy, state = float(np.square(y).mean()), None
    for start in range(0, len(x), BLOCK):
        given, wanted = x[start : start + BLOCK], y[start : start + BLOCK]
        (output, state), lstm_backward = lstm.vjp(given, state)
        correction, head_backward = head.vjp(output)
        loss, gradient = nn.mse_loss(given + correction, wanted)
        of_head = head_backward(gradient / energy)
        of_lstm = lstm_backward(of_head.input, input_grad=False)
        grads = [of_lstm.parameters, of_head.parameters]
        optim.clip_grad_norm_(grads, 1.0)
        optimiser.step(grads)
        yield loss / energy


def main(arguments: list[str] | None = None) -> None:
    """What the command does."""
    parser = argparse.ArgumentParser(description="Train the model of a guitar amplifier.")
    parser.add_argument("model", type=Path, help=".safetensors file to write")
    parser.add_argument("--input", type=Path, help="WAV file of a guitar; a riff is played if left out")
    parser.add_argument("--target", type=Path, help="WAV file of the same after the amplifier")
    parser.add_argument("--epochs", type=int, default=20, help="how often the recording is read (default: 20)")
    given = parser.parse_args(arguments)
    if (given.input is None) != (given.target is None):
        parser.error("--input and --target go together: what was played, and what the amplifier made of it")
    try:
        if given.input is None:
            dry = audio_effect.riff()[:, 0]
            wet = audio_effect.textbook(dry, audio_effect.RATE)
        else:
            (dry, rate), (wet, other) = (audio_effect.read_wav(path) for path in (given.input, given.target))
            if (rate, len(dry)) != (other, len(wet)):
                raise ValueError(f"{given.target}: {len(wet)} samples at {other} Hz; {len(dry)} at {rate} are expected")
            dry, wet = dry[:, 0], wet[:, 0]
        x, y = rows_of(dry), rows_of(wet)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    lstm, head = model()
    optimiser = optim.Adam([lstm, head], lr=5e-3)
    begin = perf_counter()
    for epoch in range(given.epochs):
        errors = list(losses(lstm, head, x, y, optimiser))
        print(f"epoch {epoch + 1:4}  error {np.mean(errors):.4f} of the signal", flush=True)
        optimiser.param_groups[0]["lr"] *= 0.97
    seconds, steps = perf_counter() - begin, given.epochs * len(x) // BLOCK
    nn.Sequential({"lstm": lstm, "head": head}, skip=1.0).save(given.model)
    print(f"{steps} steps of {BLOCK} samples and {ROWS} rows in {seconds:.1f} s; written to {given.model}")


if __name__ == "__main__":
    main()
