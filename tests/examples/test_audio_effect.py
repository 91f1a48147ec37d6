"""examples/audio_effect.py: the compiled loop has the bits of one forward call, and it sounds like an amplifier."""

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from judge import same_bits
from needs import need
from scripts import script

import numlstm

pytestmark = pytest.mark.cpu_level

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "audio_effect.py"
RATE = 16_000


@pytest.fixture(scope="module")
def example():
    need("numba")
    return script(SCRIPT)


@pytest.fixture(scope="module")
def built(example):
    return example.built(RATE)


def tone(pitch, loudness, seconds=1.0, rate=RATE):
    t = np.arange(int(seconds * rate)) / rate
    return loudness * np.sin(2 * np.pi * pitch * t)[:, None]


def partials(sound, pitch, rate=RATE):
    """Loudness of 0 Hz, of a tone and of its overtones, of the sound's last half second."""
    last = sound[-rate // 2 :, 0]
    spectrum = 2 * np.abs(np.fft.rfft(last)) / len(last)
    return spectrum[[int(pitch * k / 2) for k in range(6)]]


@pytest.mark.slow
def test_the_loop_has_the_bits_of_one_call(example, built):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (3000, 2)).astype(np.float32)
    y = example.amplified(built, x)
    quiet = np.zeros((example.WARM_UP, 2), np.float32)
    h = built.lstm(np.concatenate([quiet, x])[:, :, None])[0][example.WARM_UP :]
    want = np.full_like(x, np.float32(built.head_bias)) + np.float32(built.skip) * x
    for k, weight in enumerate(built.head_weight.astype(np.float32)):
        want = want + weight * h[:, :, k]
    # what Numba makes of the head may use a fused multiply-add; the LSTM's part is bit for bit the call's
    np.testing.assert_allclose(y, want, atol=2e-5)
    assert same_bits(example.amplified(built, x[:, 1:])[:, 0], y[:, 1])  # a channel does not hear the other
    one_unit = built._replace(head_weight=np.eye(1, 40, 7)[0], head_bias=0.0)
    assert same_bits(example.amplified(one_unit, x), np.ascontiguousarray(h[:, :, 7]))


def test_a_stream_in_use_ends_the_loop(example, built):
    stream = built.lstm.stream()
    x, y = np.ones((5, 1), np.float32), np.zeros((5, 1), np.float32)
    weight = built.head_weight.astype(np.float32)
    stream._record[0] = 1
    step = numlstm.step_function()
    given = stream.input, stream.output, stream.address, weight, np.float32(0), np.float32(0)
    assert example.run(step, x, y, *given) == 0 and not y.any()
    stream._record[0] = 0
    assert example.run(step, x, y, *given) == 5 and y.any()


def test_it_amplifies(example, built):
    """Quiet tones become louder, loud ones saturate, and overtones come that were not there."""
    quiet, loud = (partials(example.amplified(built, tone(440, x)), 440) for x in (0.02, 0.8))
    assert quiet[1] > 2 * 0.02 and loud[1] < 2 * 0.8
    assert loud[3] > 0.1 * loud[1] and quiet[3] < 0.15 * quiet[1]
    assert partials(tone(440, 0.8), 440)[3] < 1e-3  # what goes in has none
    assert loud[0] < 0.05  # nothing drifts
    # fuller distortion with more gain, as from an amplifier
    shares = [p[3] / p[1] for p in (partials(example.amplified(built, tone(440, x)), 440) for x in (0.05, 0.2, 0.8))]
    assert shares == sorted(shares)


def test_it_is_near_the_textbook_and_silent_in_silence(example, built):
    x = example.riff(RATE)
    assert x.shape == (4 * RATE, 1) and 0.69 < np.abs(x).max() < 0.71
    got, want = example.amplified(built, x)[:, 0], example.textbook(x[:, 0], RATE)
    assert np.corrcoef(got, want)[0, 1] > 0.93
    assert abs(np.corrcoef(x[:, 0], want)[0, 1]) < 0.93  # what is only louder is not near
    assert np.abs(example.amplified(built, np.zeros((500, 1)))).max() < 1e-3


def guitarml(path, units=8, **changes):
    """A file as GuitarML's trainers write it, and its LSTM."""
    lstm = numlstm.LSTM(1, units, seed=1).eval()
    state = {f"rec.{name}": array.tolist() for name, array in lstm.state_dict().items()}
    rng = np.random.default_rng(2)
    head = rng.standard_normal((1, units)).astype(np.float32)
    state |= {"lin.weight": head.tolist(), "lin.bias": [0.25]}
    about = {"model": "SimpleRNN", "input_size": 1, "skip": 1, "output_size": 1, "unit_type": "LSTM", "num_layers": 1}
    about |= {"hidden_size": units, "bias_fl": True} | changes
    path.write_text(json.dumps({"model_data": about, "state_dict": state}))
    return lstm, head


def test_trained_models_of_others(example, tmp_path):
    lstm, head = guitarml(tmp_path / "amp.json")
    from safetensors.numpy import save_file

    tensors = {f"rec.{name}": array for name, array in lstm.state_dict().items()} | {"lin.weight": head}
    save_file(tensors | {"lin.bias": np.full(1, 0.25, np.float32)}, tmp_path / "amp.safetensors")
    save_file(tensors, tmp_path / "no bias.safetensors")
    x = np.random.default_rng(0).uniform(-1, 1, (400, 1)).astype(np.float32)
    quiet = np.zeros((example.WARM_UP, 1), np.float32)
    h = lstm(np.concatenate([quiet, x]))[0][example.WARM_UP :]
    for name, bias in (("amp.json", 0.25), ("amp.safetensors", 0.25), ("no bias.safetensors", 0)):
        amplifier = example.loaded(tmp_path / name)
        np.testing.assert_allclose(example.amplified(amplifier, x), h @ head.T + bias + x, atol=1e-5)
    guitarml(tmp_path / "dry.json", skip=0)
    assert example.loaded(tmp_path / "dry.json").skip == 0


def test_heads_of_keras_and_of_neural_amp_modeler(example, tmp_path):
    net = numlstm.LSTM(1, 3, seed=1).eval()
    ahead, back, *biases = net.state_dict().values()
    head = np.array([0.5, -1, 0.25], np.float32)
    layers = [[ahead.T, back.T, sum(biases)], [head[:, None], np.array([0.25])]]
    entries = [{"type": kind, "activation": "", "weights": [a.tolist() for a in given]}
               for kind, given in zip(("lstm", "dense"), layers, strict=True)]  # fmt: skip
    (tmp_path / "aida.json").write_text(json.dumps({"in_shape": [None, None, 1], "in_skip": 1, "layers": entries}))
    flat = np.concatenate([np.hstack([ahead, back]).ravel(), sum(biases), np.zeros(6), head, [0.25]])
    config = {"input_size": 1, "hidden_size": 3, "num_layers": 1}
    model = {"architecture": "LSTM", "config": config, "weights": flat.tolist()}
    (tmp_path / "amp.nam").write_text(json.dumps(model))
    x = np.random.default_rng(0).uniform(-1, 1, (400, 1)).astype(np.float32)
    h = net(np.concatenate([np.zeros((example.WARM_UP, 1), np.float32), x]))[0][example.WARM_UP :]
    for name, skip in (("aida.json", 1), ("amp.nam", 0)):
        sound = example.amplified(example.loaded(tmp_path / name), x)
        np.testing.assert_allclose(sound, h @ head[:, None] + 0.25 + skip * x, atol=1e-5)


def test_the_file_beside_is_the_built_amplifier(example, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    make = script(EXAMPLES / "make_amplifier.py")
    amplifier, built = example.loaded(make.PATH), example.built(example.RATE)
    assert repr(amplifier.lstm) == "LSTM(1, 40)" and amplifier.skip == 0
    x = example.riff()[:2000]
    np.testing.assert_allclose(example.amplified(amplifier, x), example.amplified(built, x), atol=1e-5)
    make.main(tmp_path / "made.json")
    made = numlstm.load_tensors(tmp_path / "made.json")
    for name, array in numlstm.load_tensors(make.PATH).items():
        np.testing.assert_allclose(made[name], array, rtol=0.05, atol=0.05)  # least squares differ a little by CPU


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("a.json", lambda path: guitarml(path, hidden_size=9), "does not fit its tensors"),
        ("b.json", lambda path: path.write_text("{}"), "no model that is known"),
        ("c.json", lambda path: path.write_text("hello"), "no format that is known"),
        ("d.npz", lambda path: numlstm.LSTM(1, 4).save(path), "one head of shape .1, 4. is expected, not none"),
        ("e.npz", lambda path: numlstm.LSTM(2, 4).save(path), "one input and one direction are expected"),
        ("f.wav", lambda path: path.write_bytes(b"RIFF"), "f.wav"),
    ],
)
def test_models_that_are_none(example, tmp_path, name, write, says):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=says):
        example.loaded(tmp_path / name)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files_of_every_width(example, tmp_path, width, channels):
    numbers = np.random.default_rng(0).integers(-100, 100, (50, channels))
    shifted = numbers + 128 if width == 1 else numbers << (8 * (width - 1))
    with wave.open(str(tmp_path / "in.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(shifted.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :width].tobytes())
    samples, rate = example.read_wav(tmp_path / "in.wav")
    assert rate == 8000 and np.array_equal(samples, numbers / 128)
    assert example.write_wav(tmp_path / "out.wav", samples, rate) == 1
    again, _ = example.read_wav(tmp_path / "out.wav")
    assert np.abs(again - samples).max() < 1e-4
    assert example.write_wav(tmp_path / "loud.wav", samples * 8, rate) < 1
    assert np.abs(example.read_wav(tmp_path / "loud.wav")[0]).max() <= 0.981


@pytest.mark.slow
def test_the_command(example, tmp_path):
    out = tmp_path / "out.wav"
    done = subprocess.run(
        [sys.executable, SCRIPT, out, "--input", EXAMPLES / "speech.wav", "--gain", "6"],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert "built: LSTM(1, 40), 1 channel(s)" in done.stdout and "times as fast as it is played" in done.stdout
    sound, rate = example.read_wav(out)
    given, _ = example.read_wav(EXAMPLES / "speech.wav")
    assert rate == RATE and sound.shape == given.shape and np.abs(sound).max() > 0.5
    guitarml(tmp_path / "amp.json")
    example.main([str(out), "--model", str(tmp_path / "amp.json")])
    sound, rate = example.read_wav(out)
    assert rate == 44_100 and len(sound) == 4 * rate
    for wrong in (["--input", str(tmp_path / "none.wav")], ["--model", str(SCRIPT)], ["--input", str(SCRIPT)]):
        with pytest.raises(SystemExit):
            example.main([str(out), *wrong])
