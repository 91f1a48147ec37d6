"""docs/trace.md: its figures, and that its picture is the one that the script draws."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from needs import need, need_files

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "trace.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())


@pytest.fixture(scope="module")
def script():
    """The example as a module, which imports another one beside it."""
    need("onnx")
    need("matplotlib")
    need_files("silero_vad")
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield importlib.import_module("speech_gates")
    finally:
        sys.path.remove(str(EXAMPLES))
        for name in ("speech_gates", "voice_activity"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def traced(script):
    return script.traced(EXAMPLES / "speech.wav")


def figures(trace):
    """What the page says of the picture, from the numbers."""
    life, (_, opened) = trace.half_life("l0"), trace.saturation("l0", "f")
    slow = life > 1 / 0.032
    closed, _ = trace.saturation("l0", "i")
    said = (
        f"half of the {life.size} units have a half-life of less than a step (the median is {np.median(life):.2f};",
        f"{slow.sum()} units remember for more than a second. The longest has a half-life of {life.max():.0f} steps, "
        f"{life.max() * 0.032:.0f} s",
        f"open at {opened[slow].mean():.0%} of the steps and their input gates closed at {closed[slow].mean():.0%}",
    )
    return [sentence.replace("%", " %") for sentence in said]


def test_what_it_says_of_the_picture(traced):
    trace, segments = traced
    for said in figures(trace):
        assert said in WORDS
    squared = dataclasses.replace(trace["l0"], f=trace["l0"].f ** 2, i=trace["l0"].i ** 2)
    assert not any(said in WORDS for said in figures(dataclasses.replace(trace, cells={"l0": squared})))
    assert len(segments) == 3
    change = np.abs(np.diff(trace["l0"].c, axis=0))
    slow = trace.half_life("l0") > 1 / 0.032
    assert change[81:108][:, slow].mean() < 0.2 * change[81:108][:, ~slow].mean()  # knocks and beep


def test_the_picture_is_the_scripts(script, traced, tmp_path):
    Image = need("PIL.Image")
    trace, segments = traced

    def apart(trace):
        script.save(script.draw(trace, segments, "speech.wav, Silero VAD"), tmp_path / "a.png")
        drawn, stored = (Image.open(path).convert("RGB") for path in (tmp_path / "a.png", ROOT / "docs" / "trace.png"))
        assert drawn.size == stored.size
        return np.abs(np.asarray(drawn, float) - np.asarray(stored, float)).mean()

    assert apart(trace) < 3  # of 255; fonts differ a little from version to version
    other = script.traced(EXAMPLES / "speech.wav")[0]
    for array in vars(other["l0"]).values():
        array[...] = array[::-1].copy()
    assert apart(other) > 10
    assert (ROOT / "docs" / "trace.png").stat().st_size < 400_000
    for page in ("README.md", "docs/trace.md"):
        assert "trace.png" in (ROOT / page).read_text("utf-8")


def test_the_script_as_a_command(tmp_path):
    need("onnx")
    need("matplotlib")
    need_files("silero_vad")
    command = [sys.executable, EXAMPLES / "speech_gates.py", EXAMPLES / "speech.wav", "--plot", tmp_path / "a.png"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"{tmp_path / 'a.png'}: Trace(l0: 128 units; 232 steps, 1 row, float32)\n"
    command[2] = tmp_path / "no.wav"
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1 and ran.stderr.startswith("speech_gates: ") and "Traceback" not in ran.stderr
