"""examples/amplifier.c: the exported amplifier gives the bits of the streamed model."""

import wave
from pathlib import Path

import numpy as np
import pytest
from commands import invoke
from embedded import STRICT, run, tool
from judge import same_bits

import numlstm

pytestmark = [pytest.mark.slow, pytest.mark.cpu_level]

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_wav_file_through_c_and_through_python(tmp_path):
    compiler = tool("cc", "gcc", "clang")
    invoke("export", EXAMPLES / "amplifier.json", "-o", tmp_path)
    source, library, play = EXAMPLES / "amplifier.c", tmp_path / "libnumlstm.a", tmp_path / "play"
    run(compiler, "-O2", "-std=c99", *STRICT, "-I", tmp_path, source, library, "-o", play)
    given, amplified = tmp_path / "given.wav", tmp_path / "amplified.wav"
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (3000, 2)).astype("<i2")
    with wave.open(str(given), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(samples.tobytes())
    run(play, tmp_path / "model.numlstm", given, amplified)
    sound = amplified.read_bytes()
    assert sound[:4] == b"RIFF" and sound[20:22] == b"\3\0" and len(sound) == 44 + samples.size * 4
    model = numlstm.load_model(EXAMPLES / "amplifier.json")
    x = samples.astype(np.float32)[:, :, None] / np.float32(32768)
    stream = model.stream(2)
    for sample in x[:3]:
        stream(sample)
    stream.reset()
    assert same_bits(np.frombuffer(sound[44:], "<f4").reshape(3000, 2, 1), model(x))
    assert same_bits(np.stack([stream(sample) for sample in x]), model(x))
