"""What the gates of a trained model do while somebody speaks: the picture of docs/trace.md.

pip install -e '.[onnx,plot]'
pip install --no-deps silero-vad
python examples/speech_gates.py examples/speech.wav --plot gates.png

The model is that of voice_activity.py, which stands beside this file and does all but the drawing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import voice_activity as vad
from PIL import Image  # which comes with matplotlib

import numlstm

SPEECH = "#d1495b"


def traced(wav: str | Path, model: str = vad.MODEL) -> tuple[numlstm.Trace, vad.Array]:
    """The trace of a sound, a step a window of 32 ms, and the first and last step of each segment of speech."""
    sound, rate = vad.read_wav(wav)
    detector = vad.Detector.load(vad.model_file(model), rate)
    samples = vad.resampled(sound, rate, detector.rate)
    trace = detector.lstm.trace(detector.features(samples))
    probabilities = detector.read_out(trace.output)
    segments = vad.speech_segments(probabilities, detector.window, len(samples), detector.rate, vad.THRESHOLD)
    return trace, segments / detector.window


def draw(trace: numlstm.Trace, segments: vad.Array, title: str) -> Any:
    """The picture of the trace, with the segments of speech marked above."""
    figure = numlstm.plot_trace(trace, title=title)
    axes = {axes.get_label(): axes for axes in figure.get_axes()}
    above = axes["l0.input"].get_xaxis_transform()
    for begin, end in segments:
        line, word = (begin - 0.5, end - 0.5), (begin + end - 1) / 2
        axes["l0.input"].plot(line, (1.05, 1.05), color=SPEECH, linewidth=3, transform=above, clip_on=False)
        axes["l0.input"].text(word, 1.08, "speech", color=SPEECH, ha="center", va="bottom", transform=above, fontsize=8)
    axes["l0.h"].set_xlabel("step, a window of 32 ms")
    return figure


def save(figure: Any, path: str | Path) -> None:
    """Write a PNG of 256 colours, a third of one of all."""
    figure.set_dpi(90)
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    image.quantize(256, dither=Image.Dither.NONE).save(path, format="png", optimize=True)


def main(given: list[str] | None = None) -> None:
    """The command; what goes wrong is a sentence."""
    parser = argparse.ArgumentParser(description="Draw the gates of Silero VAD over a WAV file.")
    parser.add_argument("wav", help="integer samples, 8 to 192 kHz, any number of channels")
    parser.add_argument("--plot", metavar="PNG", required=True, help="where to")
    parser.add_argument("--model", default=vad.MODEL, help="a file of the package silero-vad, or a path")
    asked = parser.parse_args(given)
    try:
        trace, segments = traced(asked.wav, asked.model)
        save(draw(trace, segments, f"{Path(asked.wav).name}, Silero VAD"), asked.plot)
    except (OSError, ValueError, ImportError) as error:
        raise SystemExit(f"speech_gates: {error}") from None
    print(f"{asked.plot}: {trace}")


if __name__ == "__main__":
    main()
