"""examples/web: what the page shows in headless Chromium is what Python computes of the same sound."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from browsers import FMA, TOLERANCE, chromium
from commands import child
from judge import same_bits
from needs import need_files
from scripts import script

import numlstm

pytestmark = [pytest.mark.slow, pytest.mark.system]

EXAMPLES = Path(__file__).parents[2] / "examples"
RESULTS = "async () => { const [{ before, after }, speech] = await results; return [[...before], [...after], speech]; }"
PROBABILITY = 1e-4  # the encoder sums in JavaScript's float64; measured 1.9e-5


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    need_files("silero_vad")
    folder = tmp_path_factory.mktemp("site")
    child(EXAMPLES / "web" / "make.py", folder)
    return folder


def test_the_page(site, tmp_path):
    """The amplifier's sound, the probabilities of speech, pictures that are not empty, and nothing on the console."""
    with chromium(site) as page:
        page.page.goto(f"{page.address}/index.html")
        before, after, speech = page.page.evaluate(RESULTS)
        colours = page.page.evaluate(
            """() => [...document.querySelectorAll("canvas")].map((one) => new Set(new Uint32Array(
                 one.getContext("2d").getImageData(0, 0, one.width, one.height).data.buffer)).size)"""
        )
        page.page.wait_for_function("document.getElementById('meter-text').textContent.includes('a block of 128')")
        page.page.click("#play")
        page.page.wait_for_function("document.getElementById('play').textContent === 'Stop'")
        page.page.click("#play")
        page.page.wait_for_function("document.getElementById('play').textContent === 'Play'")
        assert page.page.inner_text("#error") == "" and not page.said
    x = np.array(before, np.float32)
    want = numlstm.load_model(EXAMPLES / "amplifier.json")(x.reshape(-1, 1, 1)).ravel()
    got = np.array(after, np.float32)
    assert len(got) > 7 * 48000 and x.any()
    assert same_bits(got, want) if FMA else np.abs(got - want).max() < TOLERANCE
    vad = script(EXAMPLES / "voice_activity.py")
    samples, rate = vad.read_wav(EXAMPLES / "speech.wav")
    probabilities = vad.Detector.load(vad.model_file(vad.MODEL), rate).probabilities(samples)
    assert np.abs(np.array(speech) - probabilities).max() < PROBABILITY
    assert len(colours) == 4 and all(count >= 2 for count in colours)


def test_a_page_that_fails_is_seen(site, tmp_path):
    """The console speaks of a model that is missing, and the page says it too."""
    folder = shutil.copytree(site, tmp_path / "site")
    (folder / "speech.numlstm").unlink()
    with chromium(folder) as page:
        page.page.goto(f"{page.address}/index.html")
        page.page.wait_for_function("document.getElementById('error').textContent !== ''")
        assert "speech.numlstm cannot be read: 404" in page.page.inner_text("#error")
        assert any("404" in line for line in page.said)
