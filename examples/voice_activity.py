"""Speech and silence in a WAV file, by a trained model: numlstm runs its LSTM, NumPy the rest.

pip install -e '.[onnx,plot]'
pip install --no-deps silero-vad
python examples/voice_activity.py examples/speech.wav --plot voice_activity.png

The model is Silero VAD (https://github.com/snakers4/silero-vad, MIT licence). Its package carries the model's files;
its Python code, which needs PyTorch, is not imported, and nothing of it is copied here. What the model computes was
read from the graph in its ONNX file; docs/voice_activity.md says it in words.
"""

from __future__ import annotations

import argparse
import wave
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from math import ceil, gcd
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import numlstm

Array = NDArray[Any]
Layer = tuple[Array, Array]  # kernel (channels out, channels in, steps) and bias

MODEL = "silero_vad.onnx"
RATES = {(258, 1, 256): 16000, (130, 1, 128): 8000}  # shape of the Fourier basis, and the rate that the model is for
STRIDES = (1, 2, 2, 1)  # of the four convolutions
HIGHEST_RATE = 192_000
BLOCK = 512  # windows that go through the encoder at a time: an hour of sound takes it no more memory than 16 s

# The rule that makes segments of probabilities, with the defaults of the model's authors: the docstring of
# get_speech_timestamps in silero_vad/utils_vad.py
THRESHOLD = 0.5
LEAVE_BELOW = 0.15  # under the threshold
MIN_SILENCE, MIN_SPEECH, PAD = 0.100, 0.250, 0.030  # seconds


# ------------------------------------------------------------ sound


def read_wav(path: str | Path) -> tuple[Array, int]:
    """Samples in [-1, 1) and their rate; channels are averaged."""
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path}: no WAV file of integer samples: {str(error) or 'it ends too early'}") from None
    if width == 1:  # the only width without a sign
        numbers = np.frombuffer(data, np.uint8) / np.float32(128) - np.float32(1)
    else:
        whole = len(data) // width * width
        bytes_ = np.frombuffer(data[:whole], np.uint8).reshape(-1, width)
        top = np.zeros((len(bytes_), 4), np.uint8)  # of a 32-bit integer; 24 bits have no dtype
        top[:, 4 - width :] = bytes_
        numbers = top.view("<i4")[:, 0] / np.float32(2**31)
    frames = len(numbers) // channels
    if frames == 0:
        raise ValueError(f"{path}: it holds no sound")
    return numbers[: frames * channels].reshape(frames, channels).mean(axis=1, dtype=np.float32), rate


def resampled(samples: Array, rate: int, wanted: int) -> Array:
    """The sound at a lower rate: its spectrum up to half of that rate, transformed back."""
    if rate == wanted:
        return samples
    common = gcd(rate, wanted)
    whole = ceil(len(samples) / (rate // common))  # with silence at the end the two lengths have the rates' ratio
    before, after = whole * (rate // common), whole * (wanted // common)
    spectrum = np.fft.rfft(samples, before)[: after // 2 + 1]
    return (np.fft.irfft(spectrum, after) * (after / before)).astype(np.float32)


# ------------------------------------------------------------ model


@dataclass(frozen=True)
class Detector:
    """The parameters of the model for one sample rate, and what it computes."""

    rate: int
    fourier: Array  # (2 * bins, 1, steps): cosines, then sines, each under a window
    encoder: tuple[Layer, ...]
    lstm: numlstm.LSTM
    head: Layer

    @classmethod
    def load(cls, path: str | Path, rate: int) -> Detector:
        """The model in a file of the package, of whatever format, for the highest rate up to this one."""
        tensors = {name: array for name, array in numlstm.load_tensors(path).items() if array.dtype.kind == "f"}
        bases = {RATES[array.shape]: name for name, array in tensors.items() if array.shape in RATES and "stft" in name}
        if not bases:
            raise ValueError(f"{path}: none of its tensors is the Fourier basis of a Silero VAD")
        fit = [own_rate for own_rate in bases if own_rate <= rate]
        if not fit:
            raise ValueError(f"{path}: its model is for {min(bases)} Hz or more, and the sound has {rate} Hz")
        basis = bases[max(fit)]
        prefix = basis.partition("stft")[0]  # of every name in the model; a file may hold the models of both rates
        own = {name: array.astype(np.float32) for name, array in tensors.items() if name.startswith(prefix)}

        def layer(*shape: int) -> Layer:
            """The kernel of this shape, which each layer has for itself, and its bias."""
            biases = {name: name.removesuffix("weight") + "bias" for name in own if own[name].shape == shape}
            found = [(own[name], own[bias]) for name, bias in biases.items() if bias in own]
            if len(found) != 1:
                raise ValueError(f"{path}: {len(found)} layers have a kernel of shape {shape}; in a Silero VAD one has")
            return found[0]

        bins = len(own[basis]) // 2
        encoder = layer(128, bins, 3), layer(64, 128, 3), layer(64, 64, 3), layer(128, 64, 3)
        return cls(max(fit), own[basis], encoder, load_lstm(path, prefix), layer(1, 128, 1))

    @property
    def window(self) -> int:
        """Samples of a window: 32 ms of them."""
        steps: int = self.fourier.shape[2]
        return 2 * steps

    def probabilities(self, samples: Array) -> Array:
        """Of speech, for each window of the sound."""
        states, _ = self.lstm(self.features(samples))  # every window in one call: here is the memory of what was heard
        return self.read_out(states)

    def features(self, samples: Array) -> Array:
        """128 features for each window, which know nothing of each other."""
        cut = windows(samples, self.window)
        blocks = [self.encode(self.spectrum(cut[at : at + BLOCK])) for at in range(0, len(cut), BLOCK)]
        return np.concatenate(blocks)

    def spectrum(self, cut: Array) -> Array:
        """Magnitudes, (windows, 4 steps, bins), of windows of samples."""
        steps = self.fourier.shape[2]
        mirrored = np.pad(cut, ((0, 0), (0, steps // 4)), mode="reflect")
        transformed = convolution(mirrored[:, :, None], self.fourier, stride=steps // 2)
        real, imaginary = np.split(transformed, 2, axis=2)
        magnitudes: Array = np.sqrt(real**2 + imaginary**2)
        return magnitudes

    def encode(self, x: Array) -> Array:
        """Features of windows from their spectra: four convolutions, after which 4 steps are 4, 2, 1 and 1."""
        for (kernel, bias), stride in zip(self.encoder, STRIDES, strict=True):
            x = np.maximum(convolution(np.pad(x, ((0, 0), (1, 1), (0, 0))), kernel, stride) + bias, 0)
        return x[:, 0]

    def read_out(self, states: Array) -> Array:
        """Probabilities from the states of the LSTM."""
        kernel, bias = self.head
        logits: Array = np.maximum(states, 0) @ kernel[0, :, 0] + bias
        half: Array = np.tanh(0.5 * logits) / 2
        return half + 0.5  # the logistic function, without overflow


def load_lstm(path: str | Path, prefix: str) -> numlstm.LSTM:
    """The LSTM of the model whose names begin so; one layer, over as many steps as one likes."""
    names = [found.name for found in numlstm.list_lstms(path) if found.name.startswith(prefix)]
    if len(names) != 1:
        raise ValueError(f"{path}: it holds {len(names)} LSTMs under {prefix!r}; a Silero VAD has one")
    cell = numlstm.load(path, names[0])
    if isinstance(cell, numlstm.LSTM):
        return cell
    # A cell computes one step. An LSTM of one layer with its parameters computes the same bits for a whole sequence.
    lstm = numlstm.LSTM(cell.input_size, cell.hidden_size, bias=cell.bias, dtype=cell.dtype)
    lstm.load_state_dict({f"{name}_l0": array for name, array in cell.state_dict().items()})
    return lstm.eval()


def windows(samples: Array, size: int) -> Array:
    """Windows of this many samples, each behind the last eighth of the one before; silence before and after."""
    context = size // 8
    padded = np.pad(samples, (context, -len(samples) % size))
    return np.lib.stride_tricks.sliding_window_view(padded, context + size)[::size]


def convolution(x: Array, kernel: Array, stride: int) -> Array:
    """(batch, steps, channels in) to (batch, fewer steps, channels out), as one matrix product."""
    taps = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2], axis=1)[:, ::stride]
    product: Array = taps.reshape(-1, kernel[0].size) @ kernel.reshape(len(kernel), -1).T
    return product.reshape(*taps.shape[:2], len(kernel))


# ------------------------------------------------------------ segments


def speech_segments(probabilities: Array, window: int, length: int, rate: int, threshold: float) -> Array:
    """First and last sample, (segments, 2), of what is taken for speech.

    Speech begins where a probability reaches the threshold, and ends where it falls 0.15 below it and does not reach
    it again for 100 ms. What is no longer than 250 ms is dropped; the rest begins and ends 30 ms further out.
    """
    leave = max(threshold - LEAVE_BELOW, 0.01)
    segments: list[tuple[int, int]] = []
    begin = end = None
    for at, probability in zip(range(0, len(probabilities) * window, window), probabilities, strict=True):
        if probability >= threshold:
            begin, end = at if begin is None else begin, None
        elif begin is not None and probability < leave:
            end = at if end is None else end
            if at - end >= MIN_SILENCE * rate:
                segments.append((begin, end))
                begin = end = None
    if begin is not None:
        segments.append((begin, length))
    long = np.array(segments, int).reshape(-1, 2)
    long = long[long[:, 1] - long[:, 0] > MIN_SPEECH * rate]
    padded: Array = np.clip(long + np.array([-1, 1]) * int(PAD * rate), 0, length)
    return padded


# ------------------------------------------------------------ what a person sees


@dataclass(frozen=True)
class Detection:
    """What was found in a sound, and the milliseconds that it took."""

    name: str
    samples: Array
    rate: int
    window: int
    threshold: float
    probabilities: Array
    segments: Array
    milliseconds: dict[str, float]

    @classmethod
    def of(cls, name: str, samples: Array, detector: Detector, threshold: float) -> Detection:
        """Run the model's three parts one after the other, each over the whole sound."""
        detector.probabilities(samples[:1])  # a process's first call loads machine code, which is not to be timed
        times = [perf_counter()]
        features = detector.features(samples)
        times.append(perf_counter())
        states, _ = detector.lstm(features)
        times.append(perf_counter())
        probabilities = detector.read_out(states)
        times.append(perf_counter())
        took = [1000 * (end - start) for start, end in pairwise(times)]
        milliseconds = dict(zip(("encoder", "LSTM", "read-out"), took, strict=True))
        window, rate = detector.window, detector.rate
        segments = speech_segments(probabilities, window, len(samples), rate, threshold)
        return cls(name, samples, rate, window, threshold, probabilities, segments, milliseconds)

    def summary(self) -> str:
        """Where there is speech, and how long it took to find out."""
        length = len(self.samples) / self.rate
        spoken = (self.segments[:, 1] - self.segments[:, 0]).sum() / self.rate
        lines = [f"speech: {spoken:.2f} s of {length:.2f} s, in {len(self.segments)} segments"]
        for begin, end in self.segments / self.rate:
            lines.append(f"  {begin:8.2f} s to {end:8.2f} s")
        took = ", ".join(f"{name} {duration:.2f}" for name, duration in self.milliseconds.items())
        lines.append(f"{len(self.probabilities)} windows in {sum(self.milliseconds.values()):.1f} ms: {took}")
        return "\n".join(lines)

    def draw(self, path: str) -> None:
        """Write a PNG: the waveform with speech in colour, and the probability below it."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("--plot needs matplotlib: pip install 'matplotlib>=3.8'") from None

        figure = Figure(figsize=(9.6, 4.6), layout="constrained")
        FigureCanvasAgg(figure)  # no window, no global state
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        speech, silence, line = "#d1495b", "#8d99ae", "#30638e"

        at, low, high = envelope(self.samples)
        spoken = ((self.segments[:, :1] <= at) & (at < self.segments[:, 1:])).any(axis=0)
        above.fill_between(at / self.rate, low, high, color=silence, linewidth=0.5)
        above.fill_between(at / self.rate, low, high, where=spoken, color=speech, linewidth=0.5)
        top = 1.3 * max(float(np.abs(self.samples).max()), 1e-3)
        for begin, end in self.segments / self.rate:
            for axes in (above, below):
                axes.axvspan(begin, end, color=speech, alpha=0.12, linewidth=0)
            label = f"{begin:.2f} to {end:.2f} s"
            above.text((begin + end) / 2, 0.96 * top, label, ha="center", va="top", color=speech, fontsize=9)
        above.set_ylim(-top, top)
        above.set_ylabel("waveform")
        above.set_title(f"{self.name}: speech found by Silero VAD, its LSTM run by numlstm", loc="left", fontsize=11)

        edges = np.arange(len(self.probabilities) + 1) * self.window / self.rate
        below.stairs(self.probabilities, edges, color=line, fill=True, alpha=0.25)
        below.stairs(self.probabilities, edges, color=line, linewidth=1.3, baseline=None)
        below.axhline(self.threshold, color="#222222", linewidth=1, linestyle=(0, (4, 3)))
        below.set_yticks(sorted({0.0, self.threshold, 1.0}))
        below.set_ylim(0, 1.02)
        below.set_xlim(0, len(self.samples) / self.rate)
        below.set_ylabel("probability")
        below.set_xlabel("seconds")
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="x", alpha=0.25)
        figure.savefig(path, dpi=100, format="png")


def envelope(samples: Array, columns: int = 2000) -> tuple[Array, Array, Array]:
    """First sample, lowest and highest value of each column of a waveform."""
    at = np.unique(np.linspace(0, len(samples), columns, endpoint=False, dtype=int))
    return at, np.minimum.reduceat(samples, at), np.maximum.reduceat(samples, at)


# ------------------------------------------------------------ command line


def model_file(name: str) -> Path:
    """The path itself, or the file of that name in the package silero-vad, which is found and not imported."""
    path = Path(name)
    if path.exists() or path.name != name:
        return path
    package = find_spec("silero_vad")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{name} is a file of the package silero-vad, which is not installed: pip install --no-deps silero-vad\n"
            "Without --no-deps it brings PyTorch along, which is not needed here."
        )
    return Path(package.submodule_search_locations[0]) / "data" / name


def arguments(given: list[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Find speech in a WAV file.")
    parser.add_argument("wav", help="integer samples, 8 to 192 kHz, any number of channels")
    parser.add_argument("--plot", metavar="PNG", help="draw waveform, probability and segments")
    parser.add_argument("--model", default=MODEL, help=f"a file of the package silero-vad, or a path (default {MODEL})")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="of the probability (default 0.5)")
    return parser.parse_args(given)


def run(asked: argparse.Namespace) -> None:
    """Read, detect, tell and draw."""
    if not 0 < asked.threshold < 1:
        raise ValueError(f"--threshold must be between 0 and 1, not {asked.threshold:g}")
    sound, recorded = read_wav(asked.wav)
    if not min(RATES.values()) <= recorded <= HIGHEST_RATE:
        raise ValueError(
            f"{asked.wav}: its rate is {recorded} Hz; from {min(RATES.values())} to {HIGHEST_RATE} Hz can be read"
        )
    detector = Detector.load(model_file(asked.model), recorded)
    samples = resampled(sound, recorded, detector.rate)
    detection = Detection.of(Path(asked.wav).name, samples, detector, asked.threshold)
    taken_as = "" if recorded == detector.rate else f", resampled to {detector.rate} Hz"
    print(f"{detection.name}: {len(sound) / recorded:.2f} s at {recorded} Hz{taken_as}")
    print(f"model: {asked.model}, {detector.lstm}")
    print(detection.summary())
    if asked.plot:
        detection.draw(asked.plot)
        print(f"plot: {asked.plot}")


def main(given: list[str] | None = None) -> None:
    """The command; what goes wrong is a sentence."""
    try:
        run(arguments(given))
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"voice_activity: {error}") from None


if __name__ == "__main__":
    main()
