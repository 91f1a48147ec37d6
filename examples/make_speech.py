"""Make speech.wav: two synthetic voices, pauses with faint noise, and sounds in a pause that are no speech.

apt-get install espeak-ng        (the committed file comes from espeak-ng 1.51)
python examples/make_speech.py

espeak-ng is GPL; what it says is not bound by its licence.
"""

import subprocess
import tempfile
import wave
from pathlib import Path

import numpy as np
from voice_activity import read_wav, resampled

WAV = Path(__file__).with_name("speech.wav")
RATE = 16000


def say(text: str, voice: str, speed: int) -> np.ndarray:
    """A sentence without the silence around it, as loud as the others."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-w", str(path), text], check=True)
        samples = resampled(*read_wav(path), RATE)
    (loud,) = np.nonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    return 0.08 * samples / np.sqrt(np.mean(samples**2))


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE))


def knock(rng: np.random.Generator) -> np.ndarray:
    """A burst of noise that dies away within a tenth of a second."""
    t = np.arange(int(0.12 * RATE)) / RATE
    return 0.25 * np.exp(-t / 0.02) * rng.standard_normal(len(t)) * np.minimum(t / 0.001, 1)


def beep() -> np.ndarray:
    """A tone as loud as the voices."""
    t = np.arange(int(0.25 * RATE)) / RATE
    return 0.12 * np.sin(2 * np.pi * 1000 * t) * np.minimum(1, np.minimum(t, t[::-1]) / 0.01)


def main() -> None:
    """Write the file, and tell where what is said begins and ends."""
    rng = np.random.default_rng(4)
    parts = [
        ("", silence(0.6)),
        ("speech", say("A network listens to this.", "en+f2", 165)),
        ("", silence(0.5)),
        ("knock", knock(rng)),
        ("", silence(0.15)),
        ("knock", knock(rng)),
        ("", silence(0.2)),
        ("beep", beep()),
        ("", silence(0.4)),
        ("speech", say("It knows a voice from a noise,", "en-us+m3", 165)),
        ("", silence(0.45)),
        ("speech", say("and remembers.", "en+f2", 150)),
        ("", silence(0.6)),
    ]
    sound = np.concatenate([samples for _, samples in parts])
    sound += 0.001 * rng.standard_normal(len(sound))
    begin = 0
    for name, samples in parts:
        if name:
            print(f"{name:8} {begin / RATE:6.2f} s to {(begin + len(samples)) / RATE:6.2f} s")
        begin += len(samples)
    with wave.open(str(WAV), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.rint(np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


if __name__ == "__main__":
    main()
