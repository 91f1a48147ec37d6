"""The amplifier that trains: its losses are PyTorch's, and what it writes is one that audio_effect.py plays."""

from pathlib import Path

import numpy as np
import pytest
from needs import need
from scripts import script

import numlstm
from numlstm import optim

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 6


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return script(EXAMPLES / "train_amplifier.py")


def recording(example):
    dry = example.audio_effect.riff()[:, 0]
    wet = example.audio_effect.textbook(dry, example.audio_effect.RATE)
    return example.rows_of(dry), example.rows_of(wet)


def losses_of_torch(torch, example, x, y, carry=True):
    """The same training by PyTorch, from the same parameters."""
    lstm, head = torch.nn.LSTM(1, example.UNITS), torch.nn.Linear(example.UNITS, 1)
    for ours, theirs in zip(example.model(), (lstm, head), strict=True):
        theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    leaves = [*lstm.parameters(), *head.parameters()]
    optimiser, state, losses, energy = torch.optim.Adam(leaves, lr=5e-3), None, [], float(np.square(y).mean())
    for start in range(0, len(x), example.BLOCK):
        given, wanted = (torch.tensor(a[start : start + example.BLOCK]) for a in (x, y))
        output, state = lstm(given, state)
        state = tuple(s.detach() for s in state) if carry else None
        loss = torch.nn.functional.mse_loss(given + head(output), wanted) / energy
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(leaves, 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
def test_losses_are_those_of_torch(example):
    """Over steps of 2048 samples from whose states the next one goes on; without them the losses are others."""
    torch = need("torch")
    x, y = (array[: STEPS * example.BLOCK] for array in recording(example))
    lstm, head = example.model()
    ours = list(example.losses(lstm, head, x, y, optim.Adam([lstm, head], lr=5e-3)))
    assert len(ours) == STEPS and x.shape[1:] == (8, 1) and example.BLOCK == 2048
    assert np.abs(np.array(ours) / losses_of_torch(torch, example, x, y) - 1).max() < 1e-5
    assert np.abs(np.array(ours) / losses_of_torch(torch, example, x, y, carry=False) - 1).max() > 1e-4


def test_what_it_writes_can_be_played(example, tmp_path, capsys):
    path = tmp_path / "trained.safetensors"
    example.main([str(path), "--epochs", "3"])
    told = capsys.readouterr().out.splitlines()
    errors = [float(line.split()[3]) for line in told[:3]]
    assert errors[2] < 0.8 * errors[0] and "steps of 2048 samples and 8 rows" in told[3]
    amplifier = example.audio_effect.loaded(path)
    assert amplifier.skip == 1 and amplifier.lstm.hidden_size == 40
    assert numlstm.load_model(path)(np.zeros((4, 1))).shape == (4, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["out.safetensors", "--input", "a.wav"], "--input and --target go together"),
        (["out.safetensors", "--input", "absent.wav", "--target", "absent.wav"], "absent.wav"),
    ],
)
def test_what_cannot_be_is_said(example, arguments, says, capsys):
    with pytest.raises(SystemExit):
        example.main(arguments)
    assert says in capsys.readouterr().err


def test_recordings_too_short_or_of_two_lengths_are_refused(example, tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("short.wav", "long.wav")]
    for path, samples in zip(paths, (5000, 6000), strict=True):
        example.audio_effect.write_wav(path, np.zeros((samples, 1)), 8000)
    for pair, says in ((paths, "5000 at 8000 are expected"), (paths[:1] * 2, "8 rows of 2048 are the least")):
        with pytest.raises(SystemExit):
            example.main(["out.safetensors", "--input", pair[0], "--target", pair[1]])
        assert says in capsys.readouterr().err
