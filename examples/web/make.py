"""Make the page of this folder: a guitar amplifier in an AudioWorklet, and speech and silence, both in the browser.

pip install -e '.[link,onnx]'
pip install --no-deps silero-vad
python examples/web/make.py site
python -m http.server -d site

Everything that the page needs is then in the folder `site`: the two models as WebAssembly, a sound, and the page.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numlstm
from numlstm import nn
from numlstm.export import MODEL, export

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import voice_activity as vad  # noqa: E402

RATE = 16000
PAGE = ("index.html", "page.js", "amplifier.js", "detector.js")


def detector_model(detector: vad.Detector) -> nn.Sequential:
    """The LSTM of the detector with its read-out, which give a probability a window."""
    kernel, bias = detector.head
    linear = nn.Linear(kernel.shape[1], 1)
    linear.load_state_dict({"weight": kernel[:, :, 0], "bias": bias})
    return nn.Sequential(detector.lstm, nn.relu, linear, nn.sigmoid)


def main(folder: Path) -> None:
    """Write the files of the page."""
    detector = vad.Detector.load(vad.model_file(vad.MODEL), RATE)
    models = {
        "amplifier": numlstm.load_model(HERE.parent / "amplifier.json"),
        "speech": detector_model(detector),
    }
    for name, model in models.items():
        export(model.eval(), folder, target="wasm32", echo=lambda line: None)
        (folder / MODEL).replace(folder / f"{name}.numlstm")  # one library serves both
    encoder = [detector.fourier, *(array for layer in detector.encoder for array in layer)]
    (folder / "encoder.bin").write_bytes(b"".join(array.astype("<f4").tobytes() for array in encoder))
    for path in (*(HERE / name for name in PAGE), HERE.parent / "speech.wav"):
        shutil.copy(path, folder)
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write")
    main(parser.parse_args().folder)
