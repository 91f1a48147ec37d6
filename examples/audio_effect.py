"""A guitar amplifier on a WAV file, sample by sample: a stream's step inside a loop that Numba compiles.

pip install -e .
python examples/audio_effect.py amplified.wav                       # a riff of plucked strings, amplified
python examples/audio_effect.py amplified.wav --input guitar.wav    # a recording of your own
python examples/audio_effect.py amplified.wav --input guitar.wav --model examples/amplifier.json

Amplifiers are modelled by an LSTM with one input and some 40 units, a Linear head, and often the input added to its
output (A. Wright, E.-P. Damskägg, V. Välimäki: Real-time black-box modelling with recurrent neural networks, DAFx-19).
``--model`` gives one that somebody has trained: a .json file of GuitarML's Proteus or of AIDA-X, a .nam file, or any
other file that numlstm.load reads, with a head of one output beside the LSTM. Without one the amplifier is built
here, for no trained weights come with this example; amplifier.json, which make_amplifier.py writes, holds the same one.
`built` says how. It is an amplifier in the textbook's sense, and has the sound of none that you can buy.

The loop runs without Python and without the GIL, and what it allocates is nothing: it could as well be the callback
of a sound card.
"""

from __future__ import annotations

import argparse
import json
import wave
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

import numlstm

Array = NDArray[Any]
UNITS = 40
WARM_UP = 8192  # samples of silence until an amplifier is at rest
E2, G2, A2, B2, D3, E3 = 82.4, 98.0, 110.0, 123.5, 146.8, 164.8  # hertz
RIFF = ((0, E2), (0, B2), (1, E2), (2, G2), (2, D3), (3, A2), (3, E3), (4, E2), (4, B2), (4, E3))  # beat, pitch
BEAT, RATE = 0.5, 44_100  # seconds, samples a second


class Amplifier(NamedTuple):
    """output = head_weight @ h + head_bias + skip * input, with h of the LSTM."""

    lstm: Any
    head_weight: Array  # (proj_size or hidden_size,)
    head_bias: float
    skip: float


# ------------------------------------------------------------ the loop


@numba.njit(nogil=True)
def run(step, x, y, live_input, live_output, address, weight, bias, skip):  # type: ignore[no-untyped-def]
    """Samples ``x`` of (samples, channels) through the stream at ``address``, which has a row for each channel.

    ``step`` is the C function that `numlstm.step_function` gives.

    Returns how many samples are done: fewer than there are only if another thread is in the stream.
    """
    for t in range(len(x)):
        live_input[:, 0] = x[t]
        if step(address) != 0:
            return t
        for row in range(live_output.shape[0]):
            sample = bias + skip * x[t, row]
            for k in range(len(weight)):
                sample += weight[k] * live_output[row, k]
            y[t, row] = sample
    return len(x)


def amplified(amplifier: Amplifier, samples: Array) -> Array:
    """The sound (samples, channels) after the amplifier, from silence on."""
    stream = amplifier.lstm.stream(batch_size=samples.shape[1])
    stream(np.zeros((WARM_UP, samples.shape[1], 1), np.float32))
    x, weight = np.ascontiguousarray(samples, np.float32), amplifier.head_weight.astype(np.float32)
    y = np.empty_like(x)
    bias, skip = np.float32(amplifier.head_bias), np.float32(amplifier.skip)
    step = numlstm.step_function(stream.dtype)
    done = run(step, x, y, stream.input, stream.output, stream.address, weight, bias, skip)
    assert done == len(x)  # nobody else has the stream
    return y


# ------------------------------------------------------------ amplifiers


def built(rate: int) -> Amplifier:
    """An amplifier without training: the units are given, and the head is fitted to a textbook's amplifier.

    With W_hh = 0 and gates i, f and o that do not look at the input, a unit is
    c <- f c + i tanh(drive x + bias), h = tanh(c) / 2: a valve that saturates, a low-pass of one pole, and
    another valve. Drives, biases (which make it asymmetric, and so the even harmonics) and poles are spread over the
    units; the head, by least squares over a sweep that grows louder, is what mixes them to come near `textbook`.
    """
    lstm = numlstm.LSTM(1, UNITS).eval()
    parameters = {name: np.zeros_like(array) for name, array in lstm.state_dict().items()}
    k = np.arange(UNITS)
    pole = np.exp(-2 * np.pi * 60 * (6000 / 60) ** (k % 8 / 7) / rate)  # corners from 60 Hz to 6 kHz
    drive, offset = 0.5 * 4.0 ** (k // 8), np.where(k % 2, 0.4, -0.2)
    weight, bias = parameters["weight_ih_l0"], parameters["bias_ih_l0"]
    i, f, g = (slice(n * UNITS, (n + 1) * UNITS) for n in range(3))
    bias[f] = np.log(pole / (1 - pole))
    bias[i] = -bias[f]  # sigmoid(-x) is 1 - sigmoid(x): the low-pass gives back what is constant
    bias[g] = offset
    weight[g, 0] = drive
    lstm.load_state_dict(parameters)
    t = np.arange(2 * rate // 40 * 40) / rate
    sweep = np.sin(2 * np.pi * 40 * t * (8000 / 40) ** (t / 2) / (1 + np.log(200) * t / 2)) * t / 2
    h, _ = lstm(sweep[:, None])
    silence = np.tanh(np.tanh(offset)) / 2  # h, when nothing is played for long
    columns, wanted = h - silence, textbook(sweep, rate)
    # averages over a twentieth of a second count much, lest the sound drift away from zero
    columns, wanted = (np.concatenate([a, 30 * a.reshape(40, -1, *a.shape[1:]).mean(1)]) for a in (columns, wanted))
    small = 1e-3 * len(columns) * np.eye(UNITS)  # of many mixtures that do, one without huge weights
    head = np.linalg.solve(columns.T @ columns + small, columns.T @ wanted)
    return Amplifier(lstm, head, float(-silence @ head), 0.0)


def textbook(x: Array, rate: int) -> Array:
    """What is to be resembled: no rumble, a valve driven hard and not quite evenly, the treble of a loudspeaker."""
    driven = np.tanh(8 * _high_pass(x, 120, rate) + 0.3) - np.tanh(0.3)
    low = _low_pass(_low_pass(driven, 5000, rate), 5000, rate)
    return _high_pass(low, 80, rate)


def _low_pass(x: Array, corner: float, rate: int) -> Array:
    """One pole, by its impulse response as far as it is heard."""
    keep = np.exp(-2 * np.pi * corner / rate)
    size = 1 << int(np.ceil(np.log2(2 * len(x))))
    response = (1 - keep) * keep ** np.arange(len(x))
    return np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(response, size), size)[: len(x)]


def _high_pass(x: Array, corner: float, rate: int) -> Array:
    return x - _low_pass(x, corner, rate)


def loaded(path: str | Path) -> Amplifier:
    """A trained amplifier: an LSTM and its head in any file that numlstm reads."""
    lstm, tensors = numlstm.load(path).float(), numlstm.load_tensors(path)
    lstm.batch_first = False  # `amplified` has the samples first, whatever the file's trainer had
    if lstm.input_size != 1 or lstm.bidirectional:
        raise ValueError(f"{path}: its LSTM is {lstm}; one input and one direction are expected")
    outputs = lstm.proj_size or lstm.hidden_size
    shapes = ((1, outputs), (outputs, 1))  # of PyTorch and of Keras
    weights = {name: array for name, array in tensors.items() if array.shape in shapes}
    if len(weights) != 1:
        raise ValueError(f"{path}: one head of shape (1, {outputs}) is expected, not {sorted(weights) or 'none'}")
    ((name, weight),) = weights.items()
    bias = tensors.get(name.removesuffix("weight").removesuffix("kernel") + "bias", np.zeros(1))
    return Amplifier(lstm, np.asarray(weight, np.float32).ravel(), float(bias[0]), skip_of(path))


def skip_of(path: str | Path) -> float:
    """How much of the input is added to the output: 1, unless a .json or .nam file says otherwise."""
    if Path(path).suffix.lower() == ".nam":
        return 0.0
    if Path(path).suffix.lower() != ".json":
        return 1.0
    document = json.loads(Path(path).read_text("utf-8"))
    return float(document["model_data"].get("skip", 1) if "model_data" in document else document.get("in_skip", 0))


# ------------------------------------------------------------ sound


def riff(rate: int = RATE) -> Array:
    """Plucked strings, (samples, 1): a burst of noise that goes round and fades (K. Karplus, A. Strong 1983)."""
    rng = np.random.default_rng(0)
    seconds = BEAT * (max(beat for beat, _ in RIFF) + 4)
    sound = np.zeros(int(seconds * rate))
    for beat, pitch in RIFF:
        start, period = int(beat * BEAT * rate), round(rate / pitch)
        string = rng.uniform(-1, 1, period)
        for at in range(start, len(sound) - period, period):
            sound[at : at + period] += string
            string = 0.498 * (string + np.roll(string, 1))
    return (0.7 * sound / np.abs(sound).max())[:, None]


def read_wav(path: str | Path) -> tuple[Array, int]:
    """Samples (samples, channels) in [-1, 1), and their rate."""
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = np.frombuffer(file.readframes(file.getnframes()), np.uint8)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path}: no WAV file of integer samples: {str(error) or 'it ends too early'}") from None
    frames = len(data) // (width * channels)
    if frames == 0:
        raise ValueError(f"{path}: it holds no sound")
    numbers = data[: frames * channels * width].reshape(-1, width)
    if width == 1:  # the only width without a sign
        numbers = numbers ^ 0x80
    top = np.zeros((len(numbers), 4), np.uint8)  # of a 32-bit integer; 24 bits have no dtype
    top[:, 4 - width :] = numbers
    return (top.view("<i4")[:, 0] / np.float32(2**31)).reshape(frames, channels), rate


def write_wav(path: str | Path, samples: Array, rate: int) -> float:
    """Write 16-bit samples, quieter where they would not fit; by how much."""
    volume = min(1.0, 0.98 / max(float(np.abs(samples).max()), 1e-9))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples * volume * 32767).astype("<i2").tobytes())
    return volume


def main(arguments: list[str] | None = None) -> None:
    """What the command does."""
    parser = argparse.ArgumentParser(description="A guitar amplifier on a WAV file, sample by sample.")
    parser.add_argument("output", type=Path, help="WAV file to write")
    parser.add_argument("--input", type=Path, help="WAV file to amplify; a riff is played if left out")
    parser.add_argument("--model", type=Path, help="a trained amplifier; one is built if left out")
    parser.add_argument("--gain", type=float, default=0.0, help="decibels before the amplifier: more distortion")
    given = parser.parse_args(arguments)
    try:
        samples, rate = (riff(), RATE) if given.input is None else read_wav(given.input)
        amplifier = built(rate) if given.model is None else loaded(given.model)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    samples = samples * 10 ** (given.gain / 20)
    amplified(amplifier, samples[:1])  # Numba compiles the loop
    begin = perf_counter()
    sound = amplified(amplifier, samples)
    took = perf_counter() - begin
    volume = write_wav(given.output, sound, rate)
    seconds = len(samples) / rate
    quieter = f", {-20 * np.log10(volume):.1f} dB quieter so that it fits" if volume < 1 else ""
    print(f"{'built' if given.model is None else given.model.name}: {amplifier.lstm}, {samples.shape[1]} channel(s)")
    print(f"{seconds:.2f} s of sound in {took:.3f} s, {seconds / took:.0f} times as fast as it is played")
    print(f"{took / len(samples) * 1e6:.2f} us a sample, of {1e6 / rate:.1f} us that there are")
    print(f"written to {given.output}{quieter}")


if __name__ == "__main__":
    main()
