"""Train the model of ``examples/text.py`` with PyTorch 2.13.0, on the CPU, in some minutes.

    pip install torch==2.13.0
    python training/train_text.py input.txt

``input.txt`` is a megabyte of Shakespeare's plays (in the public domain), as the repository karpathy/char-rnn has it in
``data/tinyshakespeare``. The first nine tenths are trained on; the last one is read once, when the finished model is
judged by its bits per character.

What is written: examples/text.safetensors (the weights, and the characters as metadata) and training/text_torch.npz
(PyTorch's scores after every character of a line, to compare numlstm's with).
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
WEIGHTS, SCORES = ROOT / "examples" / "text.safetensors", ROOT / "training" / "text_torch.npz"
UNITS, BATCH, STEPS, EPOCHS = 128, 64, 128, 20
LINE = "ROMEO:\nWhat light is this, that breaks upon the east?\n"


class Model(nn.Module):
    """An LSTM over characters, one-hot, and the scores of the next one."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(characters, UNITS)
        self.head = nn.Linear(UNITS, characters)

    def forward(self, text: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Scores (steps, batch, characters) after each character of (steps, batch), and the state."""
        output, state = self.lstm(nn.functional.one_hot(text, self.lstm.input_size).float(), state)
        return self.head(output), state


def bits(model: Model, text: Tensor) -> float:
    """Bits per character of a text that is read once from its beginning."""
    total, state = 0.0, None
    with torch.no_grad():
        for begin in range(0, len(text) - 1, 4096):
            part = text[begin : begin + 4097]
            scores, state = model(part[:-1, None], state)
            total += nn.functional.cross_entropy(scores[:, 0], part[1:], reduction="sum").item()
    return total / (len(text) - 1) / math.log(2)


def train(model: Model, text: Tensor) -> None:
    """Every epoch reads the text in BATCH columns from a random beginning; the state goes on from piece to piece."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    columns = len(text) // BATCH
    pieces = (columns - STEPS) // STEPS
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=EPOCHS * pieces)
    for epoch in range(EPOCHS):
        shift = int(torch.randint(STEPS, ()))
        table = text[: BATCH * columns].view(BATCH, columns).T[shift:]
        state, losses = None, []
        for n in range(pieces):
            piece = table[n * STEPS : (n + 1) * STEPS + 1]
            if len(piece) < STEPS + 1:
                schedule.step()
                continue
            scores, state = model(piece[:-1], state)
            state = (state[0].detach(), state[1].detach())
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), piece[1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: {np.mean(losses) / math.log(2):.3f} bits a character", flush=True)


def main() -> None:
    """Train, judge, write."""
    torch.manual_seed(0)
    text = Path(sys.argv[1]).read_text("utf-8")
    characters = "".join(sorted(set(text)))
    numbers = torch.tensor([characters.index(char) for char in text])
    split = len(numbers) * 9 // 10
    model = Model(len(characters))
    train(model, numbers[:split])
    model.eval()
    judged = bits(model, numbers[split:])
    print(f"unseen: {judged:.3f} bits a character")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    facts = {"characters": json.dumps(characters), "unseen_bits": f"{judged:.3f}", "torch": torch.__version__}
    save_file(tensors, WEIGHTS, metadata=facts)
    with torch.no_grad():
        scores, _ = model(torch.tensor([characters.index(char) for char in LINE])[:, None])
    np.savez(SCORES, line=LINE, scores=scores[:, 0].numpy())


if __name__ == "__main__":
    main()
