"""Write text one character at a time: a small LSTM that has read Shakespeare's plays goes on from what you begin.

    python examples/text.py
    python examples/text.py --begin "JULIET:" --characters 300 --temperature 0.6 --seed 4

The model (128 units, 65 characters) was trained by training/train_text.py. Each character is one step of a stream: its
scores say which character may come next, one is drawn, and goes in as the next step.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

import numlstm

MODEL = Path(__file__).parent / "text.safetensors"
Array = NDArray[np.float32]


class Writer:
    """An LSTM over characters, and the layer that turns h into a score for each of them."""

    def __init__(self, path: Path = MODEL) -> None:
        self.lstm = numlstm.load(path)
        tensors = numlstm.load_tensors(path)
        self.weight, self.bias = tensors["head.weight"], tensors["head.bias"]
        with safe_open(path, "np") as file:
            self.characters: str = json.loads(file.metadata()["characters"])

    def one_hot(self, text: str) -> Array:
        """(steps, characters): a 1 for each character of a text."""
        unknown = sorted(set(text) - set(self.characters))
        if unknown:
            raise ValueError(f"the model knows {self.characters!r}, and none of {unknown}")
        numbers = [self.characters.index(char) for char in text]
        return np.eye(len(self.characters), dtype=np.float32)[numbers]

    def scores(self, h: Array) -> Array:
        """For each character, how well it follows."""
        return h @ self.weight.T + self.bias

    def bits(self, text: str) -> float:
        """Bits per character that the model needs for a text: the less, the better it knows its kind."""
        output, _ = self.lstm(self.one_hot(text[:-1]))
        scores = self.scores(output).astype(np.float64)
        logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return float(-(logs * self.one_hot(text[1:])).sum() / (len(text) - 1) / np.log(2))

    def write(self, begin: str, characters: int, temperature: float, seed: int) -> Iterator[str]:
        """Characters that follow, one after another. A temperature of 0 always takes the likeliest."""
        rng = np.random.default_rng(seed)
        stream = self.lstm.stream()
        h = stream(self.one_hot(begin))[-1]  # all of the beginning in one call
        for _ in range(characters):
            scores = self.scores(h)
            if temperature > 0:  # the largest of the scores with Gumbel noise is a draw by their probabilities
                scores = scores / temperature + rng.gumbel(size=scores.shape)
            char = self.characters[int(scores.argmax())]
            yield char
            h = stream(self.one_hot(char)[0])


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--begin", default="ROMEO:\n", help="what the text begins with")
    parser.add_argument("--characters", type=int, default=400, help="how many to write")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: always the likeliest; 1: as it was read")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if not given.begin:
        parser.error("--begin: there must be a character to go on from")
    writer = Writer()
    try:
        text = writer.write(given.begin, given.characters, given.temperature, given.seed)
        sys.stdout.write(given.begin)
        begun = time.perf_counter()
        for char in text:
            sys.stdout.write(char)
            sys.stdout.flush()
        taken = time.perf_counter() - begun
    except ValueError as error:
        parser.error(str(error))
    print(f"\n\n{given.characters} characters, {taken / max(1, given.characters) * 1e6:.0f} microseconds each")


if __name__ == "__main__":
    main()
